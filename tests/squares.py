"""Photographs of sorts: noise, and in it one square of 8x8 pixels at a random place whose texture is the class."""

import numpy as np

from resflax.config import Config, DataConfig, ModelConfig, OptimConfig

SIZE, SIDE = 32, 8
TEXTURES = ("rows", "columns", "checks")


def texture(name, side=SIDE):
    rows, columns = np.mgrid[:side, :side] // 2 % 2
    return {"rows": rows, "columns": columns, "checks": rows ^ columns}[name]


def draw(count, seed, size=SIZE, side=SIDE):
    """uint8[N, size, size, 3] images, int64[N] labels and int[N, 2] corners (row, column) of the squares."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (count, size, size, 3))
    labels, corners = np.arange(count) % len(TEXTURES), rng.integers(0, size - side + 1, (count, 2))
    for image, label, (row, column) in zip(images, labels, corners, strict=True):
        bright = 60 + 180 * texture(TEXTURES[label], side)
        image[row : row + side, column : column + side] = bright[..., None]
    return images.astype(np.uint8), labels, corners


def write(folder, train=480, test=60):
    """The `.npz` of such a data set."""
    path = folder / "squares.npz"
    (images, labels, _), (test_images, test_labels, _) = draw(train, 0), draw(test, 1)
    np.savez(
        path, train_images=images, train_labels=labels, test_images=test_images, test_labels=test_labels,
        class_names=np.array(TEXTURES),
    )  # fmt: skip
    return path


def config(folder, **kwargs):
    """A run of some seconds that learns it."""
    return Config(
        total_steps=120,
        log_every_steps=20,
        data=DataConfig(str(write(folder)), batch_size=32, eval_batch_size=32),
        model=ModelConfig("cifar_resnet8", {"width": 8, "shortcut": "B", **kwargs}),
        optim=OptimConfig(learning_rate=0.1, nesterov=True, weight_decay=1e-4, schedule="cosine", warmup_fraction=0.1),
    )
