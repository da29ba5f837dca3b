"""Random numbers in C: the bits are JAX's."""

import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry2x32_p

from resflax.nn import native, threefry
from resflax.prng import stream_key

SEEDS = [0, 7, 2**32 - 1]
DRAWS = {
    "normal": lambda key: jax.random.normal(key, (3, 3, 5, 7)),
    "uniform": lambda key: jax.random.uniform(key, (), minval=-2.0),
    "more than a vector": lambda key: jax.random.bits(key, (1001,)),
    "none": lambda key: jax.random.bits(key, (4, 0)),
    "bytes": lambda key: jax.random.bits(key, (5,), jnp.uint8),
    "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (33,)),
    "integers": lambda key: jax.random.randint(key, (9,), 0, 1000),
    "permutation": lambda key: jax.random.permutation(key, 40),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "keys of a key of many": lambda key: jax.vmap(lambda key: jax.random.bits(jax.random.split(key)[1], (2,)))(
        jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 2**32 - 1), jnp.arange(17))
    ),
    "two axes of keys": lambda key: jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (4,))))(jax.random.split(key, (3, 2))),
    "many numbers of many keys": lambda key: jax.vmap(
        lambda key, numbers: jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, numbers))
    )(jax.random.split(key, 3), jnp.arange(6).reshape(3, 2)),
    "in a loop": lambda key: jax.random.key_data(jax.lax.scan(lambda key, _: (*jax.random.split(key),), key, length=3)[1]),
}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def all_draws(impl):
    """`seed -> {name: what is drawn}`, as one program."""

    def program(seed):
        key = jax.random.key(seed, impl=impl)
        return {name: draw(key) for name, draw in DRAWS.items()}

    return jax.jit(program)


def check_draws():
    assert threefry.implementation() is not None
    ours, theirs = all_draws(threefry.implementation()), all_draws(None)
    for seed in SEEDS:
        expected = theirs(np.uint32(seed))
        for name, found in ours(np.uint32(seed)).items():
            np.testing.assert_array_equal(found, expected[name], name, strict=True)


def test_draws_are_those_of_jax():
    check_draws()


@pytest.mark.parametrize("name", ["uniform", "split", "two axes of keys"])
def test_without_a_program_too(name):
    ours, theirs = (DRAWS[name](jax.random.key(3, impl=impl)) for impl in (threefry.implementation(), None))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_streams_are_those_of_jax(seed):
    key = stream_key(np.uint32(seed), "dropout")
    assert key.dtype != jax.random.key(0).dtype
    np.testing.assert_array_equal(
        jax.random.key_data(key), jax.random.key_data(jax.random.fold_in(jax.random.key(np.uint32(seed)), 2))
    )


def draw(seed):
    return jax.random.normal(jax.random.split(stream_key(seed, "init"))[0], (5,))


def test_programs_of_one_cpu_have_them_in_c():
    lowered = jax.jit(draw).lower(np.uint32(0)).as_text()
    assert lowered.count("@resflax_threefry(") == 3
    assert "stablehlo.while" not in lowered


def test_other_programs_have_jaxs():
    exported = jax.export.export(jax.jit(draw), platforms=("cpu", "cuda"))(np.uint32(4))
    assert "resflax_" not in exported.mlir_module()
    np.testing.assert_array_equal(jax.export.deserialize(exported.serialize()).call(np.uint32(4)), draw(np.uint32(4)))
    assert "resflax_" not in jax.jit(draw).trace(np.uint32(0)).lower(lowering_platforms=("cuda",)).as_text()


def test_exported_for_any_batch():
    def noisy(images):
        return images * jax.random.bernoulli(stream_key(np.uint32(3), "dropout"), 0.5, images.shape)

    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(noisy))(jax.ShapeDtypeStruct((batch, 5), jnp.float32))
    np.testing.assert_array_equal(exported.call(jnp.ones((7, 5))), jax.jit(noisy)(jnp.ones((7, 5))))


def test_several_devices_have_jaxs(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert threefry.implementation() is None


@pytest.mark.parametrize(("option", "value"), [("jax_threefry_partitionable", False), ("jax_default_prng_impl", "rbg")])
def test_other_numbers_that_jax_is_set_to_draw_are_left_to_it(option, value):
    before = jax.config.values[option]
    jax.config.update(option, value)
    try:
        assert threefry.implementation() is None
    finally:
        jax.config.update(option, before)


@pytest.mark.parametrize("flags", ["-mno-avx512f", "-mno-avx"])
def test_every_kind_of_vector(flags, one_device_environment, tmp_path):
    program = """
from tests.nn.test_threefry import *
check_draws()
test_counts_beyond_32_bits()
"""
    environment = {**one_device_environment, "CC": f"cc {flags}", "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=300)
    assert len(list((tmp_path / "resflax" / "native").iterdir())) == 1


def test_counts_beyond_32_bits():
    key, first, count = jnp.array([3, 5], jnp.uint32), 2**32 - 21, 67
    counts = first + np.arange(count, dtype=np.uint64)
    expected = threefry2x32_p.bind(*key, (counts >> 32).astype(np.uint32), counts.astype(np.uint32))
    np.testing.assert_array_equal(native.threefry(key, jnp.uint32(first), count), expected)
