import dataclasses
import random
import re
import string

import pytest

from resflax.config import Config, ModelConfig, apply_overrides, validate
from resflax.config.fields import ALIASES, accepts, all_keys, describe, unknown_key
from resflax.errors import ConfigError
from resflax.models.zoo import model_options

KEYS = [key for key in all_keys() if key != "model.kwargs"]


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


def refusal(*overrides, config=None):
    """The one sentence with which the overrides are refused."""
    with pytest.raises(ConfigError) as caught:
        apply_overrides(config or Config(total_steps=1), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def suggestions(message):
    return message.split("did you mean ")[1].removesuffix("?").split(", ")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("seed", "0", 0),
        ("seed", "4294967295", 2**32 - 1),
        ("total_steps", "782", 782),
        ("total_steps", "none", None),
        ("total_epochs", "2.5", 2.5),
        ("total_epochs", "3", 3.0),
        ("data.name", "cifar10", "cifar10"),
        ("data.name", "a=b.npz", "a=b.npz"),
        ("data.data_dir", "/data", "/data"),
        ("data.data_dir", "none", None),
        ("data.data_dir", "NULL", None),
        ("data.train_split", "train[:90%]", "train[:90%]"),
        ("data.input", "resident", "resident"),
        ("data.augment", "pad_crop:4,flip", ("pad_crop:4", "flip")),
        ("data.augment", " flip , ", ("flip",)),
        ("data.augment", "", ()),
        ("optim.learning_rate", "1e-3", 1e-3),
        ("optim.learning_rate", "1", 1.0),
        ("optim.nesterov", "True", True),
        ("optim.nesterov", "false", False),
        ("optim.dampening", "1", 1.0),
        ("optim.momentum", "0", 0.0),
        ("optim.milestones", "32000, 48000", (32000.0, 48000.0)),
        ("optim.clip_norm", "None", None),
        ("optim.base_batch_size", "256", 256),
        ("ema.decay", "0.999", 0.999),
        ("precision.compute", "bfloat16", "bfloat16"),
    ],
)
def test_text_is_read_as_the_fields_type(key, text, value):
    found = value_of(apply_overrides(Config(), [f"{key}={text}"]), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "must"),
    [
        ("seed=-1", "must be an integer at least 0 and at most 4294967295, got '-1'"),
        ("seed=4294967296", "must be an integer at least 0 and at most 4294967295, got '4294967296'"),
        ("seed=1.0", "must be an integer at least 0"),
        ("seed=true", "must be an integer at least 0"),
        ("seed=", "must be an integer at least 0"),
        ("total_steps=0", "must be an integer at least 1 or none, got '0'"),
        ("total_steps=1e400", "must be an integer at least 1 or none, got '1e400'"),
        ("total_epochs=0", "must be a number greater than 0 or none, got '0'"),
        ("total_epochs=inf", "must be a number greater than 0 or none, got 'inf'"),
        ("data.input=residnet", "must be one of auto, resident, host, got 'residnet'"),
        ("optim.learning_rate=nan", "must be a number greater than 0, got 'nan'"),
        ("optim.learning_rate=1e400", "must be a number greater than 0, got '1e400'"),
        ("optim.learning_rate=-inf", "must be a number greater than 0, got '-inf'"),
        ("optim.learning_rate=True", "must be a number greater than 0, got 'True'"),
        ("optim.learning_rate=0,1", "must be a number greater than 0, got '0,1'"),
        ("optim.momentum=1", "must be a number at least 0 and less than 1, got '1'"),
        ("optim.step_factor=1", "must be a number greater than 0 and less than 1, got '1'"),
        ("optim.nesterov=1", "must be true or false, got '1'"),
        ("optim.nesterov=yes", "must be true or false, got 'yes'"),
        ("optim.milestones=0.5;0.75", "must be a tuple, each item a number at least 0, got '0.5;0.75'"),
        ("optim.milestones=0.5,-1", "must be a tuple, each item a number at least 0, got '0.5,-1'"),
        ("optim.milestones=0.5,nan", "must be a tuple, each item a number at least 0, got '0.5,nan'"),
        ("optim.milestones=none", "must be a tuple, each item a number at least 0, got 'none'"),
        ("optim.name=SGD", "must be one of sgd, adam, adamw, lars, lamb, muon, got 'SGD'"),
        ("model.kwargs.width=wide", "must be an integer at least 1, got 'wide'"),
        ("model.kwargs.shortcut=E", "must be one of A, A_averaged, B, C, got 'E'"),
    ],
)
def test_values_of_another_type_or_outside_the_range_are_refused(override, must):
    key = override.partition("=")[0]
    message = refusal(override)
    assert message.startswith(f"config.{key} {must}")
    assert f"set it with --config.{key}=VALUE" in message


