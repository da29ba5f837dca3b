"""How images are prepared for weights from elsewhere: what their authors did, and what timm's `config.json` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from resflax.data.datasets import DATASETS
from resflax.data.preprocess import Preprocessing
from resflax.errors import DataError

INTERPOLATIONS = tuple(one.name.lower() for one in Image.Resampling)
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preparation:
    """From an image file to the tensor: resized, cut, normalised."""

    image_size: int = 224
    crop: Literal["center", "none"] = "center"  # none: the whole image, whatever its proportions
    crop_ratio: float = 0.875  # of the shorter side
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = DATASETS["imagenet2012"].mean or ()  # in units of the pixel range
    std: tuple[float, ...] = DATASETS["imagenet2012"].std or ()

    def metadata(self) -> dict[str, Any]:
        """The entries of a weight file's metadata that say it."""
        size = (self.image_size, self.image_size)
        side = self.image_size if self.crop == "none" else None
        return {
            "preprocessing": Preprocessing(size, np.asarray(self.mean), np.asarray(self.std)).to_dict(),
            "source_shape": [side, side, len(self.mean)],
            "crop": self.crop,
            "crop_ratio": self.crop_ratio if self.crop == "center" else 1.0,
            "interpolation": self.interpolation,
        }


# torchvision's first weights; those it calls V2 were cut at a ratio of 224 / 232.
TORCHVISION = Preparation()
# timm's default; a file on the hub has its own in config.json.
_TIMM = Preparation(interpolation="bicubic")
_TIMM_V2 = Preparation(interpolation="bicubic", mean=_HALF, std=_HALF)
# Caffe's: 0..255 without a division, less the mean. `keras.applications` shows it with the whole image at 224x224.
KERAS_V1 = Preparation(crop="none", mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=(1 / 255,) * 3)
KERAS_V2 = Preparation(crop="none", mean=_HALF, std=_HALF)
BIT = Preparation(crop="none", mean=_HALF, std=_HALF)


def change_preparation(
    metadata: Mapping[str, Any],
    image_size: int | None = None,
    crop_ratio: float | None = None,
    interpolation: str | None = None,
) -> dict[str, Any]:
    """The metadata of a weight file with the preparation changed where a value is given; a ratio means the image's middle."""
    changed = dict(metadata)
    *source, channels = metadata["source_shape"]
    if image_size is not None:
        changed["preprocessing"] = {**metadata["preprocessing"], "image_size": [image_size, image_size]}
        source = [image_size, image_size]
    if crop_ratio is not None:
        changed |= {"crop": "center", "crop_ratio": crop_ratio}
    if interpolation is not None:
        changed["interpolation"] = interpolation
    changed["source_shape"] = [*(source if changed["crop"] == "none" else [None, None]), channels]
    return changed


def timm_default(architecture: str) -> Preparation:
    """What timm does where nothing else is said."""
    return _TIMM_V2 if architecture.startswith("resnetv2") else _TIMM


@dataclass(frozen=True)
class TimmConfig:
    """What is used of timm's `config.json`."""

    architecture: str
    preparation: Preparation
    class_names: list[str] | None


def read_timm_config(config: Any, name: str) -> TimmConfig:
    """The architecture, the preparation of images and the classes of a `config.json` of timm.

    Raises `DataError` where it is none; `name` is the file's, for messages.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("architecture"), str):
        found = config.get("model_type") if isinstance(config, Mapping) else None
        kind = f"is of a {found} of transformers" if found else "has no architecture"
        raise DataError(f"{name} must be timm's, but it {kind}; use a repository of timm's, or of a weight file of resflax")
    values: Mapping[str, Any] = config.get("pretrained_cfg") or config
    known = timm_default(config["architecture"])
    try:
        _, height, width = values.get("input_size") or (3, known.image_size, known.image_size)
        if height != width:
            raise DataError(f"{name} must give square images, got {height} x {width}; convert the weights without it")
        squashed = values.get("crop_mode") == "squash" and float(values.get("crop_pct") or 1) == 1
        preparation = Preparation(
            image_size=int(height),
            crop="none" if squashed else "center",
            crop_ratio=float(values.get("crop_pct") or known.crop_ratio),
            interpolation=_interpolation(values.get("interpolation") or known.interpolation),
            mean=tuple(map(float, values.get("mean") or known.mean)),
            std=tuple(map(float, values.get("std") or known.std)),
        )
        labels = config.get("label_names") or values.get("label_names") or values.get("labels")
        names = [labels[key] for key in sorted(labels, key=int)] if isinstance(labels, Mapping) else labels
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{name} must be timm's, but {error}; fetch it again") from error
    return TimmConfig(config["architecture"], preparation, None if names is None else list(map(str, names)))


def timm_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `read_timm_config`: a `config.json` for timm's `local-dir:`, from the metadata of a weight file."""
    preprocessing = metadata["preprocessing"]
    whole = metadata["crop"] == "none"
    architecture, classes = metadata["model"], metadata["num_classes"] or 0
    second, vgg = architecture.startswith("resnetv2"), architecture.startswith("vgg")
    prepared = {
        "num_classes": classes,
        "input_size": [len(preprocessing["std"]), *preprocessing["image_size"]],
        "crop_mode": "squash" if whole else "center",
        "crop_pct": 1.0 if whole else metadata["crop_ratio"],
        "interpolation": metadata["interpolation"],
        "mean": preprocessing["mean"],
        "std": preprocessing["std"],
        "classifier": "head.fc" if second or vgg else "fc",
    }
    names = metadata["class_names"]
    return {
        "architecture": architecture,
        "num_classes": classes,
        **({} if names is None else {"label_names": names}),
        "pretrained_cfg": prepared,
    }


def _interpolation(text: str) -> str:
    """timm writes `random` where training mixes two; it evaluates with bilinear then."""
    return text if text in INTERPOLATIONS else "bilinear"
