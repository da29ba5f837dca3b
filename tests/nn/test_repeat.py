import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflax
from resflax.nn import stack_blocks, unstack_blocks
from resflax.tree import digest, named_leaves

make = functools.partial(resflax.create_model, "cifar_resnet20", 10, width=4)
IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


@pytest.fixture(scope="module")
def variables():
    return make().init(jax.random.key(0), IMAGES, train=False)


def stacked(variables):
    return {name: stack_blocks(tree) for name, tree in variables.items()}


def loss_and_gradient(model, variables):
    def loss(params):
        logits, updates = model.apply({**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"])
        return jnp.mean(logits**2), updates["batch_stats"]

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


def test_stacking_is_undone_bit_for_bit(variables):
    assert digest(unstack_blocks(stack_blocks(variables["params"]))) == digest(variables["params"])


def test_names(variables):
    assert "stage2/block3/conv1/kernel" in named_leaves(variables["params"])
    leaves = named_leaves(stack_blocks(variables["params"]))
    assert leaves["stage2/blocks/conv1/kernel"].shape == (2, 3, 3, 8, 8)


@pytest.mark.parametrize("mode", ["scan", "scan_remat"])
def test_modes_agree_in_loss_gradient_and_statistics(variables, mode):
    (value, stats), gradient = loss_and_gradient(make(), variables)
    (scan_value, scan_stats), scan_gradient = loss_and_gradient(make(repeat=mode), stacked(variables))
    assert float(scan_value) == pytest.approx(float(value), rel=1e-5)
    for ours, theirs in ((unstack_blocks(scan_stats), stats), (unstack_blocks(scan_gradient), gradient)):
        expected = named_leaves(theirs)
        for name, leaf in named_leaves(ours).items():
            np.testing.assert_allclose(leaf, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_program_of_a_scan_does_not_grow_with_depth():
    def size(depth):
        model = resflax.create_model(f"cifar_resnet{depth}", 10, width=4, repeat="scan")
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))
        apply = jax.jit(lambda variables: model.apply(variables, IMAGES, train=False))
        return len(apply.lower(shapes).as_text().splitlines())

    assert size(110) == size(20)
