"""The CIFAR network and its training step as Flax's examples write them: nn.Conv, nn.BatchNorm, optax, TrainState, jit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training import train_state

from resflax.bench.forward import forward_program, initial_variables
from resflax.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Contender, Program, Workload
from resflax.tree import parameter_count
from resflax.types import Array, Variables


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    width: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(self.norm()(self.conv(self.width, strides=self.stride)(x)))
        y = self.norm()(self.conv(self.width)(y))
        new = self.width - x.shape[-1]
        shortcut = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))
        return nn.relu(y + shortcut)


class ResNet(nn.Module):
    """`cifar_resnet<depth>`."""

    depth: int
    num_classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), padding=1, use_bias=False, dtype=self.dtype)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)
        x = nn.relu(norm()(conv(16)(x)))
        for width in (16, 32, 64):
            for index in range((self.depth - 2) // 6):
                x = Block(width, 2 if width > 16 and index == 0 else 1, conv, norm)(x)
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)).astype(jnp.float32))


class TrainState(train_state.TrainState):
    """Flax's, with running statistics."""

    batch_stats: Any


@jax.jit
def train_step(state: TrainState, images: Array, labels: Array) -> tuple[TrainState, Array]:
    """One step of SGD; returns the loss too."""

    def loss_of(params: Any) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, changed = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed["batch_stats"]

    (loss, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradient, batch_stats=batch_stats), loss


def contender(task: str, workload: Workload) -> Contender:
    """For `train` or `infer`."""
    model = ResNet(workload.depth, workload.num_classes, jnp.dtype(workload.precision))
    images, labels = jax.device_put(workload.batch())
    variables = initial_variables(model, images)
    if task == "train":
        return Contender("linen", lambda: _training(model, variables, images, labels), "its state is not donated")
    return Contender("linen", lambda: forward_program(functools.partial(model.apply, train=False), variables, images))


def _training(model: ResNet, variables: Variables, images: Array, labels: Array) -> Program:
    state = TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(LEARNING_RATE, MOMENTUM)),
    )

    def advance(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, loss = train_step(state, images, labels)
        jax.block_until_ready(state)
        return float(loss)

    return Program(advance, parameter_count(state.params))
