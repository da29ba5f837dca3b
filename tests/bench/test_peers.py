"""Peers do the work that we do: as many parameters and, given our weights, our logits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.bench.peers import make_peer
from resflax.bench.workload import Workload
from resflax.models.zoo import create_model
from resflax.tree import named_leaves, parameter_count

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
