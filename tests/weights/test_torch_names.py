"""The names of torchvision and timm, written down again here as their modules define them."""

import jax
import numpy as np
import pytest

from resflax import create_model
from resflax.errors import DataError
from resflax.models.vgg import Vgg
from resflax.models.zoo import MODELS
from resflax.tree import digest, named_leaves
from resflax.weights.foreign import difference_to_torch, read_foreign, write_foreign
from resflax.weights.names import find_entries
from resflax.weights.network import abstract_variables, make_network
from resflax.weights.preparation import Preparation
from resflax.weights.torch_names import torch_naming, with_counters, without_counters


def about(name, num_classes=None, **kwargs):
    """The metadata of a weight file."""
    row = MODELS[name]
    preparation = Preparation(image_size=row.input_shape[0], interpolation="bicubic", crop_ratio=0.9)
    return {
        "format": 1,
        "model": name,
        "num_classes": num_classes or row.num_classes,
        "kwargs": kwargs,
        "class_names": None,
        "source": "a test",
        **preparation.metadata(),
    }


def shapes_there(metadata, convention="timm"):
    model = make_network(metadata)
    entries = find_entries(abstract_variables(model, metadata), torch_naming(model, convention), "a network")
    return {entry.name: entry.layout.theirs for entry in entries.values()}


def random_variables(metadata):
    rng = np.random.default_rng(0)
    abstract = abstract_variables(make_network(metadata), metadata)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), abstract)


