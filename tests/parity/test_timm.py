"""Our networks against timm's, the code their published weights were trained with: logits, statistics, a step of SGD."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflax
from resflax.nn import BatchNorm
from resflax.optim import optimizers
from resflax.tree import named_leaves
from resflax.weights.foreign import read_foreign, write_foreign
from resflax.weights.names import bring_in
from resflax.weights.network import make_network
from resflax.weights.torch_names import torch_naming, without_counters
from tests.parity.origin import import_timm

pytestmark = pytest.mark.parity

NETWORKS = (
    "resnet18",
    "resnet50",
    "resnet50c",
    "resnet50d",
    "resnet50s",
    "resnet50t",
    "seresnet18",
    "seresnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "resnetrs50",
    "resnetv2_18",
    "resnetv2_50",
    "resnetv2_50x1_bit",
)


@pytest.fixture(scope="module")
def timm():
    return import_timm()


@functools.cache
def origin(timm, name):
    """timm's network for 10 classes, in which no scale, bias or statistic has a special value."""
    import torch

    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.is_floating_point() and value.ndim == 1:
                value.copy_(torch.rand_like(value) * 0.5 + (0.75 if key.endswith(("weight", "var")) else -0.25))
    return network.eval()


def tensors_of(network):
    return {key: value.numpy().copy() for key, value in network.state_dict().items()}


@pytest.fixture
def converted(timm, tmp_path, request):
    """`(timm's network, variables, metadata)`, by way of a file that PyTorch saved."""
    import torch

    network = origin(timm, request.param)
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    return network, *read_foreign(tmp_path / "timm.pth", "timm", request.param)


@pytest.mark.parametrize("converted", NETWORKS, indirect=True)
def test_logits_and_the_way_back(converted, tmp_path):
    """To 1e-4 of the largest logit in float32, at a size that no stride divides; back under timm's names bit for bit."""
    import torch
    from safetensors.torch import load_file

    network, variables, metadata = converted
    images = np.random.default_rng(0).normal(size=(2, 75, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    logits = jax.jit(functools.partial(make_network(metadata).apply, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    write_foreign(tmp_path / "back.safetensors", variables, metadata, "timm")
    back, there = load_file(tmp_path / "back.safetensors"), network.state_dict()
    assert back.keys() == there.keys()
    for key, value in there.items():
        assert torch.equal(back[key], value), key
    network.load_state_dict(back, strict=True)


@pytest.mark.parametrize(
    "converted", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "seresnet50", "resnet50d", "resnetv2_50"],
    indirect=True,
)  # fmt: skip
def test_a_training_step(converted):
    """Loss, running statistics and all parameters after one step of SGD with momentum and decay, in float64."""
    import torch

    network, variables, metadata = converted
    rng = np.random.default_rng(1)
    images, labels = rng.normal(size=(4, 64, 64, 3)), rng.integers(0, 10, 4)
    network = copy.deepcopy(network).double().train()
    descent = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loss = torch.nn.functional.cross_entropy(network(torch.from_numpy(images.transpose(0, 3, 1, 2))), torch.from_numpy(labels))
    loss.backward()
    descent.step()
    with jax.enable_x64(True):
        norm = functools.partial(BatchNorm, running_variance="unbiased", param_dtype=jnp.float64)
        model = resflax.create_model(metadata["model"], 10, norm=norm, dtype=jnp.float64)
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        optimizer = optimizers.make_optimizer(optimizers.sgd(0.9), lambda step: 0.1, weight_decay=1e-4)

        @jax.jit
        def step(params, batch_stats):
            def mean_loss(params):
                logits, changed = model.apply(
                    {"params": params, "batch_stats": batch_stats}, images, train=True, mutable=["batch_stats"]
                )
                return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), labels]), changed["batch_stats"]

            (value, batch_stats), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
            updates, _ = optimizer.update(gradient, optimizer.init(params), params)
            return value, {"params": jax.tree.map(jnp.add, params, updates), "batch_stats": batch_stats}

        value, after = step(exact["params"], exact["batch_stats"])
        ours = {name: np.asarray(leaf) for name, leaf in named_leaves(after).items()}
    assert float(value) == pytest.approx(loss.item(), rel=1e-9)
    tensors = without_counters(tensors_of(network))
    expected = named_leaves(bring_in(after, torch_naming(make_network(metadata), "timm"), tensors, "timm after a step"))
    assert ours.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(ours[name], leaf, rtol=1e-7, atol=1e-9, err_msg=name)
