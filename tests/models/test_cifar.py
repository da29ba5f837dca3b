"""The parts of the papers on CIFAR: squeeze-and-excitation in their units, and stochastic depth as it was printed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import resflax
from resflax import nn as layers
from resflax.models.blocks import BasicBlock
from resflax.models.ordering import OrderedBlock
from resflax.nn import stack_blocks
from resflax.tree import parameter_count

RNG = np.random.default_rng(0)
GATE = functools.partial(layers.SqueezeExcite, ratio=1 / 4, multiple=1)
NORM = functools.partial(layers.BatchNorm, use_running_average=True)


def randomised(variables):
    """Variables in which nothing is special: no zero biases, no fresh statistics."""
    return jax.tree.map(lambda leaf: leaf + 0.1 * RNG.normal(size=leaf.shape).astype(np.float32), variables)


# osmr/imgclsmob, gluon/README.md, prints these. Its SE-ResNets project (option B); its SE-PreResNet-164 normalises 16 channels
# after the stem and not the 256 at the end.
@pytest.mark.parametrize(
    ("name", "kwargs", "printed"),
    [
        ("cifar_seresnet20", {"shortcut": "B"}, 274_847),
        ("cifar_seresnet56", {"shortcut": "B"}, 862_889),
        ("cifar_seresnet110", {"shortcut": "B"}, 1_744_952),
        ("cifar_sepreresnet164", {}, 1_904_882 - 2 * 16 + 2 * 256),
    ],
)
def test_counts_of_others(name, kwargs, printed):
    model = resflax.create_model(name, 10, repeat="scan", **kwargs)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert parameter_count(variables["params"]) == printed


@pytest.mark.parametrize(
    ("make", "joined"),
    [
        (functools.partial(OrderedBlock, kernels=(3, 3)), lambda y: y),
        (functools.partial(OrderedBlock, kernels=(1, 3, 1), expansion=4), lambda y: y),
        (BasicBlock, lambda y: np.maximum(y, 0)),
    ],
)
def test_the_gate_weighs_the_branch_before_the_sum(make, joined):
    """Hu et al. 2018, Fig. 3 and Eqs. 2 to 4, in NumPy; the branch is what is added to a shortcut that is the identity."""
    width, channels = (2, 8) if "expansion" in getattr(make, "keywords", {}) else (8, 8)
    x = (0.3 * np.abs(RNG.normal(size=(2, 5, 4, channels)))).astype(np.float32)
    gated = make(width, layers.Conv, NORM, shortcut=layers.PaddedShortcut, gate=GATE)
    variables = randomised(gated.init(jax.random.key(0), x))
    params = dict(variables["params"])
    dense = params.pop("squeeze_excite")
    assert dense["reduce"]["kernel"].shape == (channels, channels // 4)
    plain = make(width, layers.Conv, NORM, shortcut=Nothing)
    if make is BasicBlock:  # its ReLU follows the sum: what stands before it is the last normalisation's
        _, seen = plain.apply({**variables, "params": params}, x, capture_intermediates=True)
        branch = np.asarray(seen["intermediates"]["norm2"]["__call__"][0])
    else:
        branch = np.asarray(plain.apply({**variables, "params": params}, x))
    hidden = np.maximum(branch.mean((1, 2)) @ dense["reduce"]["kernel"] + dense["reduce"]["bias"], 0)
    scale = 1 / (1 + np.exp(-(hidden @ dense["expand"]["kernel"] + dense["expand"]["bias"])))
    assert 0.1 < scale.min() < scale.max() < 0.9
    expected = joined(branch * np.asarray(scale)[:, None, None] + x)
    np.testing.assert_allclose(gated.apply(variables, x), expected, rtol=1e-4, atol=1e-4)


class Nothing(layers.PaddedShortcut):
    """A shortcut that adds nothing."""

    def __call__(self, x, activated=None):
        return jnp.zeros(())


def test_rates_of_stochastic_depth_are_equation_4():
    """Huang et al. 2016, Sec. 3: p_l = 1 - l / L (1 - p_L), so that of L = 54 blocks (3 L - 1) / 4 are active on average."""
    rates = layers.linear_rates_from_input(0.5, 54)
    assert rates == pytest.approx([block / 54 * (1 - 0.5) for block in range(1, 55)])
    assert sum(1 - rate for rate in rates) == pytest.approx((3 * 54 - 1) / 4)


def test_a_skipped_branch_is_skipped_for_the_whole_batch_and_weighed_in_evaluation():
    """Eqs. 2 and 5."""
    x = jnp.asarray(RNG.normal(size=(3, 2, 2, 4)), jnp.float32)
    skip = jax.jit(layers.skip_for_batch)
    drawn = np.stack([skip(jax.random.key(seed), x, 0.3) for seed in range(400)])
    kept = drawn.reshape(400, -1).any(1)
    np.testing.assert_array_equal(drawn[kept], np.broadcast_to(x, drawn[kept].shape))
    assert not drawn[~kept].any()
    assert np.mean(~kept) == pytest.approx(0.3, abs=0.08)
    np.testing.assert_allclose(layers.skip_for_batch(None, x, 0.3), 0.7 * x, rtol=1e-6)


def test_evaluation_weighs_each_branch_by_its_own_probability():
    """Against the network of constant depth whose last normalisations are scaled by 1 - l / L (1 - p_L)."""
    depth_of = functools.partial(resflax.create_model, "cifar_resnet20", 10, width=4, shortcut="A_averaged")
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = randomised(depth_of().init(jax.random.key(0), images, train=False))
    leaves = flatten_dict(variables["params"], sep="/")
    for stage in range(3):
        for block in range(3):
            survival = 1 - (3 * stage + block + 1) / 9 * 0.6
            for name in ("scale", "bias"):
                leaves[f"stage{stage + 1}/block{block + 1}/norm2/{name}"] *= survival
    expected = depth_of().apply({**variables, "params": unflatten_dict(leaves, sep="/")}, images, train=False)
    stochastic = functools.partial(depth_of, stochastic_depth=0.6, stochastic_depth_form="batch")
    np.testing.assert_allclose(stochastic().apply(variables, images, train=False), expected, rtol=1e-4, atol=1e-4)
    stacked = {collection: stack_blocks(tree) for collection, tree in variables.items()}
    looped = stochastic(repeat="scan")
    np.testing.assert_allclose(looped.apply(stacked, images, train=False), expected, rtol=1e-4, atol=1e-4)

    def train(model, variables, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    drawn = train(stochastic(), variables, 0)
    np.testing.assert_allclose(train(looped, stacked, 0), drawn, rtol=1e-3, atol=1e-4)
    assert not np.allclose(train(stochastic(), variables, 1), drawn, atol=1e-3)


def test_the_averaged_shortcut():
    """Huang et al. 2016, Sec. 4: average pooling, then zeros for the new channels; a window past the edge has fewer pixels."""
    x = RNG.normal(size=(2, 5, 4, 3)).astype(np.float32)
    ours = np.asarray(layers.AveragedShortcut(7, 2, layers.Conv, NORM).apply({}, x))
    assert ours.shape == (2, 3, 2, 7)
    for row in range(3):
        for column in range(2):
            mean = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2))
            np.testing.assert_allclose(ours[:, row, column, 2:5], mean, rtol=1e-5, atol=1e-6)
    assert not ours[..., :2].any()
    assert not ours[..., 5:].any()
