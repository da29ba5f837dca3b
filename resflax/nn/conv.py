"""Convolution with explicit padding, and gradients that XLA:CPU runs fast.

XLA:CPU has a fast path only for canonical convolutions (NHWC input, HWIO kernel). Outside of loops it rewrites others
into that form; inside a `while` body (`lax.scan`, `fori_loop`) it does not, and the gradients that JAX derives are never
canonical, so they fall to a naive loop nest, 10 to 70 times slower. `canonical` gradients are canonical convolutions around
explicit transposes. Those of the kernel's gradient are kept apart from what made its arguments.

Two forms are faster there although zeros are multiplied: pairs of outputs, where channels or features are few, and the
gradient of a strided input by the phases of the stride. A value that is not finite reaches a neighbour more in them.

On one CPU with a C compiler, a layer's convolution and its gradients are those of `resflax.nn.native`. There a value that is
not finite reaches the neighbours in its tile of 4 by 4.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.experimental.xla_metadata import set_xla_metadata

from resflax.nn import native
from resflax.nn.stand_in import stand_in
from resflax.types import Array, DType

Pair = tuple[int, int]
Gradient = Literal["lax", "canonical"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Kaiming normal over the fan-out (He et al. 2015b, Delving Deep into Rectifiers, Sec. 2.2, backward case), untruncated.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(
    x: Array,
    kernel: Array,
    *,
    stride: Pair = (1, 1),
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
    gradient: Gradient = "canonical",
) -> Array:
    """Two-dimensional cross-correlation.

    Args:
      x: float[B, H, W, C].
      kernel: float[h, w, C / groups, features].
      stride: step between outputs.
      padding: zeros before and after each spatial axis.
      dilation: step between the taps of the kernel.
      groups: number of groups the channels fall into.
      gradient: `canonical` is fast on XLA:CPU, and lax's own everywhere else; `lax` is lax's own, which can also be
        differentiated forwards (`jax.jvp`).

    Returns:
      float[B, H', W', features] in the dtype of the arguments.
    """
    if gradient == "canonical":
        return _canonical(stride, padding, dilation, groups, x, kernel)
    return _forward(stride, padding, dilation, groups, x, kernel)


def _forward(stride: Pair, padding: tuple[Pair, Pair], dilation: Pair, groups: int, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def _is_product(padding: tuple[Pair, Pair], groups: int, kernel: Array) -> bool:
    """Whether it is a product of each pixel with a matrix."""
    return kernel.shape[:2] == (1, 1) and groups == 1 and not any(map(any, padding))


def _product(stride: Pair, x: Array, kernel: Array) -> Array:
    """A 1x1 convolution as the product that it is, for which XLA:CPU has faster code."""
    strided = lax.slice(x, (0, 0, 0, 0), x.shape, (1, *stride, 1))
    return lax.dot_general(strided, kernel[0, 0], (((3,), (0,)), ((), ())))


def _in_pairs(stride: Pair, padding: tuple[Pair, Pair], x: Array, kernel: Array) -> Array:
    """Two neighbours of a row at once, as twice the features: the kernel, and beside it the kernel a stride further right.

    XLA:CPU copies the window of each output, and multiplies it with vectors of features: half as many windows are copied, each
    a stride wider, and vectors are full where they were half empty.
    """
    step = stride[1]
    wider = jnp.concatenate([jnp.pad(kernel, ((0, 0), side, (0, 0), (0, 0))) for side in ((0, step), (step, 0))], axis=3)
    y = _forward((stride[0], 2 * step), padding, (1, 1), 1, x, wider)  # [B, H', W'/2, 2 * features]
    return y.reshape(*y.shape[:2], -1, kernel.shape[3])


def _pays_in_pairs(stride: Pair, padding: tuple[Pair, Pair], dilation: Pair, groups: int, x: Array, kernel: Array) -> bool:
    """Whether `_in_pairs` is possible, and was found to be faster."""
    _, width, channels, features = kernel.shape
    outputs = (x.shape[2] + sum(padding[1]) - width) // stride[1] + 1
    few = channels < 8 or (features < 32 and stride[1] == 1)
    return few and width > 1 and outputs % 2 == 0 and dilation == (1, 1) and groups == 1


def _pays_natively(groups: int, x: Array, kernel: tuple[int, ...], largest: int = 2**18) -> bool:
    """Whether `resflax.nn.native` can be had, and was found to be faster: for kernels that a core's cache holds."""
    height, width, _, features = kernel
    is_fit = groups == 1 and height * width > 1 and features % native.VECTOR == 0 and math.prod(kernel) <= largest
    return is_fit and native.is_usable(x)


