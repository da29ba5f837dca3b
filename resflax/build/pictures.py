"""The figures of a trained network, from its workdir."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from resflax.build.diagnose import gradient_norms
from resflax.build.outputs import Outputs, split_outputs
from resflax.build.trained import Trained
from resflax.config import Config, from_dict
from resflax.data.arrays import ImageArrays
from resflax.data.pipeline import examples
from resflax.errors import ConfigError
from resflax.files import Workdir, read_json, read_lines
from resflax.models.intermediates import intermediates, stages
from resflax.results.scores import calibration, class_scores
from resflax.viz.attribution import Explained, plot_attributions
from resflax.viz.class_scores import plot_class_scores
from resflax.viz.confusion import plot_confusion
from resflax.viz.curves import plot_curves
from resflax.viz.embedding import embed, plot_embedding
from resflax.viz.feature_maps import plot_feature_maps
from resflax.viz.filters import plot_filters
from resflax.viz.grad_cam import grad_cam, upsample
from resflax.viz.gradients import plot_gradients
from resflax.viz.integrated_gradients import integrated_gradients
from resflax.viz.mistakes import Mistake, plot_mistakes
from resflax.viz.reliability import plot_reliability
from resflax.viz.runs import Run, plot_runs
from resflax.viz.style import shorten, shorten_path

MISTAKES, EXPLAINED, EMBEDDED = 12, 8, 2000  # examples in a figure


def draw_curves(workdirs: Sequence[str]) -> Any:
    """The curves of a run, or of several in one figure; needs what they have logged and no checkpoint."""
    runs, configs = {}, []
    for workdir in workdirs:
        files = Workdir(epath.Path(workdir))
        config: Config = from_dict(read_json(files.config))
        configs.append(config)
        runs[workdir] = Run(read_lines(files.metrics), config.data.eval_split.partition("[")[0])
    if len(runs) == 1:
        ((rows, split),) = runs.values()
        return plot_curves(rows, split, f"{configs[0].model.name} on {configs[0].data.name}, seed {configs[0].seed}")
    names = [Path(workdir).name for workdir in runs]
    short = names if len(set(names)) == len(names) else list(runs)
    return plot_runs(dict(zip(short, runs.values(), strict=True)), f"{len(runs)} runs")


class Pictures:
    """Draws the figures of one network; what several need is computed once, when the first asks for it."""

    def __init__(self, trained: Trained, workdir: str, stage: str | None = None):
        self.trained, self.workdir = trained, workdir
        self.names = trained.images.class_names
        self.about = f"{trained.config.model.name}, step {trained.step:,}"
        self.variables = jax.device_put(trained.variables, trained.mesh.devices.flat[0])  # a few images need one device
        self.stages = stages(trained.model, self.variables, jnp.zeros((1, *self.image_shape)))
        self.stage = stage or [*self.stages][-1]

    @functools.cached_property
    def outputs(self) -> Outputs:
        """Of every example of the split."""
        return split_outputs(self.trained)

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """float32[N, K]: the softmax of the logits."""
        return np.asarray(jax.nn.softmax(self.outputs.logits, axis=-1))

    @functools.cached_property
    def predictions(self) -> np.ndarray:
        """int[N]: of each example the first largest logit."""
        return self.outputs.logits.argmax(axis=1)

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """int[K, K]: [label, prediction]."""
        matrix = np.zeros((len(self.names), len(self.names)), np.int64)
        np.add.at(matrix, (self.outputs.labels, self.predictions), 1)
        return matrix

    @functools.cached_property
    def hardest(self) -> np.ndarray:
        """int[N]: all examples, that of the greatest loss first."""
        own = self.probabilities[np.arange(len(self.outputs.labels)), self.outputs.labels]
        return np.argsort(own, kind="stable")

    @property
    def counted(self) -> str:
        """How many examples of what."""
        return f"{self.about}, {len(self.outputs.labels):,} {self.trained.split} images"

    def scores(self) -> dict[str, Any]:
        """The numbers behind the figures: accuracy, calibration, scores of each class, the examples of the greatest loss."""
        found, labels = class_scores(self.confusion), self.outputs.labels
        hardest = [int(index) for index in self.hardest[: 5 * MISTAKES] if self.predictions[index] != labels[index]]
        return {
            "split": self.trained.split,
            "step": self.trained.step,
            "images_scored": len(labels),
            "accuracy": float((self.predictions == labels).mean()),
            "expected_calibration_error": calibration(self.probabilities, labels).expected_error,
            "mean_f1": float(found.f1.mean()),
            "classes": [
                {"class": name, **{field: values[index].item() for field, values in found._asdict().items()}}
                for index, name in enumerate(self.names)
            ],
            "worst_mistakes": [
                {
                    "example": self.example_name(index),
                    "class": self.names[labels[index]],
                    "prediction": self.names[self.predictions[index]],
                    "probability": float(self.probabilities[index, self.predictions[index]]),
                }
                for index in hardest
            ],
        }

    def example_name(self, index: int) -> str:
        """A file's path, or the number of an example that has none."""
        images = self.trained.images
        return f"#{index}" if isinstance(images, ImageArrays) else images.name(index)

    def images(self, ids: np.ndarray) -> tuple[jax.Array, np.ndarray]:
        """Examples as the network gets them, float[B, H, W, C], and as they are seen, in 0..1; of several crops the middle."""
        normalised = examples(self.trained.pipeline, ids)["image"]
        normalised = normalised if normalised.ndim == 4 else normalised[:, 0]
        return normalised, self.trained.pipeline.preprocessing.pixels(normalised)

    def heat(self, images: jax.Array, classes: np.ndarray) -> np.ndarray:
        """Grad-CAM of the classes at the size of the images: float32[B, H, W]."""
        maps = grad_cam(self.trained.model, self.variables, images, jnp.asarray(classes), self.stage)
        return np.asarray(upsample(maps, *images.shape[1:3]))

    def draw_confusion(self) -> Any:
        """Which class is taken for which."""
        right = 100 * np.trace(self.confusion) / self.confusion.sum()
        return plot_confusion(self.confusion, self.names, f"{self.counted}, accuracy {right:.2f} %")

    def draw_classes(self) -> Any:
        """Precision, recall and F1 of each class."""
        return plot_class_scores(*class_scores(self.confusion), self.names, self.counted)

    def draw_reliability(self) -> Any:
        """Accuracy by confidence."""
        return plot_reliability(*calibration(self.probabilities, self.outputs.labels), self.counted)

    def mistakes(self, chosen: np.ndarray) -> list[Mistake]:
        """What was said of some examples, int[B], and where in them it was seen."""
        images, pixels = self.images(self.outputs.ids[chosen])
        heats = self.heat(images, self.predictions[chosen])
        return [
            Mistake(
                pixels[row],
                heats[row],
                self.example_name(int(index)),
                self.names[self.outputs.labels[index]],
                self.names[self.predictions[index]],
                float(self.probabilities[index, self.predictions[index]]),
            )
            for row, index in enumerate(chosen)
        ]

    def draw_mistakes(self) -> Any:
        """The examples of the greatest loss, with Grad-CAM of what they were taken for."""
        rows = self.mistakes(self.hardest[:MISTAKES])
        wrong = int((self.predictions != self.outputs.labels).sum())
        return plot_mistakes(
            rows, f"{self.counted}, {wrong:,} wrong; the {len(rows)} of greatest loss, Grad-CAM at {self.stage}"
        )

    def draw_attribution(self) -> Any:
        """One rightly classified example of each class, up to eight classes, and what in it speaks for the class."""
        right = np.flatnonzero(self.predictions == self.outputs.labels)
        if not right.size:
            raise ConfigError("attribution.png needs an example that is classified rightly, but there is none; leave it out")
        _, first = np.unique(self.outputs.labels[right], return_index=True)
        spread = np.linspace(0, len(first) - 1, min(EXPLAINED, len(first))).astype(int)
        chosen = right[first[spread]]
        classes = self.predictions[chosen]
        images, pixels = self.images(self.outputs.ids[chosen])
        heats = self.heat(images, classes)
        found = integrated_gradients(self.trained.model, self.variables, images, jnp.asarray(classes))
        columns = [
            Explained(
                pixels[row],
                heats[row],
                np.asarray(found.values[row]).sum(axis=-1),
                f"{shorten(self.names[classes[row]])}, {100 * self.probabilities[index, classes[row]]:.0f} %",
                float(found.gap[row]),
            )
            for row, index in enumerate(chosen)
        ]
        how = f"Grad-CAM at {self.stage}, gradients integrated from the mean image in {found.steps} steps"
        return plot_attributions(columns, f"{self.about}: what speaks for the predicted class\n{how}")

    def draw_filters(self) -> Any:
        """The kernel of the first convolution."""
        for name in self.stages:
            for collection in ("params", "batch_stats"):  # where a whitening layer has its kernel
                kernel = self.variables.get(collection, {}).get(name, {}).get("kernel")
                if kernel is not None:
                    return plot_filters(np.asarray(kernel, np.float32), f"{self.about}, {name}")
        raise ConfigError("filters.png needs a network that begins with a convolution of its own; leave it out")

    def draw_features(self) -> Any:
        """What the stages make of the first image: of each resolution the last."""
        image, pixels = self.images(np.array([0]))
        last = {shape[:2]: name for name, shape in self.stages.items()}
        _, found = intermediates(self.trained.model, self.variables, image, list(last.values()))
        maps = {name: np.asarray(output[0], np.float32) for name, output in found.items()}
        return plot_feature_maps(
            pixels[0], maps, f"{self.about}: {self.trained.split} image {shorten_path(self.example_name(0))}"
        )

    def draw_gradients(self) -> Any:
        """The gradient of the first training batch's loss by depth, at each checkpoint kept."""
        norms = gradient_norms(self.trained.config, self.workdir)
        return plot_gradients(norms, f"{self.trained.config.model.name}: gradient by layer, first training batch")

    def draw_embedding(self) -> Any:
        """What the classifier is given, in the plane."""
        count = len(self.outputs.ids)
        if count < 3:
            raise ConfigError(f"embedding.png needs at least 3 examples, got {count}; leave it out or take another split")
        chosen = np.unique(np.linspace(0, count - 1, min(count, EMBEDDED)).astype(int))  # spread over the split
        points = embed(self.outputs.features[chosen])
        labels, predictions = self.outputs.labels[chosen], self.predictions[chosen]
        return plot_embedding(
            points, labels, predictions, self.names, f"{self.about}, {len(chosen):,} {self.trained.split} images"
        )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels as the network sees them."""
        return (*self.trained.pipeline.preprocessing.image_size, self.trained.metadata["source_shape"][-1])
