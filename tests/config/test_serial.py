import dataclasses
import json
import random
import re
from typing import Literal, get_origin

import pytest

from resflax.config import Config, DataConfig, ModelConfig, OptimConfig, apply_overrides, config_hash, from_dict, to_dict
from resflax.config.fields import _options, accepts, all_keys
from resflax.config.serial import changed_keys
from resflax.errors import ConfigError
from tests.conftest import ROOT

ADDED_KEYS = {
    f"{section.name}.{field.name}"
    for section in dataclasses.fields(Config)
    if dataclasses.is_dataclass(section.default_factory)
    for field in dataclasses.fields(section.default_factory)
    if field.metadata.get("added")
}


def random_config(rng):
    """A configuration whose every field has some value of its type, not necessarily one that can be run."""
    config = Config()
    for key, hint in all_keys().items():
        if key == "model.kwargs":
            continue
        option = rng.choice(list(_options(hint)))
        text = {
            int: str(rng.randrange(1, 1000)),
            float: repr(rng.random()),
            bool: rng.choice(["true", "false"]),
            str: rng.choice(["digits", 'a "quoted" name', "ünïcode", "train[:90%]"]),
        }.get(option, "none")
        if get_origin(option) is tuple:
            text = ",".join(rng.choice(["0.25", "0.5", "1e-7"]) for _ in range(rng.randrange(4)))
        elif get_origin(option) is Literal:
            text = rng.choice(option.__args__)
        elif key == "model.name":
            text = rng.choice(["cifar_resnet20", "tutorial_cnn"])
        config = apply_overrides(config, [f"{key}={text}"])
    kwargs = rng.choice([{}, {"width": 4}, {"shortcut": "B", "repeat": "scan"}])
    return dataclasses.replace(config, model=ModelConfig(config.model.name, kwargs))


def test_there_and_back_through_json():
    rng = random.Random(0)
    for _ in range(100):
        config = random_config(rng)
        assert from_dict(to_dict(config)) == config
        again = from_dict(json.loads(json.dumps(to_dict(config), allow_nan=False)))
        assert again == config
        assert config_hash(again) == config_hash(config)
        assert changed_keys(to_dict(again), to_dict(config)) == []


def test_what_comes_back_has_the_types_of_the_fields():
    config = from_dict(json.loads(json.dumps(to_dict(Config(total_steps=3, data=DataConfig(augment=("flip",)))))))
    for key, hint in all_keys().items():
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        assert accepts(hint, value), key
    assert config.data.augment == ("flip",)


def test_keys_that_are_absent_have_their_defaults():
    assert from_dict({}) == Config()
    assert from_dict({"optim": {"name": "adam"}}) == Config(optim=OptimConfig(name="adam"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sead": 1}, "config.sead is not a configuration key; did you mean config.seed"),
        ({"optim": {"lr": 1}}, "config.optim.lr is not a configuration key; did you mean config.optim.learning_rate"),
        ({"optim": 1}, "config.optim must be a section of keys, got 1"),
        ({"data": None}, "config.data must be a section of keys, got None"),
        ([], "config must be a section of keys, got []"),
    ],
)
def test_a_file_of_another_version_is_refused(values, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        from_dict(values)


def test_the_dictionary_is_a_copy():
    config = Config(model=ModelConfig(kwargs={"width": 4}))
    to_dict(config)["model"]["kwargs"]["width"] = 5
    assert config.model.kwargs == {"width": 4}


def test_changed_keys_names_each_change_once():
    one = Config(total_steps=5, model=ModelConfig(kwargs={"width": 4}))
    other = Config(
        total_epochs=2.5,
        data=DataConfig(augment=("flip",)),
        model=ModelConfig(kwargs={"shortcut": "B"}),
        optim=OptimConfig(learning_rate=0.2),
    )
    assert changed_keys(to_dict(one), to_dict(one)) == []
    assert changed_keys(to_dict(one), to_dict(other)) == [
        "config.data.augment: [] -> ['flip']",
        "config.model.kwargs.shortcut: None -> B",
        "config.model.kwargs.width: 4 -> None",
        "config.optim.learning_rate: 0.1 -> 0.2",
        "config.total_epochs: None -> 2.5",
        "config.total_steps: 5 -> None",
    ]


def test_the_hash_is_that_of_the_values():
    base = Config(total_steps=5)
    assert re.fullmatch("[0-9a-f]{12}", config_hash(base))
    assert config_hash(Config(total_epochs=5)) == config_hash(Config(total_epochs=5.0))
    assert config_hash(Config(total_epochs=0.0)) == config_hash(Config(total_epochs=-0.0))
    # Each field counts.
    hashes = {config_hash(base)}
    for section in dataclasses.fields(Config):
        value = getattr(base, section.name)
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                changed = dataclasses.replace(value, **{field.name: "changed"})
                hashes.add(config_hash(dataclasses.replace(base, **{section.name: changed})))
        else:
            hashes.add(config_hash(dataclasses.replace(base, **{section.name: "changed"})))
    assert len(hashes) == 1 + len(all_keys())


def test_the_hash_depends_on_no_order():
    kwargs = {"width": 4, "shortcut": "B"}
    one, other = ModelConfig(kwargs=kwargs), ModelConfig(kwargs=dict(reversed(kwargs.items())))
    assert config_hash(Config(model=one)) == config_hash(Config(model=other))


RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "experiments/results").glob("*.json"))}


def test_records_keep_their_hash_when_the_schema_grows():
    """Where this fails, a new field of `resflax.config.schema` is not marked `ADDED`, or a default was changed."""
    assert RECORDS
    for name, record in RECORDS.items():
        assert config_hash(from_dict(record["config"])) == record["config_hash"], name


def test_a_record_without_a_key_has_its_default():
    old = to_dict(Config(total_steps=5))
    assert {"optim.trust_coefficient", "optim.clip_adaptive", "optim.sgd_learning_rate"} <= ADDED_KEYS
    for key in ADDED_KEYS:
        section, name = key.split(".")
        del old[section][name]
    assert from_dict(old) == Config(total_steps=5)
    assert config_hash(from_dict(old)) == config_hash(Config(total_steps=5))
    assert changed_keys(old, to_dict(Config(total_steps=5))) == []
    other = Config(total_steps=5, optim=OptimConfig(trust_coefficient=0.02, clip_adaptive=0.01))
    assert changed_keys(old, to_dict(other)) == [
        "config.optim.clip_adaptive: None -> 0.01",
        "config.optim.trust_coefficient: 0.001 -> 0.02",
    ]
    assert config_hash(other) != config_hash(Config(total_steps=5))


def test_what_is_no_section_is_a_change_too():
    """A workdir's file may hold anything."""
    assert changed_keys({"optim": 1, "extra": 2}, {}) == [
        "config.extra: 2 -> None",
        f"config.optim: 1 -> {to_dict(Config())['optim']}",
    ]
