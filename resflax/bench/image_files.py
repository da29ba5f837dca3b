"""The host path on generated photographs, ours against loops over Pillow and against tf.data."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path

import numpy as np
from PIL import Image

from resflax.bench.workload import Contender, Program
from resflax.data.folders import ImageFiles, load_folder
from resflax.data.pipeline import HostPipeline
from resflax.data.preprocess import Preprocessing
from resflax.data.reading import random_crop_reader

FILES, WIDTH, HEIGHT, CROP = 64, 500, 375, 224
LARGE_FILES, LARGE_WIDTH, LARGE_HEIGHT = 16, 1000, 750


def write_photographs(folder: Path, count: int, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Writes `folder/train/<class>/*.jpg` at quality 95: of 500x375 about 100 kB each, near the mean of ImageNet's."""
    generator = np.random.default_rng(0)
    for index in range(count):
        inside = folder / "train" / str(index % 2)
        inside.mkdir(parents=True, exist_ok=True)
        photograph(generator, width, height).save(inside / f"{index:03}.jpg", quality=95)


def photograph(generator: np.random.Generator, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Octaves of smooth noise, each weaker than the next coarser one: detail at all scales, as a photograph has it."""
    total = np.full((height, width, 3), 128.0)
    for octave in range(2, 10):
        coarse = generator.integers(0, 256, (2**octave, 2**octave, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(smooth) - 128.0) * 0.6 * 0.75 ** (octave - 2)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def contenders(folder: Path, batch_size: int, against: Sequence[str]) -> list[Contender]:
    """Ours and the peers `pillow` and `tf.data` where they are asked for; all with one thread a core."""
    files = load_folder(folder, "train")
    found = [Contender("resflax", lambda: Program(_ours(files, batch_size)))]
    if "pillow" in against:
        found.append(Contender("pillow", lambda: Program(_plain(files.paths, batch_size)), "makes no batch ahead"))
    if "tf.data" in against:
        from resflax.bench import tf_data_peer

        found.append(tf_data_peer.photographs(files.paths, batch_size, CROP))
    return found


def mean_bytes(folder: Path) -> int:
    """The mean size of the files."""
    sizes = [path.stat().st_size for path in folder.rglob("*.jpg")]
    return sum(sizes) // len(sizes)


def _threads() -> int:
    return os.cpu_count() or 1


def _ours(files: ImageFiles, batch_size: int) -> Callable[[int], float]:
    preprocessing = Preprocessing((CROP, CROP), np.zeros(3), np.ones(3))

    def advance(steps: int) -> float:
        # A finite pass, with the reader and workers of training: nothing is left running when the clock stops.
        ids = np.arange(steps * batch_size) % len(files)
        chosen = files.select(ids)
        pipeline = HostPipeline(
            preprocessing, batch_size, read=random_crop_reader(chosen, CROP, 0), labels=chosen.labels, workers=_threads()
        )
        for batch in pipeline.evaluation_batches():
            last = batch["image"]
        return float(last.mean())

    return advance


def _plain(paths: Sequence[Path], batch_size: int) -> Callable[[int], float]:
    def advance(steps: int) -> float:
        with futures.ThreadPoolExecutor(_threads()) as pool:
            for step in range(steps):
                chosen = [paths[(step * batch_size + row) % len(paths)] for row in range(batch_size)]
                last = np.stack(list(pool.map(_read, chosen)))
        return float(last.mean())

    return advance


def _read(path: Path) -> np.ndarray:
    """A random part, resized: crop, then resize, as torchvision does."""
    image = Image.open(path).convert("RGB")
    return np.asarray(image.crop(_box(*image.size)).resize((CROP, CROP), Image.Resampling.BILINEAR))


def _box(width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height