@pytest.mark.parametrize(
    ("key", "value", "fits"),
    [
        ("optim.learning_rate", 1, True),
        ("optim.learning_rate", True, False),
        ("optim.learning_rate", 10**400, False),
        ("optim.learning_rate", float("nan"), False),
        ("optim.learning_rate", "0.1", False),
        ("seed", True, False),
        ("seed", 1.0, False),
        ("optim.nesterov", 1, False),
        ("optim.milestones", (1, 2), True),
        ("optim.milestones", [1, 2], False),
        ("optim.milestones", (True,), False),
        ("data.augment", "flip", False),
        ("model.kwargs", {"width": 1}, True),
        ("model.kwargs", {1: 1}, False),
        ("total_steps", None, True),
        ("data.name", None, False),
    ],
)
def test_values_of_a_file_pass_the_same_checks(key, value, fits):
    assert accepts(all_keys()[key], value) == fits


def test_every_type_has_a_name_in_messages():
    names = r"(an integer|a number|true or false|text|a dictionary|one of \w+(, \w+)+|a tuple, each item (text|a number))"
    limits = r"(( at least| greater than) \d+( and (at most|less than) \d+)?)?( or none)?"
    for key, hint in all_keys().items():
        assert re.fullmatch(names + limits, describe(hint)), key
    assert describe(all_keys()["model.kwargs"]) == "a dictionary"
    assert describe(all_keys()["data.name"]) == "text"


def test_every_default_passes_its_own_check():
    for key, hint in all_keys().items():
        assert accepts(hint, value_of(Config(), key)), key


@pytest.mark.parametrize(
    ("overrides", "steps", "epochs"),
    [
        (["total_epochs=3"], None, 3.0),
        (["total_steps=7"], 7, None),
        (["total_epochs=3", "total_steps=7"], 7, 3.0),  # left to `validate` to refuse
        (["total_epochs=none"], 100, None),
        (["total_steps=none"], None, None),
    ],
)
def test_one_duration_clears_the_other(overrides, steps, epochs):
    config = apply_overrides(Config(total_steps=100), overrides)
    assert (config.total_steps, config.total_epochs) == (steps, epochs)


def test_the_last_of_two_values_wins_and_the_given_configuration_is_left_alone():
    given = Config(total_steps=1, model=ModelConfig(kwargs={"width": 8}))
    before = dataclasses.asdict(given)
    config = apply_overrides(given, ["seed=1", "model.kwargs.width=2", "model.kwargs.repeat=scan", "seed=2"])
    assert config.seed == 2
    assert config.model.kwargs == {"width": 2, "repeat": "scan"}
    assert dataclasses.asdict(given) == before


def test_arguments_of_the_model_are_typed_by_its_builder_wherever_its_name_stands():
    config = apply_overrides(Config(total_steps=1), ["model.kwargs.shortcut=B", "model.name=cifar_resnet8"])
    assert config.model == ModelConfig("cifar_resnet8", {"shortcut": "B"})
    message = refusal("model.kwargs.shortcut=B", "model.name=cifar_plain20")
    assert suggestions(message)[0] in ("config.model.kwargs.repeat", "config.model.kwargs.width")
    message = refusal("model.kwargs.width=4", "model.name=tutorial_cnn")
    assert message == "config.model.kwargs.width cannot be set: model tutorial_cnn has no arguments; leave it out"


@pytest.mark.parametrize(
    "text", ["seed", "", "=1", "model.kwargs=4", "optim=adam", "data.=1", "optim.name.x=1", "model.kwargs.=3"]
)
def test_what_names_no_field_is_refused(text):
    message = refusal(text)
    assert ("must read --config.KEY=VALUE" in message) if "=" not in text else ("is not a configuration key" in message)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *ALIASES.items(),
        ("optim.lr", "optim.learning_rate"),
        ("train.lr", "optim.learning_rate"),
        ("LR", "optim.learning_rate"),
        ("learning_rate", "optim.learning_rate"),
        ("weight_decay", "optim.weight_decay"),
        ("weightdecay", "optim.weight_decay"),
        ("batch_size", "data.batch_size"),
        ("BatchSize", "data.batch_size"),
        ("momentum", "optim.momentum"),
        ("label_smoothing", "loss.label_smoothing"),
        ("group-size", "batch_norm.group_size"),
        ("augment", "data.augment"),
        ("schedule", "optim.schedule"),
        ("keep_best", "checkpoint.keep_best"),
        ("width", "model.kwargs.width"),
        ("model.width", "model.kwargs.width"),
        ("model.kwargs.widht", "model.kwargs.width"),
        ("model.kwargs", "model.kwargs.width"),
    ],
)
def test_what_people_type_leads_to_what_they_mean(typed, meant):
    assert meant in [*KEYS, *(f"model.kwargs.{option}" for option in model_options("cifar_resnet20"))]
    named = suggestions(refusal(f"{typed}=1"))
    assert f"config.{meant}" in (named[:1] if typed in ALIASES else named)


