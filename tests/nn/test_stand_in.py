"""A form for the programs of this process; derivatives and exported programs are those of the plain function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.nn.stand_in import stand_in


def here(x, y):
    return {"sum": x + y, "first": (x,)}


def elsewhere(x, y):
    return {"sum": x - y, "first": (2 * x,)}


chosen = stand_in(here, elsewhere)
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


@pytest.mark.parametrize("run", [lambda function: function, jax.jit])
def test_derivatives_are_those_of_the_plain_function(run):
    values, tangents = run(lambda *arguments: jax.jvp(chosen, (x, y), arguments))(3 * y, x)
    equal(values, here(x, y))
    equal(tangents, jax.jvp(elsewhere, (x, y), (3 * y, x))[1])
    values, pull = jax.vjp(chosen, x, y)
    equal(values, here(x, y))
    equal(run(pull)(values), jax.vjp(elsewhere, x, y)[1](values))


def test_derivatives_by_one_argument_batched_and_again():
    def loss(x):
        return (chosen(x, y)["sum"] ** 3).sum()

    def slope(x):
        return 3 * (x + y) ** 2  # of the form's value, times the plain function's derivative, 1

    np.testing.assert_array_equal(jax.grad(loss)(x), slope(x))
    both = jnp.stack([x, 10 * x], 1)
    np.testing.assert_array_equal(jax.vmap(jax.grad(loss), 1, 1)(both), jax.vmap(slope, 1, 1)(both))
    np.testing.assert_array_equal(jax.hessian(loss)(x), jnp.diag(6 * (x + y)))
