"""Convolutions and sums in C: what they compute, for every shape and every kind of vector, and where they are used."""

import functools
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resflax.nn import convolution, native
from resflax.nn.conv import _pays_natively
from resflax.nn.normalise import normalise

CASES = [
    # taps, stride, padding, dilation, size, channels, features, batch
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (8, 8), 16, 16, 17),
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (9, 19), 21, 48, 3),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (9, 8), 20, 32, 4),
    ((7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), (23, 41), 3, 16, 2),
    ((3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), (11, 10), 5, 80, 2),
    ((2, 5), (3, 2), ((0, 2), (1, 3)), (2, 1), (12, 13), 8, 16, 1),
    ((3, 3), (1, 1), ((-1, 0), (0, -2)), (1, 1), (9, 10), 4, 32, 2),
    ((3, 3), (1, 1), ((-2, 1), (-3, 2)), (1, 2), (9, 12), 17, 16, 2),
    ((3, 3), (1, 1), ((4, 4), (5, 5)), (1, 1), (2, 1), 3, 16, 2),  # outputs that see nothing but zeros
    ((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), (5, 7), 33, 64, 2),
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (90, 130), 16, 16, 1),  # several blocks of an image
    ((3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), (33, 301), 24, 16, 2),
    # by minimal filtering, as the first: tiles that hang over, see padding alone, or are one; blocks of several images
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (9, 19), 32, 48, 3),
    ((3, 3), (1, 1), ((-1, 0), (0, -2)), (1, 1), (9, 10), 16, 32, 2),
    ((3, 3), (1, 1), ((4, 4), (5, 5)), (1, 1), (2, 2), 16, 32, 2),
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (4, 1), 32, 32, 2),  # not: most taps see nothing
    ((3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), (3, 3), 48, 16, 20),
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (34, 41), 32, 16, 3),
]


def drawn(case):
    """Arguments, in float64: images, kernel, gradient of the outputs, and lax's options."""
    taps, size, channels, features, batch = case[0], *case[4:]
    rng = np.random.default_rng(features + channels)
    x, kernel = rng.normal(size=(batch, *size, channels)), rng.normal(size=(*taps, channels, features))
    outputs = jax.eval_shape(
        functools.partial(by_lax, case), *(jax.ShapeDtypeStruct(one.shape, jnp.float32) for one in (x, kernel))
    )
    return x, kernel, rng.normal(size=outputs.shape)


def by_lax(case, x, kernel):
    _, stride, padding, dilation = case[:4]
    return lax.conv_general_dilated(
        x, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )


def natively(case, x, kernel):
    return native.convolution(x, kernel, stride=case[1], padding=case[2], dilation=case[3])


def gradient(case, x, dy):
    return native.kernel_gradient((*case[0], case[5], case[6]), *case[1:4], x, dy)


# [G, N, ..., C]; one block and many, fewer places than parts, places that parts do not divide
PLACES = [(2, 4, 6, 10, 16), (1, 16, 3, 3, 48), (3, 5, 32), (1, 64, 19, 13, 80), (2, 16, 1, 1, 5008), (4, 1, 1, 1, 16)]


def drawn_places(shape):
    """Numbers far from zero, and their gradients, in float64."""
    rng = np.random.default_rng(shape[-1])
    return rng.normal(100, 0.5, shape).astype(np.float32).astype(float), rng.normal(size=shape).astype(np.float32).astype(float)


def check_sums(shape):
    """Against NumPy in float64."""
    x, dy = drawn_places(shape)
    axes = tuple(range(1, len(shape) - 1))
    mean, var = (np.asarray(one) for one in jax.jit(native.moments)(jnp.asarray(x, jnp.float32)))
    assert mean.shape == var.shape == (shape[0], *(1,) * len(axes), shape[-1])
    np.testing.assert_allclose(mean, x.mean(axes, keepdims=True), rtol=3e-7)
    np.testing.assert_allclose(var, x.var(axes, keepdims=True), rtol=1e-5, atol=1e-12)
    of_dy, products = jax.jit(native.sums)(*(jnp.asarray(one, jnp.float32) for one in (x, dy, mean)))
    for ours, terms in ((of_dy, dy), (products, dy * (x - mean))):
        allowed = 1e-6 * np.abs(terms).sum(axes, keepdims=True)
        assert np.all(np.abs(np.asarray(ours) - terms.sum(axes, keepdims=True)) <= allowed)


