"""Peers do the work that we do: as many parameters and, given our weights, our logits."""

import contextlib
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.bench.peers import make_peer
from resflax.bench.workload import Workload
from resflax.build.inference import export, onnxruntime_inference
from resflax.errors import ConfigError
from resflax.models.zoo import MODELS, create_model
from resflax.tree import named_leaves, parameter_count
from resflax.weights.names import take_out
from resflax.weights.torch_names import torch_naming, with_counters
from tests.parity.origin import import_timm
from tests.weights import random_network

SMALL = Workload("cifar_resnet8", 4)
PARAMETERS = 75_290
WEIGHTS = ("kernel", "scale", "bias", "mean", "var")  # of a layer, in this order


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield pytest.importorskip("keras")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def ours():
    """Our network, and variables none of which is 0 or 1 throughout."""
    model = create_model(SMALL.model, SMALL.num_classes)
    abstract = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), SMALL.batch()[0])
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(draw, abstract)


def names(blocks):
    """Our layers in the order in which they are called."""
    yield from ("stem_conv", "stem_norm")
    for stage, block in itertools.product((1, 2, 3), range(1, blocks + 1)):
        yield from (f"stage{stage}/block{block}/{layer}" for layer in ("conv1", "norm1", "conv2", "norm2"))
    yield "head/dense"


def layers(variables):
    """The weights of each of our layers, in the order in which they are called."""
    leaves = named_leaves(variables)
    for name in names(blocks=1):
        paths = [f"{kind}/{name}/{weight}" for kind, weight in itertools.product(("params", "batch_stats"), WEIGHTS)]
        yield [leaves[path] for path in paths if path in leaves]


def our_logits(ours, train):
    model, variables = ours
    images, _ = SMALL.batch()
    return jax.jit(functools.partial(model.apply, train=train, mutable=["batch_stats"]))(variables, images)[0]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def check_parameters(name, ours):
    assert parameter_count(ours[1]["params"]) == PARAMETERS
    assert make_peer(name, "train", SMALL).make().parameters == PARAMETERS


def test_linen_gives_our_logits(ours):
    from resflax.bench.linen_peer import ResNet

    model, (images, _) = ResNet(8, 10, jnp.float32), SMALL.batch()
    order = ["Conv_0", "BatchNorm_0"]
    for block in range(3):
        order += [f"Block_{block}/{layer}" for layer in ("Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1")]
    values = {}
    for name, weights in zip([*order, "Dense_0"], layers(ours[1]), strict=True):
        kinds = {1: ("kernel",), 2: ("kernel", "bias"), 4: ("scale", "bias", "mean", "var")}[len(weights)]
        values |= {f"{name}/{kind}": weight for kind, weight in zip(kinds, weights, strict=True)}
    abstract = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    theirs = jax.tree_util.tree_map_with_path(lambda path, leaf: values["/".join(one.key for one in path[1:])], abstract)
    for train in (False, True):
        logits, _ = jax.jit(functools.partial(model.apply, train=train, mutable=["batch_stats"]))(theirs, images)
        assert_close(logits, our_logits(ours, train))


@pytest.mark.parity
@pytest.mark.parametrize("name", ["torch", "torch-compile"])
def test_torch_has_our_parameters(torch, ours, name):
    check_parameters(name, ours)


@pytest.mark.parity
def test_torch_gives_our_logits(torch, ours):
    from resflax.bench.torch_peer import network

    model = network(torch, 8, 10).to(memory_format=torch.channels_last)
    modules = [one for one in model.modules() if isinstance(one, (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear))]
    for module, weights in zip(modules, layers(ours[1]), strict=True):
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[weights[0].ndim]
        arrays = [np.asarray(weights[0]).transpose(axes), *map(np.asarray, weights[1:])]
        targets = [module.weight, module.bias, getattr(module, "running_mean", None), getattr(module, "running_var", None)]
        for target, array in zip(targets, arrays, strict=False):
            target.data = torch.tensor(np.ascontiguousarray(array))
    images = torch.from_numpy(SMALL.batch()[0]).permute(0, 3, 1, 2)
    for train in (False, True):
        assert_close(model.train(train)(images).detach().numpy(), our_logits(ours, train))