def _on_cpu(
    stride: Pair, padding: tuple[Pair, Pair], dilation: Pair, groups: int, x: Array, kernel: Array
) -> Callable[[Array, Array], Array] | None:
    """The form of a convolution that is faster on a CPU, if there is one."""
    if _is_product(padding, groups, kernel):
        return functools.partial(_product, stride)
    in_pairs = _pays_in_pairs(stride, padding, dilation, groups, x, kernel)
    plain = functools.partial(_in_pairs, stride, padding) if in_pairs else None
    largest = 2**21 if native.is_filtered(x.shape, kernel.shape, stride, dilation) else 2**18
    if not _pays_natively(groups, x, kernel.shape, largest):
        return plain
    return stand_in(
        functools.partial(native.convolution, stride=stride, padding=padding, dilation=dilation),
        plain or functools.partial(_forward, stride, padding, dilation, groups),
    )


def _fastest(stride: Pair, padding: tuple[Pair, Pair], dilation: Pair, groups: int, x: Array, kernel: Array) -> Array:
    convolve = functools.partial(_forward, stride, padding, dilation, groups)
    on_cpu = _on_cpu(stride, padding, dilation, groups, x, kernel)
    return convolve(x, kernel) if on_cpu is None else lax.platform_dependent(x, kernel, cpu=on_cpu, default=convolve)


_canonical = jax.custom_vjp(_fastest, nondiff_argnums=(0, 1, 2, 3))