class StateDict(dict):
    """Shapes by name, as the constructors of torch.nn would register them."""

    def conv(self, name, inputs, outputs, size, groups=1, bias=False):
        self[f"{name}.weight"] = (outputs, inputs // groups, size, size)
        if bias:
            self[f"{name}.bias"] = (outputs,)

    def norm(self, name, width, running=True):
        for part in ("weight", "bias", *(("running_mean", "running_var") if running else ())):
            self[f"{name}.{part}"] = (width,)

    def linear(self, name, inputs, outputs):
        self[f"{name}.weight"], self[f"{name}.bias"] = (outputs, inputs), (outputs,)


COUNTS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def timm_resnet(depth, deep=None, replace_pool=False, avg_down=False, se=None, groups=1, base_width=64):
    """timm's `ResNet.__init__`, with the arguments that the entry points give it."""
    state = StateDict()
    width = 64
    if deep:
        width = deep[2]
        state.conv("conv1.0", 3, deep[0], 3)
        state.norm("conv1.1", deep[0])
        state.conv("conv1.3", deep[0], deep[1], 3)
        state.norm("conv1.4", deep[1])
        state.conv("conv1.6", deep[1], deep[2], 3)
    else:
        state.conv("conv1", 3, 64, 7)
    state.norm("bn1", width)
    if replace_pool:
        state.conv("maxpool.0", width, width, 3)
        state.norm("maxpool.1", width)
    expansion = 4 if depth >= 50 else 1
    for stage, count in enumerate(COUNTS[depth]):
        planes = 64 * 2**stage
        inner = int(planes * base_width / 64) * groups
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            if expansion == 4:
                layers = [(width, inner, 1, 1), (inner, inner, 3, groups), (inner, 4 * planes, 1, 1)]
            else:
                layers = [(width, planes, 3, 1), (planes, planes, 3, 1)]
            for number, (inputs, outputs, size, of) in enumerate(layers, 1):
                state.conv(f"{name}.conv{number}", inputs, outputs, size, of)
                state.norm(f"{name}.bn{number}", outputs)
            if se:
                reduced = max(8, int(expansion * planes * se + 4) // 8 * 8)
                state.conv(f"{name}.se.fc1", expansion * planes, reduced, 1, bias=True)
                state.conv(f"{name}.se.fc2", reduced, expansion * planes, 1, bias=True)
            if block == 0 and (stage > 0 or width != expansion * planes):
                first = 1 if avg_down else 0  # behind the pool, or an identity in its place
                state.conv(f"{name}.downsample.{first}", width, expansion * planes, 1)
                state.norm(f"{name}.downsample.{first + 1}", expansion * planes)
            width = expansion * planes
    state.linear("fc", width, 1000)
    return state


def timm_resnetv2(depth, factor=1, running=True):
    """timm's `ResNetV2.__init__`."""
    state = StateDict()
    width = 64 * factor
    state.conv("stem.conv", 3, width, 7)
    basic = depth < 50
    for stage, count in enumerate(COUNTS[depth]):
        outputs = (64 if basic else 256) * 2**stage * factor
        inner = outputs if basic else outputs // 4
        for block in range(count):
            name = f"stages.{stage}.blocks.{block}"
            sizes = [(width, inner, 3), (inner, outputs, 3)]
            if not basic:
                sizes = [(width, inner, 1), (inner, inner, 3), (inner, outputs, 1)]
            for number, (before, after, size) in enumerate(sizes, 1):
                state.norm(f"{name}.norm{number}", before, running)
                state.conv(f"{name}.conv{number}", before, after, size)
            if block == 0 and (stage > 0 or not basic):
                state.conv(f"{name}.downsample.conv", width, outputs, 1)
            width = outputs
    state.norm("norm", width, running)
    state.conv("head.fc", width, 1000, 1, bias=True)
    return state


def vgg_bn(config, convention):
    """`make_layers` of torchvision, and the classifiers of both."""
    state, index, width = StateDict(), 0, 3
    for entry in config:
        if entry == "M":
            index += 1
            continue
        state.conv(f"features.{index}", width, entry, 3, bias=True)
        state.norm(f"features.{index + 1}", entry)
        index, width = index + 3, entry
    if convention == "torchvision":
        state.linear("classifier.0", 512 * 49, 4096)
        state.linear("classifier.3", 4096, 4096)
        state.linear("classifier.6", 4096, 1000)
    else:
        state.conv("pre_logits.fc1", 512, 4096, 7, bias=True)
        state.conv("pre_logits.fc2", 4096, 4096, 1, bias=True)
        state.linear("head.fc", 4096, 1000)
    return state


RESNETS = {
    "resnet18": timm_resnet(18),
    "resnet34": timm_resnet(34),
    "resnet50": timm_resnet(50),
    "resnet50_v1": timm_resnet(50),
    "resnet101": timm_resnet(101),
    "resnet50c": timm_resnet(50, deep=(32, 32, 64)),
    "resnet18d": timm_resnet(18, deep=(32, 32, 64), avg_down=True),
    "resnet50d": timm_resnet(50, deep=(32, 32, 64), avg_down=True),
    "resnet50s": timm_resnet(50, deep=(64, 64, 128)),
    "resnet50t": timm_resnet(50, deep=(24, 32, 64), avg_down=True),
    "seresnet18": timm_resnet(18, se=1 / 16),
    "seresnet50": timm_resnet(50, se=1 / 16),
    "resnext50_32x4d": timm_resnet(50, groups=32, base_width=4),
    "seresnext50_32x4d": timm_resnet(50, groups=32, base_width=4, se=1 / 16),
    "wide_resnet50_2": timm_resnet(50, base_width=128),
    "resnetrs50": timm_resnet(50, deep=(32, 32, 64), replace_pool=True, avg_down=True, se=1 / 4),
    "resnetv2_18": timm_resnetv2(18),
    "resnetv2_50": timm_resnetv2(50),
    "resnetv2_50x1_bit": timm_resnetv2(50, running=False),
    "resnetv2_50x3_bit": timm_resnetv2(50, 3, running=False),
}
VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


@pytest.mark.parametrize("name", RESNETS)
def test_names_and_shapes_are_theirs(name):
    assert shapes_there(about(name)) == dict(RESNETS[name])


def test_torchvision_names_a_resnet_as_timm_does():
    assert shapes_there(about("resnet50"), "torchvision") == dict(RESNETS["resnet50"])


@pytest.mark.parametrize("convention", ["torchvision", "timm"])
@pytest.mark.parametrize(("name", "config"), [("vgg11_bn", VGG11), ("vgg16_bn", VGG16)])
def test_names_and_shapes_of_vgg(name, config, convention):
    assert shapes_there(about(name), convention) == dict(vgg_bn(config, convention))


def test_the_flattened_image_of_vgg_is_turned():
    """torchvision flattens [512, 7, 7], we flatten [7, 7, 512]; timm convolves 7x7."""
    for convention, shape in (("torchvision", (3, 512 * 49)), ("timm", (3, 512, 7, 7))):
        model = Vgg(num_classes=10, counts=(1, 1, 2, 2, 2), hidden=3)
        ours = np.arange(49 * 512 * 3).reshape(7, 7, 512, 3)
        entry = torch_naming(model, convention)("dense1", "kernel", (49 * 512, 3))
        theirs = entry.layout.to_theirs(ours.reshape(-1, 3))
        assert theirs.shape == shape
        np.testing.assert_array_equal(theirs.reshape(3, 512, 7, 7)[1, 5, 2, 6], ours[2, 6, 5, 1])


NAMELESS = ("cifar_sepreresnet110", "cifar_sepreresnet164", "cifar_sewrn16_8", "cifar_speedrun")  # neither has such a network


@pytest.mark.parametrize("convention", ["torchvision", "timm"])
@pytest.mark.parametrize("name", NAMELESS)
def test_networks_that_neither_has_are_refused(name, convention):
    metadata = about(name)
    model = make_network(metadata)
    with pytest.raises(DataError, match=f"every parameter of {name} must have a name there, but .* choose another format"):
        find_entries(abstract_variables(model, metadata), torch_naming(model, convention), name)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("tutorial") and name not in NAMELESS])
