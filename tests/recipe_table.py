"""The table of recipes, `tests/recipes/*.toml`, and a configuration in the same terms."""

import dataclasses
import functools
import inspect
import tomllib
from typing import Any

from resflax.build.parts import total_steps
from resflax.config import Config, ModelConfig, to_dict
from resflax.config.fields import all_keys
from resflax.config.validate import parse_sizes
from resflax.models.zoo import _builder
from tests.conftest import ROOT

# What belongs to a machine or to bookkeeping.
FREE = (
    "seed", "log_every_steps", "eval_every_steps", "checkpoint.", "non_finite.", "data.data_dir", "data.input", "data.workers",
    "data.unreadable", "data.max_unreadable_fraction", "data.eval_batch_size", "data.eval_split", "precision.compiler_options",
    "precision.deterministic", "batch_norm.gradient", "optim.accumulate", "model.kwargs.repeat", "model.kwargs.stem_form",
)  # fmt: skip
# The fields that a quantity of the table is made of.
_LENGTH = ("total_steps", "total_epochs")
_MILESTONES = ("optim.milestones", "optim.milestone_unit")
_WARMUP = ("optim.warmup_steps", "optim.warmup_epochs", "optim.warmup_fraction")
MADE_OF = {
    "steps": _LENGTH,
    "epochs": _LENGTH,
    "peak_learning_rate": ("optim.learning_rate", "optim.base_batch_size"),
    "milestone_steps": _MILESTONES,
    "milestone_epochs": _MILESTONES,
    "warmup_steps": _WARMUP,
    "warmup_epochs": _WARMUP,
    "first_learning_rate": ("optim.warmup_factor",),
    "half_precision": ("precision.compute",),
    "eval_image_size": ("data.image_size",),
    "resolution_epochs": ("data.sizes",),
    "swa_start_epoch": ("swa.start",),
}
NONE = "none"  # in the table: a row has not what the row that it is like has


@functools.cache
def papers() -> dict[str, dict[str, Any]]:
    """`{name of the file: its content}`."""
    return {path.stem: tomllib.loads(path.read_text()) for path in sorted((ROOT / "tests/recipes").glob("*.toml"))}


def recipe(name: str) -> dict[str, Any]:
    """All that the table says about the row `file/row`."""
    paper, _, row = name.partition("/")
    rows = papers()[paper]["rows"]
    lineage = [rows[row]]
    while "like" in lineage[0]:
        lineage.insert(0, rows[lineage[0]["like"]])
    found = functools.reduce(lambda all_so_far, more: all_so_far | more, lineage, papers()[paper]["all"])
    return {key: value for key, value in found.items() if key != "like" and value != NONE}


def train_images(name: str) -> int:
    """Of the row `file/row`: as many as an epoch has."""
    return recipe(name).get("train_images") or papers()[name.partition("/")[0]]["train_images"]


def fields(config: Config) -> dict[str, Any]:
    """`{dotted key: value}`, with the arguments of the network that it leaves to their defaults."""
    values = to_dict(config)
    found = {key: functools.reduce(lambda section, name: section[name], key.split("."), values) for key in all_keys()}
    kwargs = arguments(config.model.name) | found.pop("model.kwargs")
    return found | {f"model.kwargs.{name}": value for name, value in kwargs.items()}


def arguments(model: str) -> dict[str, Any]:
    """What a network's builder takes, with the defaults; without those that the name of the network stands for."""
    builder: Any = _builder(model)
    parameters = inspect.signature(builder.func).parameters
    given = {"num_classes", "norm", "dtype", *builder.keywords, *list(parameters)[: len(builder.args)]}
    return {name: one.default for name, one in parameters.items() if name not in given and one.default is not one.empty}


def quantities(config: Config, images: int) -> dict[str, Any]:
    """What papers print, of a configuration that trains on so many images."""
    optim, batch = config.optim, config.data.batch_size
    steps, an_epoch = total_steps(config, images), images / batch
    unit = {"fraction": steps, "steps": 1, "epochs": an_epoch}[optim.milestone_unit]
    milestones = [point * unit for point in optim.milestones]
    warmup = optim.warmup_steps + optim.warmup_epochs * an_epoch + optim.warmup_fraction * steps
    peak = optim.learning_rate * (batch / optim.base_batch_size if optim.base_batch_size else 1)
    return {
        "steps": steps,
        "epochs": config.total_epochs or steps / an_epoch,
        "peak_learning_rate": peak,
        "milestone_steps": milestones,
        "milestone_epochs": [step / an_epoch for step in milestones],
        "warmup_steps": warmup,
        "warmup_epochs": warmup / an_epoch,
        "first_learning_rate": peak * optim.warmup_factor,
        "eval_image_size": config.data.image_size,
        "resolution_epochs": [[start * steps / an_epoch, size] for size, start in parse_sizes(config.data.sizes)],
        "half_precision": config.precision.compute == "bfloat16",
        "swa_start_epoch": None if config.swa.start is None else config.swa.start * steps / an_epoch,
    }


def idle(config: Config) -> set[str]:
    """Fields that do nothing in this configuration."""
    optim = config.optim
    found = set() if optim.schedule in ("step", "piecewise") else {*_MILESTONES, "optim.step_factor"}
    if not (optim.warmup_steps or optim.warmup_epochs or optim.warmup_fraction):
        found |= {"optim.warmup", "optim.warmup_factor"}
    return found


def differences(config: Config, name: str) -> dict[str, tuple[Any, Any]]:
    """`{key: (what the table says, what the configuration has)}` where they differ from the row `file/row`.

    A field of which the table says nothing must have its default.
    """
    said = {key: value for key, value in recipe(name).items() if key not in ("published", "train_images", "not_printed")}
    silent = [key for key in recipe(name).get("not_printed", ()) if key not in said]
    named = {field for key in (*said, *silent) for field in MADE_OF.get(key, (key,))}
    defaults = fields(dataclasses.replace(Config(), model=ModelConfig(config.model.name)))
    left = {key: value for key, value in defaults.items() if key not in named | idle(config) and not key.startswith(FREE)}
    has = fields(config) | quantities(config, train_images(name))
    has["batch_norm.group_size"] = has["batch_norm.group_size"] or config.data.batch_size
    if "batch_norm.group_size" in left:
        left["batch_norm.group_size"] = config.data.batch_size
    wanted = {key: value for key, value in (left | said).items() if not idle(config).issuperset(MADE_OF.get(key, (key,)))}
    found = {key: (value, has.get(key, "no such field")) for key, value in wanted.items()}
    return {key: pair for key, pair in found.items() if not same(*pair)}


def same(one: Any, other: Any) -> bool:
    """Equal, but for rounding: a paper's epochs may be a configuration's steps; the order of lists does not count here."""
    if isinstance(one, list) and isinstance(other, list):
        if all(isinstance(item, str) for item in (*one, *other)):
            return sorted(one) == sorted(other)
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return abs(one - other) <= 1e-3 * max(abs(one), abs(other)) if numbers else one == other
