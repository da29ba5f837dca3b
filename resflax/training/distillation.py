"""Knowledge distillation: a network learns from what another one says of the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from resflax.types import Array, Variables


@dataclass(frozen=True)
class Distillation:
    """The mean of two losses, by the labels and by a teacher (Hinton et al. 2015, Sec. 2).

    With a `weight` of 1 the labels have no part, as for a "consistent and patient teacher" (Beyer et al. 2022), which sees the
    very images that the student sees, cropped and mixed.
    """

    teacher: Callable[[Variables, Array], Array]  # (its variables, the student's images [B, H, W, C]) -> logits [B, K]
    temperature: float
    weight: float  # of the teacher's part

    def __call__(self, losses: Array, logits: Array, teacher_logits: Array) -> Array:
        """Losses float[B] by the labels, logits float[B, K] of the student and of the teacher -> float[B]."""
        return (1 - self.weight) * losses + self.weight * soft_target_loss(logits, teacher_logits, self.temperature)


def soft_target_loss(logits: Array, teacher_logits: Array, temperature: float) -> Array:
    """`T^2 * KL(softmax(teacher_logits / T) || softmax(logits / T))` of each example, float[B]; zero where both say the same.

    The paper's cross-entropy is this and the entropy of the teacher's distribution, of which there is no gradient. The factor
    `T^2` keeps the gradient's size when the temperature changes (Sec. 2).
    """
    student, teacher = (jax.nn.log_softmax(one / temperature) for one in (logits, teacher_logits))
    return temperature**2 * jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
