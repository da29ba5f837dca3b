"""Where in an image a network sees a class."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from resflax.errors import ConfigError
from resflax.models.intermediates import intermediates, stages
from resflax.types import Array, Variables


@functools.partial(jax.jit, static_argnames=("model", "stage"))
def grad_cam(model: nn.Module, variables: Variables, images: Array, classes: Array, stage: str | None = None) -> Array:
    """The class activation maps of Selvaraju et al. 2017, Grad-CAM, Sec. 3, Eqs. 1 and 2.

    `relu(sum over k of alpha[k] A[k])`, where `A[k]` is channel k of a stage's output and `alpha[k]` the mean over its pixels
    of the gradient of the class's logit with respect to it.

    Args:
      model: any network of `resflax.create_model`, in any layout.
      variables: its own.
      images: float[B, H, W, C], normalised.
      classes: int[B], the class of each image that is asked about.
      stage: the name of a part whose output is float[B, H', W', K], see `intermediates`; None: the last one, after whose
        activation the network pools.

    Returns:
      float32[B, H', W'] >= 0, in logits times whatever the stage is in; maps of two images are comparable only in shape.

    Raises:
      ConfigError: there is no such part, or its output has no height and width.
    """
    stage = stage or list(stages(model, variables, images))[-1]
    shape = jax.eval_shape(lambda: intermediates(model, variables, images, [stage])[1][stage])
    if len(shape.shape) != 4:
        raise ConfigError(f"Grad-CAM needs a part whose output has height and width, got {stage} of shape {shape.shape[1:]}")

    def score(shift: Array) -> tuple[Array, Array]:
        logits, found = intermediates(model, variables, images, [stage], {stage: shift})
        return jnp.sum(jnp.take_along_axis(logits, classes[:, None], axis=1)), found[stage]

    gradient, activation = jax.grad(score, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    weights = jnp.mean(gradient, axis=(1, 2), dtype=jnp.float32)  # [B, K]
    return nn.relu(jnp.einsum("bhwk,bk->bhw", activation.astype(jnp.float32), weights))


def upsample(maps: Array, height: int, width: int) -> Array:
    """Maps of a stage at the size of the image: float[B, H', W'] -> float[B, height, width], bilinear."""
    return jax.image.resize(maps, (maps.shape[0], height, width), "bilinear")
