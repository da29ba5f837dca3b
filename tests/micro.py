"""A run small enough to be repeated by the hundred: 60 images of 8x8, a residual network of width 4."""

import dataclasses

import numpy as np

from resflax.config import (
    BatchNormConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EmaConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
)


def write_npz(folder, train=60, test=21, classes=5, seed=0):
    """Images whose class shows as a bright column, so that there is something to learn."""
    rng = np.random.default_rng(seed)

    def split(count):
        labels = np.arange(count) % classes
        images = rng.integers(0, 128, (count, 8, 8, 3))
        images[np.arange(count), :, labels] += 120
        return images.astype(np.uint8), labels.astype(np.int64)

    (train_images, train_labels), (test_images, test_labels) = split(train), split(test)
    path = folder / "micro.npz"
    np.savez(
        path,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=np.array([f"column{index}" for index in range(classes)]),
    )
    return path


def config(path, **changes):
    """40 steps that cross epochs, a warm-up, milestones, evaluations and checkpoints, with everything switched on."""
    base = Config(
        total_steps=40,
        log_every_steps=5,
        eval_every_steps=8,
        data=DataConfig(name=str(path), batch_size=8, eval_batch_size=8, augment=("pad_crop:1", "flip")),
        model=ModelConfig("cifar_resnet8", {"width": 4}),
        batch_norm=BatchNormConfig(group_size=4, running_variance="unbiased", reestimate=True),
        optim=OptimConfig(weight_decay=1e-3, schedule="step", warmup_steps=6, clip_norm=5.0, accumulate=2),
        loss=LossConfig(label_smoothing=0.1),
        ema=EmaConfig(decay=0.9),
        checkpoint=CheckpointConfig(every_steps=8, keep_last=2, keep_best=1),
    )
    return dataclasses.replace(base, **changes)