def _canonical_fwd(
    stride: Pair, padding: tuple[Pair, Pair], dilation: Pair, groups: int, x: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _fastest(stride, padding, dilation, groups, x, kernel), (x, kernel)


def _canonical_bwd(
    stride: Pair, padding: tuple[Pair, Pair], dilation: Pair, groups: int, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    def on_cpu(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        if _is_product(padding, groups, kernel):
            return jax.vjp(functools.partial(_product, stride), x, kernel)[1](dy)
        return (
            _input_gradient(x, kernel, dy, stride, padding, dilation, groups),
            _kernel_gradient_on_cpu(kernel.shape, stride, padding, dilation, groups, x, dy),
        )

    def elsewhere(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return jax.vjp(functools.partial(_forward, stride, padding, dilation, groups), x, kernel)[1](dy)

    return lax.platform_dependent(*saved, dy, cpu=on_cpu, default=elsewhere)


_canonical.defvjp(_canonical_fwd, _canonical_bwd)


def _spread(extent: int, step: int) -> int:
    """The extent of `extent` taps that are `step` apart."""
    return (extent - 1) * step + 1


def _input_gradient(
    x: Array, kernel: Array, dy: Array, stride: Pair, padding: tuple[Pair, Pair], dilation: Pair, groups: int
) -> Array:
    """dL/dx: `dy` convolved with the flipped kernel, inputs and outputs swapped.

    With a stride s, the input `s q + r` is read by the outputs `q + t` through the taps `r + padding - s t`: for each phase r a
    convolution of its own over q. They are one convolution with s * s times the features; its kernel is the flipped one
    between zeros, reshaped. For s = 1 it is the flipped one itself.
    """
    if any(step > 1 for step in stride):  # the taps of a phase are not `dilation` apart
        kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [(0, 0, step - 1) for step in dilation] + [(0, 0, 0)] * 2)
        dilation = (1, 1)
    c, f = kernel.shape[2:]
    sizes, zeros, pads = [], [], []
    for axis in (0, 1):
        step, low, taps = stride[axis], padding[axis][0], kernel.shape[axis]
        reach = _spread(taps, dilation[axis])
        places = -(-x.shape[1 + axis] // step)  # values of q
        first, last = -((reach - 1 - low) // step), (step - 1 + low) // step  # of t
        count = taps if step == 1 else last - first + 1
        before = step * last - low
        zeros.append((before, count * step - taps - before))
        sizes.append((count, step))
        pads.append((-first, places + last - dy.shape[1 + axis]))
    (h, s), (w, z) = sizes
    phased = jnp.pad(kernel, (*zeros, (0, 0), (0, 0))).reshape(h, s, w, z, c, groups, f // groups)
    swapped = lax.rev(phased, (0, 2)).transpose(0, 2, 6, 5, 1, 3, 4).reshape(h, w, f // groups, groups * s * z * c)
    options = ((1, 1), (pads[0], pads[1]), dilation, groups)
    convolve = _on_cpu(*options, dy, swapped) or functools.partial(_forward, *options)
    dx = convolve(dy, swapped)  # [B, H/s, W/z, G * s * z * C/G]
    batch, rows, columns, _ = dx.shape
    dx = dx.reshape(batch, rows, columns, groups, s, z, c).transpose(0, 1, 4, 2, 5, 3, 6)
    return dx.reshape(batch, rows * s, columns * z, groups * c)[:, : x.shape[1], : x.shape[2]]


def _transposed(x: Array, split: tuple[int, ...], axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """`x.reshape(split).transpose(axes).reshape(shape)`, as a copy of an array that lies in memory.

    Else XLA:CPU fuses what made it into the transpose, and again into each of its readers: element-wise loops that repeat the
    chain of operations since the last convolution and read with large strides, eight times slower than a plain copy. So this
    is a computation that is not inlined, and its result has the layout that convolutions want.
    """

    def transpose(x: Array) -> Array:
        return x.reshape(split).transpose(axes).reshape(shape)

    def placed(x: Array) -> Array:
        return with_layout_constraint(transpose(x), Layout(tuple(range(len(shape)))))

    def apart(x: Array) -> Array:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(placed, inline=False)(x)

    if jax.device_count() > 1:  # the partitioner has to see through it
        return transpose(x)
    return stand_in(apart, transpose)(x)


def _kernel_gradient_on_cpu(
    kernel: tuple[int, ...], stride: Pair, padding: tuple[Pair, Pair], dilation: Pair, groups: int, x: Array, dy: Array
) -> Array:
    """`_kernel_gradient`, natively where that pays; there a vector is of inputs as well, of which three are too few."""
    plain = functools.partial(_kernel_gradient, kernel, stride, padding, dilation, groups)
    if kernel[2] < 8 or not _pays_natively(groups, x, kernel):
        return plain(x, dy)
    return stand_in(functools.partial(native.kernel_gradient, kernel, stride, padding, dilation), plain)(x, dy)


def _kernel_gradient(
    kernel: tuple[int, ...], stride: Pair, padding: tuple[Pair, Pair], dilation: Pair, groups: int, x: Array, dy: Array
) -> Array:
    """dL/dkernel: `x` convolved with `dy`, the batch in the place of the channels; stride and dilation change places."""
    batch, height, width, channels = x.shape
    inputs = channels // groups
    split = (batch, height, width, groups, inputs)
    images = _transposed(x, split, (4, 1, 2, 3, 0), (inputs, height, width, groups * batch))  # [C/G, H, W, G*B]
    outputs = _transposed(dy, dy.shape, (1, 2, 0, 3), (*dy.shape[1:3], batch, dy.shape[3]))  # [H', W', B, F]
    pads = []
    for axis in (0, 1):
        low = padding[axis][0]
        used = _spread(kernel[axis], dilation[axis]) - 1 + _spread(dy.shape[1 + axis], stride[axis])
        pads.append((low, used - x.shape[1 + axis] - low))
    return _forward(dilation, (pads[0], pads[1]), stride, groups, images, outputs).transpose(1, 2, 0, 3)  # [h, w, C/G, F]


class Conv(nn.Module):
    """A convolution whose padding is written down: `dilation * (kernel_size - 1) // 2` zeros on both sides, as in PyTorch.

    Maps float[B, H, W, C] to float[B, H', W', features] with H' = floor((H + 2p - dilation (k-1) - 1) / stride) + 1.
    Parameters: `kernel` float[k, k, C / groups, features] and, with `use_bias`, `bias` float[features].
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int | None = None  # zeros on each side; None: the formula above; 0: "valid"
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    gradient: Gradient = "canonical"  # see `convolution`
    dtype: DType = None  # of the computation; None: that of the input and parameters together
    param_dtype: DType = jnp.float32
    kernel_init: Any = kaiming_normal

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k = self.kernel_size
        pad = self.dilation * (k - 1) // 2 if self.padding is None else self.padding
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        kernel = self.reparametrise(self.param("kernel", self.kernel_init, shape, self.param_dtype))
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolution(
            x,
            kernel,
            stride=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            dilation=(self.dilation, self.dilation),
            groups=self.groups,
            gradient=self.gradient,
        )
        return y if bias is None else y + bias

    def reparametrise(self, kernel: Array) -> Array:
        """The kernel that is convolved with, made of the parameter: here the parameter itself."""
        return kernel


class StandardizedConv(Conv):
    """A convolution whose kernel has mean 0 and variance 1 in each output channel (Qiao et al. 2019, Eq. 5).

    `w = (kernel - mean) / sqrt(var + epsilon)` over height, width and input channels, with the biased variance.
    """

    epsilon: float = 1e-8  # BiT as timm and transformers have it; Kolesnikov et al. 2020 published their code with 1e-10

    def reparametrise(self, kernel: Array) -> Array:
        """See the class."""
        axes = (0, 1, 2)
        centred = kernel - jnp.mean(kernel, axes)
        return centred * lax.rsqrt(jnp.mean(jnp.square(centred), axes) + self.epsilon)