def drop(rng, key):
    at = rng.choice([index for index, letter in enumerate(key) if letter != "."])
    return key[:at] + key[at + 1 :]


def add(rng, key):
    at = rng.randrange(len(key) + 1)
    return key[:at] + rng.choice(string.ascii_lowercase) + key[at:]


def swap(rng, key):
    at = rng.choice([i for i in range(len(key) - 1) if "." not in key[i : i + 2] and key[i] != key[i + 1]])
    return key[:at] + key[at + 1] + key[at] + key[at + 2 :]


def replace(rng, key):
    at = rng.choice([index for index, letter in enumerate(key) if letter != "."])
    return key[:at] + rng.choice(string.ascii_lowercase.replace(key[at], "")) + key[at + 1 :]


def wrong_section(rng, key):
    sections = sorted({key.partition(".")[0] for key in KEYS if "." in key} - {key.partition(".")[0]})
    return f"{rng.choice(sections)}.{key.rpartition('.')[2]}"


def wrong_case(rng, key):
    return rng.choice((str.upper, str.title, str.swapcase))(key)


def dashes(rng, key):
    return key.replace("_", "-")


def plural(rng, key):
    return key[:-1] if key.endswith("s") else f"{key}s"


def typos(count, seed=0):
    rng = random.Random(seed)
    made = []
    while len(made) < count:
        mistake, key = rng.choice((drop, add, swap, replace, wrong_section, wrong_case, dashes, plural)), rng.choice(KEYS)
        typo = mistake(rng, key)
        if typo not in KEYS:
            made.append((typo, key))
    return made


def test_typos_are_refused_and_the_right_key_is_named():
    made = typos(10 * len(KEYS))
    assert {key for _, key in made} == set(KEYS)
    missed = []
    for typo, key in made:
        named = suggestions(refusal(f"{typo}=1"))
        assert 1 <= len(named) <= 3
        assert "config.model.kwargs" not in named
        assert all(one.removeprefix("config.") in KEYS or one.startswith("config.model.kwargs.") for one in named)
        if f"config.{key}" not in named:
            missed.append((typo, key, named))
    assert len(missed) <= 0.05 * len(made), missed


def test_a_key_like_none_of_ours_gets_one_suggestion():
    assert len(suggestions(str(unknown_key("zzzzqqq")))) == 1


BAD = {
    "an integer": ["", " ", "1.5", "1e3", "nan", "inf", "true", "x", "0x10", "1,2", "-1", "--1", "None?", "½"],
    "a number": [
        "",
        " ",
        "nan",
        "-nan",
        "inf",
        "-inf",
        "Infinity",
        "1e400",
        "-1e400",
        "-1",
        "false",
        "x",
        "1,2",
        "0.1.2",
        "1e",
        "½",
    ],
    "true or false": ["", "0", "1", "yes", "on", "t", "none", "truee", "nan"],
    "one of": ["", "none", "x", "0", "true", "Constant", "sgd,adam", "auto "],
    "a tuple, each item a number": ["nan", "1,inf", "x", "-1", "0.5;1", "(0.5,0.75)", "[1]", "none", "1e400", "true"],
}


def bad_values(count, seed=0):
    cases = []
    for key, hint in all_keys().items():
        for kind, texts in BAD.items():
            if describe(hint).startswith(kind):
                cases += [(key, text) for text in texts if not (text == "none" and "or none" in describe(hint))]
    return random.Random(seed).sample(cases, count)


def test_bad_values_are_refused_by_name():
    cases = bad_values(300)
    assert len({key for key, _ in cases}) > 30
    for key, text in cases:
        message = refusal(f"{key}={text}")
        assert message.startswith(f"config.{key} must be {describe(all_keys()[key])}, got {text!r}; "), message


def test_long_and_many_lined_values_do_not_make_long_and_many_lined_messages():
    assert len(refusal("seed=" + "9" * 10_000)) < 250
    with pytest.raises(ConfigError) as caught:
        validate(Config(total_steps=1, seed=type("Odd", (), {"__repr__": lambda self: "two\nlines"})()))
    assert "got two lines" in str(caught.value)
