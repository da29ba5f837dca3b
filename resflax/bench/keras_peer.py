"""The CIFAR network in Keras 3 on its JAX backend, driven as its users do: compile, then `train_on_batch`."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np

from resflax.bench.peers import require
from resflax.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Contender, Program, Workload
from resflax.errors import ConfigError


def network(keras: Any, workload: Workload) -> Any:
    """`cifar_resnet<depth>`, the shortcut without parameters; parameters are float32."""
    layers = keras.layers
    dtype = "mixed_bfloat16" if workload.precision == "bfloat16" else "float32"

    def convolved(x: Any, width: int, stride: int = 1) -> Any:
        x = layers.ZeroPadding2D(1, dtype=dtype)(x)
        x = layers.Conv2D(width, 3, stride, use_bias=False, dtype=dtype)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtype)(x)

    def block(x: Any, width: int, stride: int) -> Any:
        y = convolved(layers.ReLU(dtype=dtype)(convolved(x, width, stride)), width)
        half = (width - x.shape[-1]) // 2
        if half:
            x = keras.ops.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (half, half)))
        return layers.ReLU(dtype=dtype)(layers.Add(dtype=dtype)([x, y]))

    inputs = keras.Input(workload.image_shape)
    x = layers.ReLU(dtype=dtype)(convolved(inputs, 16))
    for width in (16, 32, 64):
        for index in range((workload.depth - 2) // 6):
            x = block(x, width, 2 if width > 16 and index == 0 else 1)
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(inputs, layers.Dense(workload.num_classes, dtype="float32")(x))


def contender(task: str, workload: Workload) -> Contender:
    """For `train` or `infer`."""
    keras = _keras()
    images, labels = jax.device_put(workload.batch())
    model = network(keras, workload)
    parameters = sum(int(np.prod(one.shape)) for one in model.trainable_weights)

    def make() -> Program:
        advance = (_training if task == "train" else _inference)(keras, model, images, labels)
        return Program(advance, parameters)

    differs = {
        "train": "train_on_batch waits for the loss of every step; the decay is decoupled",
        "infer": "predict_on_batch copies the logits to the host",
    }
    return Contender("keras", make, differs[task])


def _keras() -> Any:
    os.environ["KERAS_BACKEND"] = "jax"  # read once, when Keras is imported
    keras = require("keras", "keras")
    if keras.backend.backend() != "jax":
        raise ConfigError(
            f"--against=keras needs Keras on JAX, but it runs on {keras.backend.backend()}; set KERAS_BACKEND=jax"
        )
    return keras


def _training(keras: Any, model: Any, images: Any, labels: Any) -> Any:
    optimizer = keras.optimizers.SGD(LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def advance(steps: int) -> float:
        for _ in range(steps):
            loss = model.train_on_batch(images, labels)
        jax.block_until_ready([one.value for one in model.weights])
        return float(loss)

    return advance


def _inference(keras: Any, model: Any, images: Any, labels: Any) -> Any:
    def advance(steps: int) -> float:
        for _ in range(steps):
            logits = model.predict_on_batch(images)
        return float(logits.mean())

    return advance