def check(case):
    """Against lax in float64. An error of float32 is one of the sum of the products' sizes."""
    with jax.enable_x64(True):
        x, kernel, dy = drawn(case)
        y, pull = jax.vjp(functools.partial(by_lax, case), jnp.asarray(x), jnp.asarray(kernel))
        sizes, pull_sizes = jax.vjp(functools.partial(by_lax, case), jnp.abs(x), jnp.abs(kernel))
        expected, scale = np.asarray(pull(jnp.asarray(dy))[1]), np.asarray(pull_sizes(jnp.abs(dy))[1])
    single = [jnp.asarray(one, jnp.float32) for one in (x, kernel, dy)]
    ours = np.asarray(jax.jit(functools.partial(natively, case))(single[0], single[1]))
    assert ours.dtype == np.float32
    assert np.max(np.abs(ours - np.asarray(y)) - 1e-6 * np.asarray(sizes)) <= 1e-12
    ours = np.asarray(jax.jit(functools.partial(gradient, case))(single[0], single[2]))
    assert np.max(np.abs(ours - expected) - 1e-6 * scale) <= 1e-12


@pytest.fixture(autouse=True)
def compiled():
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    assert native.is_available()


@pytest.mark.parametrize("case", CASES)
def test_equals_lax_in_double_precision(case):
    check(case)


@pytest.mark.parametrize("shape", PLACES)
def test_sums_equal_numpys_in_double_precision(shape):
    check_sums(shape)


@pytest.mark.parametrize("flags", ["-mno-avx512f", "-mno-avx", "-Wall -Wextra -Wno-psabi -Werror"])
def test_every_kind_of_vector(flags, one_device_environment, tmp_path):
    """Tiles of 16, 8 and 4 lanes, in a process of its own on one device; and the compiler has nothing to say."""
    program = """
from tests.nn.test_native import *
assert native.is_available()
[*map(check, CASES), *map(check_sums, PLACES)]
"""
    environment = {**one_device_environment, "CC": f"cc {flags}", "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=300)
    assert len(list((tmp_path / "resflax" / "native").iterdir())) == 1


def test_batches_of_layers():
    """`jax.vmap`, nested, over both arguments or one."""
    case = CASES[0]
    rng = np.random.default_rng(0)
    x, kernels = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 2, 4, 8, 8, 16), (3, 2, 3, 3, 16, 16)))
    one = functools.partial(natively, case)
    both = jax.vmap(jax.vmap(one))(x, kernels)
    for i, j in np.ndindex(3, 2):
        np.testing.assert_array_equal(both[i, j], one(x[i, j], kernels[i, j]))
    same = jax.vmap(one, (None, 0))(x[0, 0], kernels[0])
    np.testing.assert_array_equal(same[1], one(x[0, 0], kernels[0, 1]))
    means, variances = jax.vmap(native.moments)(both)  # the second dimension as groups
    products = jax.vmap(native.sums)(both, x[..., :8, :8, :] * 3, means)
    for i in range(3):
        for ours, alone in zip((means, variances), native.moments(both[i]), strict=True):
            np.testing.assert_array_equal(ours[i], alone)
        for ours, alone in zip(products, native.sums(both[i], x[i] * 3, means[i]), strict=True):
            np.testing.assert_array_equal(ours[i], alone)
    dy = both
    gradients = jax.vmap(jax.vmap(functools.partial(gradient, case)))(x, dy)
    np.testing.assert_array_equal(gradients[2, 1], gradient(case, x[2, 1], dy[2, 1]))


