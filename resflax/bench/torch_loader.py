"""Input as PyTorch users write it: Pillow on each image, read by two worker processes of a `DataLoader`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from resflax.bench.workload import Contender, Program
from resflax.data.arrays import ImageArrays

PAD, WORKERS = 4, 2


class PillowImages:
    """A map-style dataset: padded, cropped and mirrored by Pillow, then normalised, in torchvision's steps."""

    def __init__(self, arrays: ImageArrays, mean: np.ndarray, std: np.ndarray):
        self._arrays, self._mean, self._std = arrays, mean, std

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """float32[C, H, W] and a label."""
        import torch

        image = Image.fromarray(self._arrays.images[index])
        size = image.size
        image = ImageOps.expand(image, PAD)
        left, top = (int(torch.randint(0, 2 * PAD + 1, (1,))) for _ in range(2))
        image = image.crop((left, top, left + size[0], top + size[1]))
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean, std = (torch.as_tensor(one, dtype=torch.float32).view(-1, 1, 1) for one in (self._mean, self._std))
        return pixels.sub_(mean).div_(std), int(self._arrays.labels[index])


class _Batches:
    """The ids of as many batches as are wanted of the next pass."""

    def __init__(self, examples: int, batch_size: int):
        self._random = np.random.default_rng(0)
        self._examples, self._batch_size = examples, batch_size
        self.steps = 0

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.steps):
            yield self._random.integers(0, self._examples, self._batch_size).tolist()

    def __len__(self) -> int:
        return self.steps


def contender(arrays: ImageArrays, mean: np.ndarray, std: np.ndarray, batch_size: int) -> Contender:
    """The loader, its workers kept between passes; `mean` and `std` are per channel."""

    def make() -> Program:
        from resflax.bench.peers import require

        data = require("torch.utils.data", "torch-loader")
        batches: Any = _Batches(len(arrays), batch_size)
        loader = data.DataLoader(
            PillowImages(arrays, mean, std),
            batch_sampler=batches,
            num_workers=WORKERS,
            persistent_workers=True,
            multiprocessing_context="spawn",  # forking a process with JAX's threads in it may hang
        )

        def advance(steps: int) -> float:
            batches.steps = steps
            for images, _ in loader:
                last = images
            return float(last.mean())

        return Program(advance)

    return Contender("torch-loader", make, f"{WORKERS} worker processes; channels first; pads with black")
