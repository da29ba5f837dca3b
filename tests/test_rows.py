"""Every row of every experiment can be built and takes two steps.

Without the data sets: small images are random ones of the data set's shape, photographs are a handful of JPEGs. Whole, rows are
traced and not compiled; substitutes, with the smallest network of the kind and a batch of 8, are run.
"""

import dataclasses
import functools
import inspect
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from resflax.build import build
from resflax.config import Config, to_dict
from resflax.config.files import load_experiment
from resflax.models.zoo import _builder
from resflax.weights.safetensors import write_weights
from tests.test_experiments import VARIANTS

ROWS = [(name, row) for name, rows in VARIANTS.items() for row in rows]
# The smallest network of a kind, by a pattern; `width`, where its builder takes one, makes it thinner.
SMALLEST = {
    r"cifar_((?:se)?(?:resnet|preresnet)|plain)\d+": r"cifar_\g<1>8",
    r"cifar_((?:se)?wrn)\d+_\d+": r"cifar_\g<1>10_1",
    r"cifar_resnext\d+_.*": "cifar_resnext11_2x4d",
    r"(se)?resnet(?:34|50|101|152)(_v1)?": r"\g<1>resnet18",
    r"resnet50[cd]": "resnet18d",
    r"resnetv2_50x1_bit": "resnetv2_18",
}
BATCH = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`{kind: data.name}`: an `.npz` for each image shape of the data sets that have one, and a folder of photographs."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    found = {}
    for kind, shape, classes in (("digits", (8, 8, 1), 10), ("cifar10", (32, 32, 3), 10), ("cifar100", (32, 32, 3), 100)):
        arrays = {
            f"{split}_{what}": values
            for split, count in (("train", 2 * classes), ("test", classes))
            for what, values in (
                ("images", rng.integers(0, 256, (count, *shape), np.uint8)),
                ("labels", np.arange(count) % classes),
            )
        }
        found[kind] = str(folder / f"{kind}.npz")
        np.savez(found[kind], **arrays)
    for split, count in (("train", 16), ("test", 4)):
        for index in range(count):
            path = folder / "photographs" / split / "abcd"[index % 4] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    return found | {"photographs": str(folder / "photographs"), "folder": folder}


def on(config, data):
    """The same recipe on images that are there; so are the weights that it starts from, and its teacher."""
    name = data.get(config.data.name, data["photographs"])
    settings = dataclasses.replace(config.data, name=name, train_split="train", eval_split="test", input="auto", workers=0)
    config = dataclasses.replace(config, data=settings)
    there = {
        name: dataclasses.replace(section, weights=weights(config, data["folder"]))
        for name, section in (("init", config.init), ("distill", config.distill))
        if section.weights is not None
    }
    return dataclasses.replace(config, **there)


def weights(config, folder):
    """The file of a network like that of `config`, whose weights are random."""
    alone = dataclasses.replace(config, init=Config().init, distill=Config().distill, optim=Config().optim)
    run = build(alone, jax.devices()[:1])
    state = run.abstract_state()
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.05, 0.1, leaf.shape).astype(leaf.dtype),
        {"params": state.params, "batch_stats": state.batch_stats},
    )
    about = {
        "model": config.model.name,
        "num_classes": len(run.class_names),
        "kwargs": config.model.kwargs,
        "class_names": list(run.class_names),
        "preprocessing": run.train.preprocessing.to_dict(),
        "source": "random numbers",
    }
    path = Path(folder) / f"{config.model.name}.safetensors"
    write_weights(path, variables, about)
    return str(path)


def substitute(config):
    """The same recipe for the smallest network of its kind, small images and a batch of 8."""
    model = config.model.name
    for pattern, smallest in SMALLEST.items():
        if re.fullmatch(pattern, model):
            model = re.match(pattern, model).expand(smallest)
    builder = _builder(model)
    accepted = inspect.signature(builder.func).parameters.keys() - builder.keywords.keys()
    kwargs = {key: value for key, value in config.model.kwargs.items() if key in accepted}
    kwargs |= {"width": 8} if "width" in accepted else {}
    group = config.batch_norm.group_size
    size = config.data.image_size and (224 if model == "tutorial_resnet" else 32)  # it flattens what is left of an image
    sizes = tuple(f"{16 + 8 * place}@{text.partition('@')[2]}" for place, text in enumerate(config.data.sizes))
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=BATCH, eval_batch_size=BATCH, image_size=size, sizes=sizes),
        model=dataclasses.replace(config.model, name=model, kwargs=kwargs),
        batch_norm=dataclasses.replace(config.batch_norm, group_size=group and min(group, BATCH)),
        optim=dataclasses.replace(config.optim, accumulate=1),
    )


