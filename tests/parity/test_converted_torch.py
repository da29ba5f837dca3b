"""Files that PyTorch and BiT's authors write: what is in them, and what must never run. For logits see also test_timm.py."""

import functools
import os

import jax
import numpy as np
import pytest

from resflax.errors import DataError
from resflax.models.vgg import Vgg
from resflax.models.zoo import MODELS
from resflax.tree import digest
from resflax.weights.bit_reader import bit_naming
from resflax.weights.foreign import difference_to_torch, read_foreign, write_foreign
from resflax.weights.names import bring_in, find_entries, head_size
from resflax.weights.network import abstract_variables, make_network
from resflax.weights.torch_names import torch_naming, without_counters
from resflax.weights.torch_reader import read_torch
from tests.parity.origin import import_timm

pytestmark = pytest.mark.parity

SIZE = 64
COUNTS = (3, 4, 6, 3)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")  # not at the top: the default lane imports this module and deselects its tests


def randomise(torch, network):
    """Parameters and statistics none of which is 0 or 1; BatchNorm keeps activations near unit size."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.1)
    return network.eval()


def images():
    return np.random.default_rng(1).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)


def torch_logits(torch, network):
    with torch.no_grad():
        return network(torch.tensor(images().transpose(0, 3, 1, 2))).numpy()


def logits(model, variables):
    return jax.jit(functools.partial(model.apply, train=False))(variables, images())


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_names_and_shapes_are_timms(torch):
    """Of every ImageNet network that timm has; those it lacks are the ones that `convert` warns of."""
    timm = import_timm()
    for name in [name for name, row in MODELS.items() if row.input_shape[0] == 224 and not name.startswith("tutorial")]:
        metadata = {
            "model": name,
            "num_classes": 1000,
            "kwargs": {},
            "preprocessing": {"image_size": [SIZE, SIZE], "mean": [0] * 3, "std": [1] * 3},
        }
        assert timm.is_model(name) == (difference_to_torch(metadata) is None), name
        if not timm.is_model(name):
            continue
        with torch.device("meta"):
            state = timm.create_model(name).state_dict()
        expected = {key: tuple(tensor.shape) for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
        model = make_network(metadata)
        entries = find_entries(abstract_variables(model, metadata), torch_naming(model, "timm"), name)
        assert {entry.name: entry.layout.theirs for entry in entries.values()} == expected, name


def test_the_v1_network_strides_its_first_convolution(torch, tmp_path):
    network = randomise(torch, import_timm().create_model("resnet50", num_classes=10))
    for stage in (2, 3, 4):
        block = getattr(network, f"layer{stage}")[0]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    variables, metadata = read_foreign(tmp_path / "weights.pth", "torchvision", "resnet50_v1")
    assert_close(logits(make_network(metadata), variables), torch_logits(torch, network))


@pytest.mark.parametrize("convention", ["torchvision", "timm"])
def test_vgg(torch, convention):
    """torchvision's and timm's classifiers, 8 units wide instead of 4096."""
    nn = torch.nn
    config = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
    layers, width = [], 3
    for entry in config:
        if entry == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, entry, 3, padding=1), nn.BatchNorm2d(entry), nn.ReLU()]
            width = entry

    class VggBn(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(*layers)
            if convention == "torchvision":
                first, second = nn.Linear(512 * 49, 8), nn.Linear(8, 8)
                self.classifier = nn.Sequential(
                    first, nn.ReLU(), nn.Dropout(), second, nn.ReLU(), nn.Dropout(), nn.Linear(8, 10)
                )
            else:
                self.pre_logits = nn.ModuleDict({"fc1": nn.Conv2d(512, 8, 7), "fc2": nn.Conv2d(8, 8, 1)})
                self.head = nn.ModuleDict({"fc": nn.Linear(8, 10)})

        def forward(self, x):
            x = nn.functional.adaptive_avg_pool2d(self.features(x), 7)
            if convention == "torchvision":
                return self.classifier(x.flatten(1))
            x = torch.relu(self.pre_logits["fc2"](torch.relu(self.pre_logits["fc1"](x))))
            return self.head["fc"](x.flatten(1))

    network = randomise(torch, VggBn())
    model = Vgg(num_classes=10, counts=(1, 1, 2, 2, 2), hidden=8)
    metadata = {"preprocessing": {"image_size": [SIZE, SIZE], "mean": [0] * 3, "std": [1] * 3}}
    tensors = without_counters({name: tensor.numpy() for name, tensor in network.state_dict().items()})
    variables = bring_in(abstract_variables(model, metadata), torch_naming(model, convention), tensors, "a VGG")
    assert_close(logits(model, variables), torch_logits(torch, network))


def bit(torch, weights, x, counts, epsilon=1e-8):
    """BiT's forward pass out of the names in its files (Kolesnikov et al. 2020, Sec. 3.1)."""
    functional = torch.nn.functional

    def conv(name, x, stride=1):
        kernel = torch.tensor(weights[f"resnet/{name}/kernel"].transpose(3, 2, 0, 1))
        var, mean = torch.var_mean(kernel, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return functional.conv2d(x, (kernel - mean) / torch.sqrt(var + epsilon), None, stride, kernel.shape[2] // 2)

    def norm(name, x):
        gamma, beta = (torch.tensor(weights[f"resnet/{name}/group_norm/{part}"]) for part in ("gamma", "beta"))
        return torch.relu(functional.group_norm(x, 32, gamma, beta))

    x = conv("root_block/standardized_conv2d", x, 2)
    x = functional.max_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, 2)
    for stage, count in enumerate(counts, 1):
        for unit in range(1, count + 1):
            name, stride = f"block{stage}/unit{unit:02d}", 2 if stage > 1 and unit == 1 else 1
            y = norm(f"{name}/a", x)
            shortcut = conv(f"{name}/a/proj/standardized_conv2d", y, stride) if unit == 1 else x
            y = norm(f"{name}/b", conv(f"{name}/a/standardized_conv2d", y))
            y = norm(f"{name}/c", conv(f"{name}/b/standardized_conv2d", y, stride))
            x = shortcut + conv(f"{name}/c/standardized_conv2d", y)
    gamma, beta = (torch.tensor(weights[f"resnet/group_norm/{part}"]) for part in ("gamma", "beta"))
    x = torch.relu(functional.group_norm(x, 32, gamma, beta)).mean((2, 3))
    kernel, bias = (torch.tensor(weights[f"resnet/head/conv2d/{part}"]) for part in ("kernel", "bias"))
    return x @ kernel[0, 0] + bias


def bit_weights(counts):
    """Random arrays under the names of BiT-M-R50x1.npz."""
    rng = np.random.default_rng(0)
    weights = {}

    def norm(name, width):
        weights[f"resnet/{name}/gamma"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        weights[f"resnet/{name}/beta"] = rng.normal(0, 0.1, width).astype(np.float32)

    def conv(name, *shape):
        weights[f"resnet/{name}/kernel"] = rng.normal(0, 0.1, shape).astype(np.float32)

    conv("root_block/standardized_conv2d", 7, 7, 3, 64)
    width = 64
    for stage, count in enumerate(counts, 1):
        inner = 64 * 2 ** (stage - 1)
        for unit in range(1, count + 1):
            name = f"block{stage}/unit{unit:02d}"
            sizes = {"a": (1, width, inner), "b": (3, inner, inner), "c": (1, inner, 4 * inner)}
            for part, (size, inputs, outputs) in sizes.items():
                norm(f"{name}/{part}/group_norm", inputs)
                conv(f"{name}/{part}/standardized_conv2d", size, size, inputs, outputs)
            if unit == 1:
                conv(f"{name}/a/proj/standardized_conv2d", 1, 1, width, 4 * inner)
            width = 4 * inner
    norm("group_norm", width)
    conv("head/conv2d", 1, 1, width, 10)
    weights["resnet/head/conv2d/bias"] = rng.normal(size=10).astype(np.float32)
    return weights


def test_bit(torch, tmp_path):
    weights = bit_weights(COUNTS)
    np.savez(tmp_path / "BiT-M-R50x1.npz", **weights)
    assert head_size(bit_naming, weights) == 10
    variables, metadata = read_foreign(tmp_path / "BiT-M-R50x1.npz", "bit", "resnetv2_50x1_bit")
    with torch.no_grad():
        expected = bit(torch, weights, torch.tensor(images().transpose(0, 3, 1, 2)), COUNTS).numpy()
    assert_close(logits(make_network(metadata), variables), expected)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_every_kind_of_tensor_that_torch_saves(torch, zipped, tmp_path):
    base = torch.arange(24, dtype=torch.float32)
    state = {
        "plain": base.reshape(2, 3, 4),
        "turned": base.reshape(4, 6).T,
        "last": base.reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "part": base[5:11:2],
        "half": base.half(),
        "brain": base.bfloat16(),
        "double": base.double(),
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base),
        "flags": base > 3,
    }
    for content in (
        state,
        {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"m": base}}, "groups": [{"lr": 0.1}]}},
    ):
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        found = read_torch(tmp_path / "x.pth")
        assert list(found) == list(state)
        for name, tensor in state.items():
            assert found[name].shape == tuple(tensor.shape)
            expected = tensor.detach().double().numpy()
            np.testing.assert_array_equal(found[name].astype(np.float64), expected, err_msg=name)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_what_torch_would_execute_is_refused(torch, zipped, tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    torch.save({"a": torch.ones(2), "b": Evil()}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"it calls \w+\.system"):
        read_torch(tmp_path / "evil.pth")
    assert not canary.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert canary.exists()  # so the file does what it is meant to do
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_torch(tmp_path / "module.pth")


def test_nothing_is_lost_between_two_files_of_torch(torch, tmp_path):
    network = randomise(torch, import_timm().create_model("resnet18", num_classes=10))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    variables, metadata = read_foreign(tmp_path / "weights.pth", "timm", "resnet18")
    write_foreign(tmp_path / "back.safetensors", variables, metadata, "timm")
    assert digest(read_foreign(tmp_path / "back.safetensors", "timm")[0]) == digest(variables)
