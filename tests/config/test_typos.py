"""Keys and values that are nearly right, in files and on the command line: refused by name, with what was meant.

`tests/config/test_overrides.py` has 500 typos and 300 bad values of the command line; these come through files, with the types
that Python gives them, and through commands, to their exit codes.
"""

import ast
import dataclasses
import json
import random
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from resflax.config import Config, from_dict, load_config, to_dict, validate
from resflax.config.fields import ALIASES, all_keys, describe, unknown_key
from resflax.errors import ConfigError
from tests.config.test_overrides import typos
from tests.config.test_validate import IMPOSSIBLE
from tests.conftest import ROOT


def put(config, key, value):
    name, _, rest = key.partition(".")
    return dataclasses.replace(config, **{name: put(getattr(config, name), rest, value) if rest else value})


def refusal(function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    return message


# ---- keys


def test_typos_in_a_stored_configuration():
    """As in a `config.json` or a record: each is refused and, where its section is right, the right key among three."""
    shown = []
    for typo, key in typos(300, seed=1):
        values = to_dict(Config(total_steps=1))
        section, _, name = typo.rpartition(".")
        known = not section or isinstance(values.get(section), dict)
        (values[section] if section and known else values)[name if known else section] = 1
        message = refusal(from_dict, values)
        if known:
            shown.append(f"config.{key}" in message.split("did you mean ")[1].removesuffix("?").split(", "))
    assert len(shown) > 150
    assert sum(shown) >= 0.95 * len(shown)


@pytest.mark.faults
def test_the_right_key_is_shown_in_19_of_20_cases_whatever_the_seed():
    shares = []
    for seed in (2, 3):
        made = typos(250, seed)
        shown = sum(
            f"config.{key}" in str(unknown_key(typo)).split("did you mean ")[1].rstrip("?").split(", ") for typo, key in made
        )
        shares.append(shown / len(made))
    assert min(shares) >= 0.95, shares


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("section", ["", "optim.", "data.", "train.", "training."])
def test_what_people_call_it_elsewhere_comes_first(alias, section):
    if f"{section}{alias}" not in all_keys():
        assert f"did you mean config.{ALIASES[alias]}" in str(unknown_key(f"{section}{alias}"))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("Config(total_stps=1)", "config.total_stps is not a configuration key; did you mean config.total_steps"),
        ("Config(lr=1)", "config.lr is not a configuration key; did you mean config.optim.learning_rate"),
        (
            "Config(optim=OptimConfig(learning_rte=1))",
            "config.optim.learning_rte is not a configuration key; did you mean config.op",
        ),
        (
            "Config(optim=OptimConfig(batch_size=1))",
            "config.optim.batch_size is not a configuration key; did you mean config.data.b",
        ),
        ("dataclasses.replace(Config(), sed=1)", "config.sed is not a configuration key; did you mean config.seed"),
        (
            "Config(total_steps=int(Config().optim.momentm))",
            "config.optim.momentm is not a configuration key; did you mean config.op",
        ),
        ("Config(total_steps=''.x)", "must run without an error, but AttributeError: 'str' object has no attribute 'x'"),
        ("Config(total_steps=int(x=1))", "must run without an error, but TypeError: "),
    ],
)
def test_typos_in_a_configuration_file(code, says, tmp_path):
    program = f"""
        import dataclasses
        from resflax.config import Config, OptimConfig
        def get_config():
            return {code}
    """
    (tmp_path / "typo.py").write_text(textwrap.dedent(program))
    assert says in refusal(load_config, str(tmp_path / "typo.py"))


def test_typos_reach_no_device(one_device_environment, tmp_path):
    """A hundred through `train` itself, in a process in which importing JAX or TensorFlow is an error."""
    program = """
        import json, sys
        for name in ("jax", "flax", "numpy", "tensorflow", "tensorflow_datasets", "orbax", "optax"):
            sys.modules[name] = None
        from resflax.errors import ConfigError
        from resflax.train import main
        for text in json.load(sys.stdin):
            try:
                main([f"--config.{text}=1"])
            except ConfigError as error:
                print(error.exit_code, str(error).count("\\n"), "did you mean" in str(error))
    """
    made = [typo for typo, _ in typos(100, seed=7)]
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        input=json.dumps(made),
        cwd=tmp_path,
        env=one_device_environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.split("\n")[:-1] == ["2 0 True"] * 100
    assert list(tmp_path.iterdir()) == []


# ---- values