@pytest.mark.parity
def test_torch_gives_our_logits_of_resnet50(torch):
    """Each of its parameters is one of ours, by torchvision's names; on images with a side that no stride divides."""
    from resflax.bench.torch_peer import large_network

    model, variables, _ = random_network("resnet50", 33, num_classes=1000)
    assert parameter_count(variables["params"]) == MODELS["resnet50"].parameters == 25_557_032
    tensors = with_counters(take_out(variables, torch_naming(model, "torchvision"), "resnet50"))
    peer = large_network(torch, 50, 1000).eval()
    assert sum(one.numel() for one in peer.parameters()) == 25_557_032
    peer.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}, strict=True)
    images = np.random.default_rng(0).normal(size=(2, 33, 33, 3)).astype(np.float32)
    with torch.inference_mode():
        found = peer(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert_close(found, jax.jit(functools.partial(model.apply, train=False))(variables, images))


@pytest.mark.parity
def test_onnxruntime_gives_our_logits():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")

    model, variables, _ = random_network("resnet50", 33, num_classes=1000)
    for batch in (1, 2):
        images = np.random.default_rng(0).normal(size=(batch, 33, 33, 3)).astype(np.float32)
        content = export(model, variables, images, "resnet50")
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        found = session.run(None, {"images": images})[0]
        assert_close(found, jax.jit(functools.partial(model.apply, train=False))(variables, images))


@pytest.mark.parity
@pytest.mark.parametrize("name", ["torch", "onnxruntime", "timm"])
def test_inference_of_imagenets_networks(torch, name):
    """As many parameters as ours; a forward pass at the size of ImageNet."""
    if name == "timm":
        import_timm()
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    workload = Workload("resnet18" if name == "timm" else "resnet50", 1)
    contender = onnxruntime_inference(workload) if name == "onnxruntime" else make_peer(name, "infer", workload)
    contender.prepare()
    contender.run(1)
    assert contender.program.parameters == MODELS[workload.model].parameters


@pytest.mark.parity
def test_onnxruntime_runs_in_single_precision_only():
    pytest.importorskip("jax2onnx")
    with pytest.raises(ConfigError, match="--against=onnxruntime needs --precision=float32, got bfloat16; leave it out"):
        onnxruntime_inference(Workload("cifar_resnet8", 1, "bfloat16"))


def test_cuda_graphs_need_a_gpu():
    with pytest.raises(
        ConfigError, match="--against=torch-graphs needs a GPU with CUDA, but JAX runs on the cpu; leave it out"
    ):
        make_peer("torch-graphs", "train", SMALL)


class Cuda:
    """CUDA graphs without CUDA: notes what is done in which order; a replay repeats nothing."""

    def __init__(self):
        self.log = []

    def Stream(self):  # noqa: N802
        return self.current_stream()

    def current_stream(self):
        return types.SimpleNamespace(wait_stream=lambda other: self.log.append("wait"))

    def CUDAGraph(self):  # noqa: N802
        return types.SimpleNamespace(replay=lambda: self.log.append("replay"))

    def synchronize(self):
        self.log.append("synchronize")

    @contextlib.contextmanager
    def _around(self, name):
        self.log.append(name)
        yield
        self.log.append(f"end {name}")

    def stream(self, stream):
        return self._around("side stream")

    def graph(self, graph):
        return self._around("capture")


@pytest.mark.parity
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_is_captured_once_and_replayed(torch, precision):
    from resflax.bench.graphs_peer import WARM_UP, captured
    from resflax.bench.torch_peer import network

    cuda, parts = Cuda(), ("autocast", "backends", "bfloat16", "channels_last", "from_numpy", "nn", "optim")
    with_graphs = types.SimpleNamespace(cuda=cuda, **{name: getattr(torch, name) for name in parts})
    model = network(torch, 8, 10)
    before = [one.detach().clone() for one in model.parameters()]
    program = captured(with_graphs, model, "cpu", Workload("cifar_resnet8", 4, precision))
    assert program.parameters == PARAMETERS
    assert cuda.log == ["wait", "side stream", "end side stream", "wait", "capture", "end capture"]
    assert model[1].num_batches_tracked == WARM_UP + 1
    assert all(not torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    assert 0 < program.advance(3) < 10
    assert cuda.log[6:] == ["replay"] * 3 + ["synchronize"]


@pytest.mark.parity
@pytest.mark.parametrize("name", ["timm", pytest.param("timm-compile", marks=pytest.mark.long)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_timm_trains_the_network_of_that_name(name, precision):
    import_timm()
    contender = make_peer(name, "train", Workload("resnet18", 2, precision))
    contender.prepare()
    contender.run(1)
    assert contender.program.parameters == MODELS["resnet18"].parameters


@pytest.mark.parity
def test_timm_has_not_all_of_our_models():
    import_timm()
    with pytest.raises(ConfigError, match=r"--against=timm needs a --model that timm .* has, got resnet50_v1; leave it out"):
        make_peer("timm", "train", Workload("resnet50_v1", 2))


@pytest.mark.parity
def test_keras_has_our_parameters(keras, ours):
    check_parameters("keras", ours)


@pytest.mark.parity
def test_keras_gives_our_logits(keras, ours):
    from resflax.bench.keras_peer import network

    model = network(keras, SMALL)
    with_weights = [layer for layer in model.layers if layer.weights]
    for layer, weights in zip(with_weights, layers(ours[1]), strict=True):
        layer.set_weights([np.asarray(weight) for weight in weights])
    for train in (False, True):
        assert_close(np.asarray(model(SMALL.batch()[0], training=train)), our_logits(ours, train))


@pytest.mark.parity
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("task", ["train", "infer"])
@pytest.mark.parametrize("name", ["torch", "keras"])
def test_a_step_of_each_peer(torch, keras, name, task, precision):
    contender = make_peer(name, task, Workload("cifar_resnet8", 4, precision))
    contender.prepare()
    contender.run(2)
