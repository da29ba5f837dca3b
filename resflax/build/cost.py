"""How much arithmetic a training run is, and how long it would take at the rate that another run reached."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from resflax.config import Config, from_dict
from resflax.config.validate import parse_sizes
from resflax.data.datasets import DATASETS, DatasetInfo
from resflax.models.profile import profile
from resflax.models.zoo import MODELS, create_model
from resflax.training.utilization import training_operations

SMALLEST = 32  # pixels on a side; with smaller images, as the digits, the processor mostly waits


@dataclass(frozen=True)
class Rate:
    """The arithmetic rate that training reached in a run."""

    operations_per_second: float
    run: str
    hardware: str


def operations(config: Config) -> float | None:
    """What convolutions and dense layers of a whole run compute, see `resflax.training.utilization`; None: data not known.

    A step of sharpness-aware minimisation takes two gradients. A teacher is not counted: the configuration does not say what
    network it is.
    """
    images, per_image = examples(config), multiply_adds(config)
    gradients = 1 if config.optim.sharpness is None else 2
    return None if images is None or per_image is None else gradients * images * training_operations(per_image)


def examples(config: Config) -> float | None:
    """Images that the run trains on, each as often as it is seen; None: the size of the data set is not known."""
    if config.total_steps is not None:
        return config.total_steps * config.data.batch_size
    info = _dataset(config.data.name)
    splits = [re.sub(r"\[.*", "", split) for split in config.data.train_split.split("+")]  # a part counts as the whole
    if info is None or config.total_epochs is None or not all(split in info.sizes for split in splits):
        return None
    return config.total_epochs * sum(info.sizes[split] for split in splits)


def multiply_adds(config: Config) -> int | None:
    """Of one image forward: the table's, in proportion to the area of the image, or traced; None: its size is not known.

    Arguments of the network's builder change it little and are left aside where the table has the network.
    """
    info = _dataset(config.data.name)
    shape = info.image_shape if info else (None, None, 3)
    side = config.data.image_size or shape[0]
    if side is None:
        return None
    area = side**2
    if sizes := parse_sizes(config.data.sizes):  # on average over the run
        stops = [*(start for _, start in sizes[1:]), 1.0]
        area = round(sum(size**2 * (stop - start) for (size, start), stop in zip(sizes, stops, strict=True)))
    row = MODELS.get(config.model.name)
    if row is not None:
        return round(row.multiply_adds * area / (row.input_shape[0] * row.input_shape[1]))
    classes = info.classes if info else 10
    return round(_traced(config.model.name, json.dumps(config.model.kwargs), side, shape[2], classes) * area / side**2)


def rates(records: Iterable[Mapping[str, Any]]) -> list[Rate]:
    """The rate of each network among the records, its fastest run's, from the slowest network to the fastest one.

    All on the same hardware: that of the fastest network.
    """
    fastest: dict[tuple[str, int], Rate] = {}
    for record in records:
        per_image = multiply_adds(from_dict(record["config"]))
        if per_image is None or min(record["evaluation"]["resolution"]) < SMALLEST:
            continue
        rate = Rate(
            training_operations(per_image) * record["images_per_second"],
            f"{record['experiment']}-{record['row']}-s{record['seed']}",
            f"{record['device_count']} x {record['device']}",
        )
        of_network = (rate.hardware, per_image)
        fastest[of_network] = max(rate, fastest.get(of_network, rate), key=_speed)
    ordered = sorted(fastest.values(), key=_speed)
    return [rate for rate in ordered if rate.hardware == ordered[-1].hardware]


def _speed(rate: Rate) -> float:
    return rate.operations_per_second


def _dataset(name: str) -> DatasetInfo | None:
    """Of a recipe's `data.name`, where a folder `imagenet` stands for ImageNet's files."""
    return DATASETS.get("imagenet2012" if name == "imagenet" else name)


@functools.cache
def _traced(name: str, kwargs: str, side: int, channels: int, classes: int) -> int:
    arguments = {key: value for key, value in json.loads(kwargs).items() if key != "repeat"}  # a loop would be traced once
    return sum(layer.multiply_adds for layer in profile(create_model(name, classes, **arguments), (side, side, channels)))