OTHERS = [
    True,
    1.5,
    -1,
    10**400,
    float("nan"),
    float("inf"),
    -float("inf"),
    "1e-3",
    "none",
    "",
    b"x",
    None,
    [1],
    (1, "x"),
    {},
    {1},
    object,
]


def wrong_types():
    """Values of Python that are not of a field's type."""
    for key, hint in all_keys().items():
        kind = describe(hint)
        for value in OTHERS:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            fits = {
                "a number": number and abs(value) < 10**300 and value >= 0,
                "an integer": isinstance(value, int) and number and 0 <= value < 10**9,
                "true or false": isinstance(value, bool),
                "text": isinstance(value, str),
                "a dictionary": value == {},
            }
            named = next((name for name in fits if kind.startswith(name)), None)
            if not (named and fits[named]) and not (value is None and kind.endswith("or none")) and value != ():
                yield key, value


def out_of_range():
    for key, hint in all_keys().items():
        kind = describe(hint)
        if "at least 1" in kind:
            yield from ((key, value) for value in (0, -1, -(10**9)))
        elif "at least 0" in kind and not kind.startswith("a tuple"):
            yield from ((key, value) for value in (-1, -(10**9)))
        elif "greater than 0" in kind:
            yield from ((key, value) for value in (0, -0.0, -1e-300))
        if "less than 1" in kind:
            yield from ((key, value) for value in (1.0, 1, 1e300))
        elif "at most 1" in kind:
            yield from ((key, value) for value in (1.0000001, 2, 1e300))


def bad_choices():
    for key, hint in all_keys().items():
        kind = describe(hint)
        if kind.startswith("one of "):
            first = kind.removeprefix("one of ").split(", ")[0]
            yield from (
                (key, value) for value in (first.upper(), f"{first} ", first[:-1], f"{first}s", first.title(), "", first[::-1])
            )


@pytest.mark.parametrize(
    ("cases", "least"), [(wrong_types, 200), (out_of_range, 60), (bad_choices, 40)], ids=["types", "ranges", "choices"]
)
def test_bad_values_in_a_file(cases, least):
    found = list(cases())
    assert len(found) >= least
    for key, value in found:
        message = refusal(validate, put(Config(total_steps=1), key, value))
        assert message.startswith(f"config.{key} must be {describe(all_keys()[key])}, got "), (key, value, message)
        assert repr(value)[:20] in message


def test_bad_values_in_a_stored_configuration():
    for key, value in random.Random(0).sample([*wrong_types(), *out_of_range(), *bad_choices()], 200):
        if isinstance(value, list):  # is how JSON writes a tuple
            continue
        values = to_dict(Config(total_steps=1))
        *sections, name = key.split(".")
        where = values
        for section in sections:
            where = where[section]
        where[name] = value
        with pytest.raises(ConfigError):
            validate(from_dict(values))


def test_numbers_are_numbers_and_never_text():
    for key, hint in all_keys().items():
        if describe(hint).startswith(("a number", "an integer")):
            assert "got '1e-3'" in refusal(validate, put(Config(total_steps=1), key, "1e-3"))


# ---- combinations


def test_there_are_25_rules_about_combinations():
    """Distinct sentences among the impossible cases of test_validate.py, numbers and names apart."""
    source = ast.parse((ROOT / "resflax/config/validate.py").read_text())
    raised = sum(isinstance(node, ast.Raise) for node in ast.walk(source))
    assert sum(map(len, IMPOSSIBLE.values())) >= raised
    elsewhere = Counter()
    for name in ("build/inputs.py", "build/parts.py", "build/run.py", "training/sharding.py"):
        tree = ast.parse((ROOT / "resflax" / name).read_text())
        calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
        elsewhere[name] = sum(ast.unparse(call.func) == "ConfigError" for call in calls)
    assert raised + sum(elsewhere.values()) >= 25, (raised, elsewhere)


# ---- dead keys


def attributes_read():
    """The names of all attributes that code outside of resflax/config reads."""
    read = set()
    for path in (ROOT / "resflax").rglob("*.py"):
        if path.is_relative_to(ROOT / "resflax/config"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add((path.relative_to(ROOT).as_posix(), node.attr))
    return read


def test_every_key_is_read_by_some_code():
    wiring = {
        name for path, name in attributes_read() if path.startswith(("resflax/build/", "resflax/train", "resflax/evaluate"))
    }
    assert [key for key in all_keys() if key.rpartition(".")[2] not in wiring] == []


def test_a_dead_key_would_be_seen():
    names = {name for _, name in attributes_read()}
    assert "learning_rate" in names
    assert "lerning_rate" not in names