def test_every_other_network_of_the_table_has_names(name):
    metadata = about(name)
    model = make_network(metadata)
    leaves = named_leaves(abstract_variables(model, metadata))
    for convention in ("torchvision", "timm"):
        entries = find_entries(leaves, torch_naming(model, convention), name)
        assert entries.keys() == leaves.keys()
        for leaf, entry in entries.items():
            assert np.prod(entry.layout.theirs, dtype=int) == leaves[leaf].size
            if leaves[leaf].size < 1 << 20:  # the layout moves whole axes: what holds for these holds for the large ones
                ours = np.arange(leaves[leaf].size).reshape(leaves[leaf].shape)
                np.testing.assert_array_equal(entry.layout.to_ours(entry.layout.to_theirs(ours), ours.shape), ours)


NETWORKS = [
    ("resnet18", "torchvision", {"width": 8}),
    ("resnet50", "timm", {"width": 8}),
    ("resnet18d", "timm", {}),
    ("seresnet18", "timm", {"width": 8}),
    ("resnetv2_18", "timm", {"width": 8}),
    ("cifar_resnet20", "timm", {"width": 4, "shortcut": "B"}),
    ("cifar_vgg11", "torchvision", {}),
]


@pytest.mark.parametrize(("name", "convention", "kwargs"), NETWORKS)
def test_out_and_back_in_is_bit_equal(name, convention, kwargs, tmp_path):
    metadata = about(name, 7, **kwargs) | {"class_names": list("abcdefg")}
    variables = random_variables(metadata)
    path = tmp_path / "torch.safetensors"
    write_foreign(path, variables, metadata, convention)
    back, carried = read_foreign(path, convention)
    assert digest(back) == digest(variables)
    assert carried == metadata


def test_a_looped_network_comes_back_unrolled(tmp_path):
    metadata = about("cifar_resnet20", width=4)
    variables = random_variables(metadata)
    write_foreign(tmp_path / "x.safetensors", variables, metadata | {"kwargs": {"width": 4, "repeat": "scan"}}, "timm")
    back, carried = read_foreign(tmp_path / "x.safetensors", "timm")
    assert carried["kwargs"] == {"width": 4}
    assert digest(back) == digest(variables)


def test_counters_are_put_in_and_left_out():
    tensors = {"bn1.running_mean": np.zeros(3), "bn1.weight": np.zeros(3)}
    counted = with_counters(tensors)
    assert counted.keys() == {*tensors, "bn1.num_batches_tracked"}
    assert counted["bn1.num_batches_tracked"].dtype == np.int64
    assert counted["bn1.num_batches_tracked"].shape == ()
    assert without_counters(counted).keys() == tensors.keys()
    parallel = {f"module.{name}": array for name, array in counted.items()}
    assert without_counters(parallel).keys() == tensors.keys()


def test_the_classifier_may_be_left_behind(tmp_path):
    metadata = about("cifar_resnet20", width=4)
    write_foreign(tmp_path / "x.safetensors", random_variables(metadata), metadata, "timm")
    back, found = read_foreign(tmp_path / "x.safetensors", "timm", num_classes=0)
    assert found["num_classes"] is None
    assert "head" not in back["params"]
    model = make_network(found)
    assert model.apply(back, np.zeros((1, 32, 32, 3), np.float32), train=False).shape == (1, 16)


def test_a_network_without_such_names_is_refused(tmp_path):
    metadata = about("tutorial_cnn")
    with pytest.raises(DataError, match="every parameter of tutorial_cnn in timm must have a name there"):
        write_foreign(tmp_path / "x.safetensors", random_variables(metadata), metadata, "timm")


def test_the_weights_of_another_network_are_refused(tmp_path):
    metadata = about("resnet18", width=8)
    write_foreign(tmp_path / "x.safetensors", random_variables(metadata), metadata, "timm")
    with pytest.raises(DataError, match=r"as resnet34 must be the same network, but of 182 tensors 80 missing \(layer1.2"):
        read_foreign(tmp_path / "x.safetensors", "timm", "resnet34")


def test_where_torch_computes_something_else_it_is_told():
    assert difference_to_torch(about("resnet50")) is None
    assert difference_to_torch(about("resnet50", zero_gamma=False)) is None
    assert "neither torchvision nor timm has resnet50_v1" in difference_to_torch(about("resnet50_v1"))
    assert "width" in difference_to_torch(about("resnet50", width=32))
    assert "epsilon 0.001" in difference_to_torch(about("resnet50") | {"batch_norm": {"epsilon": 1e-3}})


def test_the_pooled_shortcut_is_told_from_the_network_alone():
    plain, pooled = (torch_naming(create_model(name, 10), "timm") for name in ("resnet50c", "resnet50d"))
    path = ("stage1/block1/shortcut/norm", "scale", (4,))
    assert plain(*path).name == "layer1.0.downsample.1.weight"
    assert pooled(*path).name == "layer1.0.downsample.2.weight"
