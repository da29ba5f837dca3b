"""A form that is left out of exported programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.nn.exporting import unless_exported


def here(x, y):
    return {"sum": x + y, "first": (x,)}


def elsewhere(x, y):
    return {"sum": x - y, "first": (2 * x,)}


chosen = unless_exported(here, elsewhere)
x, y = jnp.arange(3.0), jnp.ones(3)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("run", [lambda function: function, jax.jit])
def test_programs_of_this_process_have_the_form(run):
    equal(run(chosen)(x, y), here(x, y))


@pytest.mark.parametrize("platforms", [("cpu",), ("cpu", "cuda", "tpu")])
def test_exported_programs_do_not(platforms):
    exported = jax.export.export(jax.jit(chosen), platforms=platforms)(x, y)
    equal(jax.export.deserialize(exported.serialize()).call(x, y), elsewhere(x, y))
    equal(jax.jit(chosen)(x, y), here(x, y))


def test_for_any_size():
    (size,) = jax.export.symbolic_shape("size")
    shape = jax.ShapeDtypeStruct((size,), x.dtype)
    equal(jax.export.export(jax.jit(chosen))(shape, shape).call(x, y), elsewhere(x, y))


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 1), ((1, 1))])
def test_batches(axes):
    arguments = [one if axis is None else jnp.stack([one, 10 * one], axis) for one, axis in zip((x, y), axes, strict=True)]
    function = jax.vmap(chosen, axes)
    equal(function(*arguments), jax.vmap(here, axes)(*arguments))
    equal(jax.export.export(jax.jit(function))(*arguments).call(*arguments), jax.vmap(elsewhere, axes)(*arguments))


def test_it_is_called_and_not_differentiated():
    with pytest.raises(NotImplementedError, match="unless_exported"):
        jax.grad(lambda x: chosen(x, y)["sum"].sum())(x)