def program(config):
    """What of a configuration decides over the program: rows that differ in numbers alone share it."""

    def kind(value):
        if isinstance(value, dict):
            return {key: kind(item) for key, item in value.items()}
        if isinstance(value, list):
            return [kind(item) for item in value]
        if isinstance(value, str):
            return re.sub(r"[0-9.]+", "0", value)
        return bool(value) if isinstance(value, int | float) else value

    values = to_dict(config)
    values["data"] = {key: value for key, value in values["data"].items() if key in ("augment", "mix", "repeats", "sizes")}
    for key in ("seed", "total_steps", "total_epochs", "eval_every_steps", "log_every_steps", "checkpoint", "batch_norm"):
        values.pop(key)
    return json.dumps(kind(values), sort_keys=True)


def small_program(config):
    """That of the substitute, however its blocks are repeated."""
    small = substitute(config)
    kwargs = {key: value for key, value in small.model.kwargs.items() if key != "repeat"}
    return program(dataclasses.replace(small, model=dataclasses.replace(small.model, kwargs=kwargs)))


def whole_program(config):
    """With the very network and size of images."""
    return program(config), to_dict(config)["model"], config.data.image_size


def trace(config):
    """Network, optimizer and step, by their shapes."""
    run = build(config, jax.devices()[:1])
    resident = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), run.resident(run.train))
    count = config.data.batch_size
    batch = {"id": ((count,), np.int32), "epoch": ((count,), np.int32), "mask": ((count,), bool)}
    if "image" not in resident:
        batch |= {"image": ((count, *run.image_shape), np.uint8), "label": ((count,), np.int32)}
    batch = {name: jax.ShapeDtypeStruct(*what) for name, what in batch.items()}
    state = run.abstract_state()
    new, metrics = jax.eval_shape(run.train_step(), state, batch, resident)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert metrics.loss.shape == ()
    return run


def take_two_steps(config):
    """For real."""
    run = build(config, jax.devices()[:1])
    state = run.initial_state()
    before = jax.device_get(state.params)
    chunk = run.compile_chunk(run.abstract_state())
    state, metrics = chunk(state, 0, 2)
    assert np.all(np.isfinite(jax.device_get(metrics.loss)))
    assert int(state.step) == 2
    changed = [
        np.any(one != other) for one, other in zip(*map(jax.tree.leaves, (before, jax.device_get(state.params))), strict=True)
    ]
    assert any(changed)


@functools.cache
def experiment_of(name):
    return load_experiment(name)[0]


@functools.cache
def config_of(experiment, row):
    return experiment_of(experiment).get_config(row)


def one_each(rows, key):
    """The first of the rows that have the same key."""
    found = {}
    for name, row in rows:
        found.setdefault(str(key(config_of(name, row))), (name, row))
    return list(found.values())


@pytest.mark.parametrize("experiment", VARIANTS)
def test_a_row_of_each_experiment_is_traced_small(experiment, data):
    """The last that is published; the others, below, in `make test-long`."""
    row = (*VARIANTS[experiment], *getattr(experiment_of(experiment), "PUBLISHED", {}))[-1]
    trace(on(substitute(config_of(experiment, row)), data))


@pytest.mark.long
@pytest.mark.parametrize(("experiment", "row"), one_each(ROWS, whole_program))
def test_every_row_is_traced_whole(experiment, row, data):
    trace(on(config_of(experiment, row), data))


@pytest.mark.long
@pytest.mark.parametrize(("experiment", "row"), one_each(ROWS, small_program))
def test_every_row_takes_two_steps(experiment, row, data):
    take_two_steps(on(substitute(config_of(experiment, row)), data))
