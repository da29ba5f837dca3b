"""The families of the papers on CIFAR against pytorchcv's networks with the same weights.

Of two it has no equal: its bottlenecks of version 2 have their stride elsewhere, and its version 2 with squeeze-and-excitation
has another stem and top.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.models.zoo import create_model
from resflax.tree import named_leaves

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    pytest.importorskip("pytorchcv", reason="no pytorchcv to compare with")
    return torch


def theirs(name):
    from pytorchcv.models import preresnet_cifar, resnext_cifar, seresnet_cifar, wrn_cifar

    return {
        "cifar_preresnet20": lambda: preresnet_cifar.get_preresnet_cifar(10, blocks=20, bottleneck=False),
        "cifar_wrn16_2": lambda: wrn_cifar.get_wrn_cifar(10, blocks=16, width_factor=2),
        "cifar_resnext29_4x16d": lambda: resnext_cifar.get_resnext_cifar(10, blocks=29, cardinality=4, bottleneck_width=16),
        "cifar_seresnet20": lambda: seresnet_cifar.get_seresnet_cifar(10, blocks=20, bottleneck=False),
    }[name]()


# Theirs -> ours, tried in this order.
MODULES = [
    (r"features\.init_block(?:\.conv)?", "stem_conv"),
    (r"features\.init_block\.bn", "stem_norm"),
    (r"features\.stage(\d)\.unit(\d)\.body\.conv(\d)\.conv", r"stage\1/block\2/conv\3"),
    (r"features\.stage(\d)\.unit(\d)\.body\.conv(\d)\.bn", r"stage\1/block\2/norm\3"),
    (r"features\.stage(\d)\.unit(\d)\.se\.conv1", r"stage\1/block\2/squeeze_excite/reduce"),
    (r"features\.stage(\d)\.unit(\d)\.se\.conv2", r"stage\1/block\2/squeeze_excite/expand"),
    (r"features\.stage(\d)\.unit(\d)\.identity_conv(?:\.conv)?", r"stage\1/block\2/shortcut/conv"),
    (r"features\.stage(\d)\.unit(\d)\.identity_conv\.bn", r"stage\1/block\2/shortcut/norm"),
    (r"features\.post_activ\.bn", "final_norm"),
    (r"output", "head/dense"),
]


def our_module(name):
    return next(re.sub(f"{pattern}$", ours, name) for pattern, ours in MODULES if re.fullmatch(pattern, name))


def give_weights(torch, network, variables):
    """Loads our variables into their network; every parameter and statistic of both is used."""
    left = dict(named_leaves(variables))
    state = {}
    for name, old in network.state_dict().items():
        module, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        norm = f"{module}.running_mean" in network.state_dict()
        leaf, collection = {
            "weight": ("scale" if norm else "kernel", "params"),
            "bias": ("bias", "params"),
            "running_mean": ("mean", "batch_stats"),
            "running_var": ("var", "batch_stats"),
        }[kind]
        value = np.asarray(left.pop(f"{collection}/{our_module(module)}/{leaf}"))
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        state[name] = torch.tensor(value.reshape(tuple(old.shape)))
    assert not left
    network.load_state_dict(state, strict=False)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("cifar_preresnet20", {"shortcut": "B"}),
        ("cifar_wrn16_2", {}),
        ("cifar_resnext29_4x16d", {}),
        ("cifar_seresnet20", {"shortcut": "B"}),
    ],
)
def test_logits(torch, name, kwargs):
    model = create_model(name, 10, **kwargs)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(leaf * rng.uniform(0.5, 1.5, leaf.shape) + 0.02 * rng.uniform(size=leaf.shape), jnp.float32),
        model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False),
    )
    network = theirs(name).eval()
    give_weights(torch, network, variables)
    images = rng.normal(size=(4, 32, 32, 3)).astype(np.float32)
    ours = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    with torch.no_grad():
        expected = network(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.std(expected) > 1e-3
