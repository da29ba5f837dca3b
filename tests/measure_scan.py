"""python -m tests.measure_scan: six 3x3 convolutions, forward and backward, unrolled and in a scan, measured in turn.

A measurement and no test: it asserts nothing. Compiled as training steps are. `--naive` also times
lax's own gradient in the scan.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
from jax import lax

from resflax.compiler import fusion_options
from resflax.nn import convolution

CONVOLUTIONS, CHANNELS, SIZE, BATCH, REPEATS = 6, 32, 16, 128, 15
PADDING = ((1, 1), (1, 1))


def unrolled(gradient):
    def loss(kernels, x):
        for kernel in kernels:
            x = jax.nn.relu(convolution(x, kernel, padding=PADDING, gradient=gradient))
        return jnp.sum(x**2)

    return loss


def scanned(gradient):
    def body(x, kernel):
        return jax.nn.relu(convolution(x, kernel, padding=PADDING, gradient=gradient)), None

    return lambda kernels, x: jnp.sum(lax.scan(body, x, kernels)[0] ** 2)


def main():
    x = jax.random.normal(jax.random.key(0), (BATCH, SIZE, SIZE, CHANNELS))
    kernels = 0.05 * jax.random.normal(jax.random.key(1), (CONVOLUTIONS, 3, 3, CHANNELS, CHANNELS))
    forms = {
        "unrolled, lax": unrolled("lax"),
        "unrolled, canonical": unrolled("canonical"),
        "scan, canonical": scanned("canonical"),
    }
    if "--naive" in sys.argv:
        forms["scan, lax"] = scanned("lax")
    options = fusion_options(jax.devices()[0], "float32")
    gradients = {name: jax.jit(jax.grad(form, (0, 1)), compiler_options=options) for name, form in forms.items()}
    compiled = {name: gradient.lower(kernels, x).compile() for name, gradient in gradients.items()}
    seconds = {name: [] for name in forms}
    for _ in range(REPEATS + 1):
        for name, form in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(form(kernels, x))
            seconds[name].append(time.perf_counter() - began)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, batch {BATCH}, {SIZE}x{SIZE}x{CHANNELS}, float32")
    for name, (_, *values) in seconds.items():  # the first of each is warm-up
        low, high = min(values) * 1e3, max(values) * 1e3
        print(f"{name}: median {statistics.median(values) * 1e3:.1f} ms, {low:.1f} to {high:.1f}, n={len(values)}")


if __name__ == "__main__":
    main()
