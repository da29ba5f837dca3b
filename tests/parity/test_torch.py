"""The CIFAR networks and SGD against PyTorch.

Gradients are compared in float64 alone. In float32 a few of the ReLUs' inputs are zero to within rounding, and each side
of zero has its own gradient: there either of PyTorch and resflax may be 1e-2 away from what both compute in float64.
"""

import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.models.zoo import create_model
from resflax.nn import BatchNorm
from resflax.optim.optimizers import make_optimizer, sgd
from resflax.training.losses import cross_entropy
from resflax.training.state import init_state
from resflax.training.steps import make_train_step
from resflax.tree import named_leaves

pytestmark = pytest.mark.parity

NETWORKS = [("cifar_resnet20", "A"), ("cifar_resnet20", "B"), ("cifar_plain20", None)]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")  # not at the top: the default lane imports this module and deselects its tests


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def torch_network(torch, option):
    """Twenty layers, He et al. 2015, Sec. 4.2, with shortcut `option` A, B or None."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(width)
            self.stride = stride
            self.half = (width - inputs) // 2
            if option == "B" and self.half:
                projection = nn.Conv2d(inputs, width, 1, stride, bias=False)
                self.shortcut = nn.Sequential(OrderedDict(conv=projection, norm=nn.BatchNorm2d(width)))

        def forward(self, x):
            y = torch.relu(self.norm1(self.conv1(x)))
            y = self.norm2(self.conv2(y))
            if option == "A":
                strided = x[:, :, :: self.stride, :: self.stride]
                y = y + nn.functional.pad(strided, (0, 0, 0, 0, self.half, self.half))
            elif option == "B":
                y = y + (self.shortcut(x) if self.half else x)
            return torch.relu(y)

    def stage(inputs, width, stride):
        blocks = {"block1": Block(inputs, width, stride), "block2": Block(width, width, 1), "block3": Block(width, width, 1)}
        return nn.Sequential(OrderedDict(blocks))

    return nn.Sequential(
        OrderedDict(
            stem_conv=nn.Conv2d(3, 16, 3, padding=1, bias=False),
            stem_norm=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
            stage1=stage(16, 16, 1),
            stage2=stage(16, 32, 2),
            stage3=stage(32, 64, 2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Sequential(OrderedDict(dense=nn.Linear(64, 10))),
        )
    )


def in_torchs_layout(variables):
    """`{"stage1.block1.conv1.weight": array, ...}` from {"params": ..., "batch_stats": ...}."""
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    arrays = {}
    for path, leaf in named_leaves(variables).items():
        _, *modules, name = path.split("/")
        arrays[".".join([*modules, names[name]])] = np.transpose(leaf, axes[leaf.ndim])
    return arrays


def pair(torch, name, option, dtype):
    """A network, variables none of which is 0 or 1, and PyTorch's network with the same."""
    kwargs = {"shortcut": option} if option else {}
    norm = functools.partial(BatchNorm, running_variance="unbiased", param_dtype=dtype)
    model = create_model(name, 10, norm=norm, **kwargs)
    initial = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    rng = np.random.default_rng(0)

    def vary(path, leaf):
        noise = rng.uniform(0.5, 1.5, leaf.shape)
        shifted = path[-1].key in ("bias", "mean")
        return jnp.asarray((noise - 1) if shifted else np.asarray(leaf) * noise, dtype)

    variables = jax.tree_util.tree_map_with_path(vary, initial)
    network = torch_network(torch, option).to(getattr(torch, dtype))
    state = {key: torch.tensor(array) for key, array in in_torchs_layout(variables).items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return model, variables, network


def draw(dtype, steps=1):
    rng = np.random.default_rng(1)
    return rng.normal(size=(steps, 8, 32, 32, 3)).astype(dtype), rng.integers(0, 10, (steps, 8))


def nchw(torch, images):
    return torch.tensor(images.transpose(0, 3, 1, 2))


def assert_close(found, expected, tolerance, name=""):
    """Within `tolerance` of the largest magnitude expected."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize(("name", "option"), NETWORKS)
@pytest.mark.parametrize("train", [False, True])
def test_logits(torch, name, option, train):
    model, variables, network = pair(torch, name, option, "float32")
    (images,), _ = draw("float32")
    logits, _ = jax.jit(functools.partial(model.apply, train=train, mutable=["batch_stats"]))(variables, images)
    assert_close(logits, network.train(train)(nchw(torch, images)).detach(), 1e-5)


@pytest.mark.parametrize(("name", "option"), NETWORKS)
def test_gradients_with_label_smoothing(torch, name, option, x64):
    model, variables, network = pair(torch, name, option, "float64")
    (images,), (labels,) = draw("float64")

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.mean(cross_entropy(logits, labels, 0.1))

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    logits = network.train()(nchw(torch, images))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), label_smoothing=0.1)
    expected.backward()
    assert_close(value, expected.detach(), 1e-10)
    found = in_torchs_layout({"params": gradient})
    for key, parameter in network.named_parameters():
        assert_close(found.pop(key), parameter.grad, 1e-10, key)
    assert not found


@pytest.mark.parametrize(("nesterov", "dampening"), [(False, 0.0), (True, 0.0), (False, 0.3)])
@pytest.mark.parametrize(("name", "option"), NETWORKS)
def test_five_steps_of_sgd(torch, name, option, nesterov, dampening, x64):
    model, variables, network = pair(torch, name, option, "float64")
    optimizer = make_optimizer(sgd(0.9, nesterov, dampening), lambda step: 0.05, weight_decay=1e-4)
    smoothed = functools.partial(cross_entropy, label_smoothing=0.1)
    step = jax.jit(make_train_step(model, optimizer, smoothed, lambda batch, resident: batch))
    theirs = torch.optim.SGD(network.parameters(), 0.05, 0.9, dampening, 1e-4, nesterov)
    if dampening:
        # PyTorch's first velocity is the gradient itself, undampened; ours starts from zero.
        for parameter in network.parameters():
            theirs.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    network.train()
    state = init_state(variables, optimizer, ema=False)
    for images, labels in zip(*draw("float64", steps=5), strict=True):
        batch = {"id": np.arange(len(labels)), "image": images, "label": labels, "mask": np.ones(len(labels), bool)}
        state, metrics = step(state, batch, {"seed": np.uint32(0)})
        theirs.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(nchw(torch, images)), torch.tensor(labels), label_smoothing=0.1)
        loss.backward()
        theirs.step()
        assert_close(metrics.loss, loss.detach(), 1e-10)
    expected = network.state_dict()
    for key, array in in_torchs_layout({"params": state.params, "batch_stats": state.batch_stats}).items():
        assert_close(array, expected[key], 1e-10, key)
