"""The work that all contenders share, and the form in which they take it. Imports no JAX."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from resflax.bench.timing import NotAvailable
from resflax.errors import DataError, ResflaxError
from resflax.models.builders import Repeat
from resflax.models.zoo import MODELS

if TYPE_CHECKING:
    import numpy as np

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4
Precision = Literal["float32", "bfloat16"]  # of activations; parameters are float32
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Workload:
    """A network and its batches."""

    model: str  # a name of `resflax.models.zoo`
    batch_size: int
    precision: Precision = "float32"
    repeat: Repeat | None = None  # how its equal blocks run, see `resflax.nn.repeat`; None: the network's default
    # What follows is for our own training step, see `resflax.bench.forms`.
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # of the model's builder
    gradient: Literal["autodiff", "closed_form"] = "autodiff"  # of batch normalisation
    compiler_options: tuple[str, ...] = ()  # see `resflax.compiler`
    fused: bool | None = None  # a chunk in one dispatch; None: where training does so

    @property
    def depth(self) -> int:
        """Of a network that peers have, see `cifar_depth`."""
        depth = cifar_depth(self.model)
        assert depth is not None, self.model  # `resflax.bench.peers.check_peers` refuses the others
        return depth

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return MODELS[self.model].input_shape if self.model in MODELS else (32, 32, 3)

    @property
    def num_classes(self) -> int:
        """The length of the logits."""
        return MODELS[self.model].num_classes if self.model in MODELS else 10

    def pixels(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Random uint8[count, H, W, C] and labels int32[count]."""
        import numpy as np

        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (count, *self.image_shape), np.uint8)
        return images, generator.integers(0, self.num_classes, count, np.int32)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """One batch, normalised: float32[B, H, W, C] and labels int32[B]."""
        images, labels = self.pixels(self.batch_size)
        images = images.astype("float32")
        return (images - images.mean()) / images.std(), labels

    def write(self, path: Path, batches: int = 4) -> Path:
        """Writes a data set of `batches` training batches and one to evaluate, see `resflax.data.arrays.load_npz`."""
        import numpy as np

        train_images, train_labels = self.pixels(batches * self.batch_size)
        test_images, test_labels = self.pixels(self.batch_size)
        np.savez(
            path,
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
            class_names=np.arange(self.num_classes).astype(str),
        )
        return path


def cifar_depth(model: str) -> int | None:
    """The depth of `cifar_resnet<depth>`, the networks that all peers have; None for another model."""
    match = re.fullmatch(r"cifar_resnet(\d+)", model)
    return int(match[1]) if match else None


def bottleneck_depth(model: str) -> int | None:
    """The depth of `resnet<depth>` for ImageNet that PyTorch's peers have; None for another model."""
    match = re.fullmatch(r"resnet(50|101|152)", model)
    return int(match[1]) if match else None


def is_large(model: str) -> bool:
    """Whether it is a row of the table for ImageNet."""
    return model in MODELS and MODELS[model].input_shape == (224, 224, 3)


@dataclass(frozen=True)
class Program:
    """Something ready to be run.

    `advance(steps)` takes that many steps, waits for the device, and returns a number computed from the last step's result:
    the loss, or the mean logit.
    """

    advance: Callable[[int], float]
    parameters: int = 0  # that are trained
    temporary_bytes: int | None = None  # that a step needs beside its arguments and results, as XLA plans it


@dataclass
class Contender:
    """Something to be timed (`resflax.bench.timing.Timed`), made of a function that builds it."""

    name: str
    make: Callable[[], Program]
    differs: str = ""  # in what it does otherwise than the others
    optional: bool = False  # what keeps it from its first step is reported, and the others are timed without it
    program: Program = field(init=False, repr=False)
    last_value: float = field(init=False, default=math.nan)
    not_available: str = field(init=False, default="")  # why it could not be prepared

    def prepare(self) -> None:
        """Builds the program and takes a step, in which most compilers do their work."""
        try:
            self.program = self.make()
            self.run(1)
        except Exception as error:
            if not self.optional:
                raise
            kind = "" if isinstance(error, ResflaxError) else f"{type(error).__name__}: "
            self.not_available = kind + " ".join(str(error).split())[:500]
            raise NotAvailable(self.not_available) from error

    def run(self, steps: int) -> None:
        """Takes the steps; raises `DataError` when what comes out is not finite."""
        self.last_value = self.program.advance(steps)
        if not math.isfinite(self.last_value):
            raise DataError(
                f"the result of {self.name} must be finite, got {self.last_value}; choose another --model or --precision"
            )
