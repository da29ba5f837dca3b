"""Transformations that treat layers one by one, alike in both layouts of a network.

A looped network stacks the parameters of its blocks (`resflax.nn.repeat`). A norm, or a matrix made orthogonal, over such a
stack would mix layers that are apart when the network is unrolled, so each rule here sees one layer's parameter at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from resflax.nn.repeat import STACKED
from resflax.types import Array

Rule = Callable[[Array, Array], Array]  # (update, parameter) of one layer -> update
Select = Callable[[tuple[str, ...]], bool]  # ("stage1", "block1", "conv1", "kernel") -> whether the rule applies

# The first convolution of a stem, a deep stem, a VGG; the tutorial's ResNet begins with a block and has none.
_FIRST = ("stem_conv", "stem_conv1", "conv1")


def layerwise(rule: Rule, select: Select) -> optax.GradientTransformation:
    """Applies `rule` to each selected parameter, mapped over the axis of layers where the parameter has one.

    Args:
      rule: of one layer; what it returns has the update's shape.
      select: by name; updates that are not selected pass unchanged.
    """

    def update(updates: Any, params: Any) -> Any:
        def one(path: tuple[Any, ...], update: Array, param: Array) -> Array:
            names = tuple(part.key for part in path)
            if not select(names):
                return update
            return (jax.vmap(rule) if STACKED in names else rule)(update, param)

        return jax.tree_util.tree_map_with_path(one, updates, params)

    return optax.stateless(update)


def is_kernel(names: tuple[str, ...]) -> bool:
    """Weights of convolutions and dense layers; no biases, no parameters of a normalisation."""
    return names[-1] == "kernel"


def is_hidden_kernel(names: tuple[str, ...]) -> bool:
    """Kernels between the first convolution and the classifier, both of which are left out."""
    return is_kernel(names) and names[0] not in ("head", *_FIRST)


def trust_ratio(coefficient: float) -> optax.GradientTransformation:
    """LARS' local rate: a layer's update times `coefficient * |w| / |update|` (You et al. 2017, Sec. 4); with 1, that of LAMB.

    The paper's Eq. 6 divides by `|gradient| + decay * |w|` and treats every parameter so. This follows what SimCLR and optax
    made of it: the norm is that of the sum `gradient + decay * w`, which the paper's bounds from above, and only kernels
    have a ratio; biases and parameters of normalisations are updated as by SGD, and do not decay either (the rule of MLPerf,
    which keeps the paper's divisor). The ratio is 1 where one of the norms is 0.
    """
    scale = optax.scale_by_trust_ratio(trust_coefficient=coefficient)
    return layerwise(lambda update, param: scale.update(update, optax.EmptyState(), param)[0], is_kernel)


def clip_adaptively(limit: float) -> optax.GradientTransformation:
    """Adaptive gradient clipping (Brock et al. 2021, Eq. 3), of all but the classifier (the paper, Sec. 4.1).

    A unit's gradient `g` becomes `g * min(1, limit * max(|w|, 1e-3) / |g|)`. The units of a kernel are its slices along the
    last axis, one an output; a vector is one unit, as in the authors' code.
    """

    def rule(update: Array, param: Array) -> Array:
        # Given outright: by itself optax takes a kernel of one input, [1, outputs], for a vector.
        clip = optax.adaptive_grad_clip(limit, eps=1e-3, axis=tuple(range(max(1, param.ndim - 1))))
        return clip.update(update, optax.EmptyState(), param)[0]

    return layerwise(rule, lambda names: names[0] != "head")


def orthogonalized() -> optax.GradientTransformation:
    """Muon's last step (Jordan et al. 2024): the velocity of a hidden kernel becomes a nearly orthogonal matrix.

    A kernel [..., inputs, outputs] counts as the matrix [everything else, outputs], a grouped convolution's too, and the
    result is scaled by `sqrt(max(1, columns / rows))`, as in the authors' note. `optax.contrib.muon` differs before this step:
    it corrects the bias of the two terms of a Nesterov velocity separately, which turns the first directions.
    """

    def rule(update: Array, param: Array) -> Array:
        matrix = update.reshape(-1, update.shape[-1])
        scale = max(1.0, matrix.shape[1] / matrix.shape[0]) ** 0.5
        return (scale * newton_schulz(matrix)).reshape(update.shape)

    return layerwise(rule, is_hidden_kernel)


def scale_rest(factor: float) -> optax.GradientTransformation:
    """Multiplies the updates of what Muon leaves to SGD by `factor`: the ratio of its rate to Muon's."""
    return layerwise(lambda update, _: factor * update, lambda names: not is_hidden_kernel(names))


def keep_norms() -> optax.GradientTransformation:
    """Brings hidden kernels to the norm `sqrt(outputs)` before the update is added, as airbench94_muon does.

    A kernel that is normalised afterwards only has a direction; with its norm held the rate alone says how fast that turns.
    """

    def rule(update: Array, param: Array) -> Array:
        return update + param * (param.shape[-1] ** 0.5 / jnp.linalg.norm(param) - 1)

    return layerwise(rule, is_hidden_kernel)


def newton_schulz(matrix: Array, steps: int = 5) -> Array:
    """Replaces each singular value s of float[rows, columns] by one between about 0.68 and 1.2.

    Each step takes s to `3.4445 s - 4.7750 s^3 + 2.0315 s^5`, after division by the Frobenius norm; the coefficients are
    Jordan's, chosen for their slope at 0 and not for convergence. A value below about 2e-3 of the norm stays smaller.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.T