DIGEST = """
import functools, hashlib, jax, jax.numpy as jnp, numpy as np
from tests.nn.test_native import CASES, PLACES, drawn, drawn_places, gradient, native, natively
assert native.is_available()
for shape in PLACES:
    x, dy = (jnp.asarray(one, jnp.float32) for one in drawn_places(shape))
    mean, var = native.moments(x)
    for result in (mean, var, *native.sums(x, dy, mean)):
        print(hashlib.sha256(np.asarray(result).tobytes()).hexdigest())
for case in CASES:
    x, kernel, dy = (jnp.asarray(one, jnp.float32) for one in drawn(case))
    for result in (natively(case, x, kernel), gradient(case, x, dy)):
        print(hashlib.sha256(np.asarray(result).tobytes()).hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bits(one_device_environment):
    def digests(cores):
        start = f"import os; os.sched_setaffinity(0, {cores})\n"
        child = subprocess.run(
            [sys.executable, "-c", start + DIGEST],
            env=one_device_environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return child.stdout.split()

    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core alone")
    alone = digests({min(cores)})
    assert len(alone) == 2 * len(CASES) + 4 * len(PLACES)
    assert digests(cores) == alone


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


OPTIONS = {"padding": ((1, 1), (1, 1))}


def lowered(x, kernel, platform="cpu", **options):
    def both(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, **{**OPTIONS, **options}), x, kernel)
        return pull(y)

    return jax.jit(both).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("channels", "gradients"), [(16, 1), (192, 0)])  # of larger kernels only the outputs and inputs
def test_a_training_step_on_one_cpu_uses_them(one_device, channels, gradients):
    text = lowered(jnp.ones((2, 8, 8, channels)), jnp.ones((3, 3, channels, 2 * channels)))
    assert [text.count(f"@{name}(") for name in ("resflax_convolution", "resflax_kernel_gradient")] == [2, gradients]
    assert text.count("stablehlo.convolution") == 1 - gradients


@pytest.mark.parametrize(
    ("x", "kernel", "options"),
    [
        (jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 32)), {"platform": "cuda"}),
        (jnp.ones((2, 8, 8, 16), jnp.bfloat16), jnp.ones((3, 3, 16, 32), jnp.bfloat16), {}),
        (jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 8, 32)), {"groups": 2}),
        (jnp.ones((2, 8, 8, 8)), jnp.ones((3, 3, 8, 24)), {}),  # not whole vectors
        (jnp.ones((2, 4, 4, 512)), jnp.ones((3, 3, 512, 512)), {}),  # beyond a core's cache
        (jnp.ones((2, 5, 5, 192)), jnp.ones((3, 3, 192, 192)), {"dilation": (2, 2), "padding": ((2, 2), (2, 2))}),
        (jnp.ones((2, 8, 8, 16)), jnp.ones((1, 1, 16, 32)), {"padding": ((0, 0), (0, 0))}),  # a product
    ],
)
def test_everything_else_is_left_to_xla(one_device, x, kernel, options):
    assert "resflax_" not in lowered(x, kernel, **options)


def test_several_devices_are_left_to_xla(monkeypatch):
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 32))
    assert jax.device_count() > 1
    assert "resflax_" not in lowered(x, kernel)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert _pays_natively(1, x, kernel.shape)


def test_programs_that_are_exported_are_xlas(one_device):
    """A training step's layers too, and for any batch; the same function in this process has the C."""
    (batch,) = jax.export.symbolic_shape("batch")

    def loss(x, kernel, scale):
        y = normalise(convolution(x, kernel, **OPTIONS), scale, scale, 1e-5)[0]
        return jnp.sum(y**3), y

    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    rng = np.random.default_rng(0)
    x, kernel, scale = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((4, 8, 8, 16), (3, 3, 16, 16), 16))
    shapes = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in (kernel, scale)]
    for images in (x, jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)):
        for platforms in (("cpu",), ("cpu", "cuda", "tpu")):
            exported = jax.export.export(step, platforms=platforms)(images, *shapes)
            assert "resflax_" not in exported.mlir_module()
    assert "resflax_" in step.lower(x, kernel, scale).as_text()
    theirs = jax.export.deserialize(exported.serialize()).call(x, kernel, scale)
    for one, other in zip(jax.tree.leaves(step(x, kernel, scale)), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=5e-6 * float(jnp.max(jnp.abs(other))))


def test_programs_without_gradients_use_them(one_device):
    text = jax.jit(functools.partial(convolution, **OPTIONS)).lower(jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 32))).as_text()
    assert text.count("@resflax_convolution(") == 1
    assert "stablehlo.convolution" not in text


@pytest.mark.parametrize("stride", [1, 2])
def test_first_and_second_derivatives_are_as_exact_as_those_of_lax(one_device, stride):
    rng = np.random.default_rng(stride)
    x, kernel = (
        jnp.asarray(rng.normal(size=(3, 9, 9, 16)), jnp.float32),
        jnp.asarray(rng.normal(size=(3, 3, 16, 16)), jnp.float32),
    )

    def loss(form, x, kernel):
        return jnp.mean(jnp.sin(convolution(x, kernel, stride=(stride, stride), **OPTIONS, gradient=form)))

    def size_of_gradient(form, x, kernel):
        return sum(jnp.sum(one**2) for one in jax.grad(functools.partial(loss, form), (0, 1))(x, kernel))

    def derivatives(function, form, *arguments):
        return jax.jit(jax.grad(functools.partial(function, form), (0, 1)))(*arguments)

    for function in (loss, size_of_gradient):
        ours, theirs = (derivatives(function, form, x, kernel) for form in ("canonical", "lax"))
        with jax.enable_x64(True):
            exact = derivatives(function, "lax", *(jnp.asarray(np.asarray(one), jnp.float64) for one in (x, kernel)))
        for one, other, reference in zip(ours, theirs, map(np.asarray, exact), strict=True):
            assert reference.dtype == np.float64
            ours_off, theirs_off = (np.max(np.abs(value - reference)) for value in (one, other))
            assert ours_off <= 1.5 * theirs_off <= 1e-5 * np.max(np.abs(reference))


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler", "", "'", "cc --no-such-option", "sh -c 'exit 0'"])
def test_without_a_compiler_steps_are_xlas(compiler, one_device_environment, tmp_path):
    program = """
import jax, jax.numpy as jnp
from resflax.nn import convolution, native
loss = lambda kernel: convolution(jnp.ones((2, 4, 4, 16)), kernel).sum()
print(native.is_available(), jax.grad(loss)(jnp.ones((3, 3, 16, 16))).sum())
"""
    environment = {**one_device_environment, "CC": compiler, "XDG_CACHE_HOME": str(tmp_path)}
    child = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["False", str(2 * 4 * 9 * 16 * 16.0)]
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]  # nothing half made


def test_a_library_is_compiled_once_for_each_compiler_and_processor(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = native._compiled()
    made = first.stat().st_mtime_ns
    assert native._compiled() == first
    assert first.stat().st_mtime_ns == made
    monkeypatch.setattr(native, "_processor", lambda: "another")
    assert native._compiled() != first
    monkeypatch.setenv("CC", "cc -DANOTHER")
    assert len({first, native._compiled()}) == 2


def test_threads_that_ask_at_once_are_told_the_same(one_device_environment, tmp_path):
    program = """
import threading
from concurrent.futures import ThreadPoolExecutor
from resflax.nn import native
together = threading.Barrier(8)
with ThreadPoolExecutor(8) as pool:
    print(*pool.map(lambda _: (together.wait(), native.is_available())[1], range(8)))
"""
    environment = {**one_device_environment, "XDG_CACHE_HOME": str(tmp_path)}
    child = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["True"] * 8


def test_it_can_be_compiled_beforehand(one_device_environment, tmp_path):
    program = """
import threading
from resflax.nn import native
native.prepare()
[one.join() for one in threading.enumerate() if one.name == "native"]
"""
    environment = {**one_device_environment, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert len(list((tmp_path / "resflax" / "native").iterdir())) == 1


def test_where_nothing_can_be_kept_steps_are_xlas(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert native._is_registered.__wrapped__() is False


def normalised(shape, platform="cpu", dtype=jnp.float32, gradient="autodiff"):
    """The text of a normalisation with its gradient."""

    def both(x, scale, bias):
        y, pull = jax.vjp(lambda *arguments: normalise(*arguments, 1e-5, gradient)[0], x, scale, bias)
        return pull(y)

    arguments = jnp.ones(shape, dtype), jnp.ones(shape[-1]), jnp.ones(shape[-1])
    return jax.jit(both).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("gradient", ["autodiff", "closed_form"])
def test_normalisation_on_one_cpu_uses_them(one_device, gradient):
    text = normalised((2, 4, 8, 8, 16), gradient=gradient)
    assert [text.count(f"@{name}(") for name in ("resflax_moments", "resflax_sums")] == [1, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (2, 4, 8, 8, 16), "platform": "cuda"},
        {"shape": (2, 4, 8, 8, 16), "dtype": jnp.bfloat16},
        {"shape": (2, 4, 8, 8, 24)},  # not whole vectors
    ],
)
def test_other_normalisation_is_left_to_xla(one_device, options):
    assert "resflax_" not in normalised(**options)


def test_wider_parameters_are_left_to_xla(one_device):
    """Then gradients are in float64 beside inputs in float32."""
    with jax.enable_x64(True):
        x, scale = jnp.ones((1, 16, 16), jnp.float32), jnp.ones(16, jnp.float64)
        text = jax.jit(jax.grad(lambda x: normalise(x, scale, scale, 1e-5)[0].sum())).lower(x).as_text()
    assert "resflax_sums" not in text


def test_normalisation_and_its_derivatives_are_those_that_jax_derives(monkeypatch):
    rng = np.random.default_rng(3)
    x, weights = (jnp.asarray(rng.normal(size=(2, 4, 6, 6, 16)), jnp.float32) for _ in range(2))
    scale, bias = (jnp.asarray(rng.uniform(0.5, 1.5, 16), jnp.float32) for _ in range(2))

    def loss(x, scale, bias):
        y, mean, var = normalise(x, scale, bias, 1e-3)
        return jnp.sum(weights * jnp.sin(y)) + jnp.sum(mean * var)

    def size_of_gradient(*arguments):
        return sum(jnp.sum(one**2) for one in jax.grad(loss, (0, 1, 2))(*arguments))

    def derivatives(devices):
        monkeypatch.setattr(jax, "device_count", lambda: devices)
        return [jax.jit(jax.value_and_grad(one, (0, 1, 2)))(x, scale, bias) for one in (loss, size_of_gradient)]

    assert "resflax_" not in normalised(x.shape)
    plain, ours = derivatives(8), derivatives(1)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5 * float(jnp.max(jnp.abs(other))))
