"""The command line as it is promised: commands, arguments, defaults, choices and exit codes, held to `tests/surface.txt`.

After a change that is meant: `python -m tests.test_surface > tests/surface.txt`.
"""

import argparse
import importlib

import pytest

from resflax import cli, errors
from tests.conftest import ROOT

STORED = ROOT / "tests/surface.txt"


class Seen(Exception):
    """Carries the parser of a command out of it."""


def parser_of(name):
    def stop(self, *_):
        raise Seen(self)

    kept = cli.Parser.parse_args, cli.Parser.parse_known_args
    cli.Parser.parse_args = cli.Parser.parse_known_args = stop
    try:
        importlib.import_module(f"resflax.{name}").main([])
    except Seen as seen:
        return seen.args[0]
    finally:
        cli.Parser.parse_args, cli.Parser.parse_known_args = kept
    raise AssertionError(f"{name} parses nothing")


def describe(action):
    parts = ["/".join(action.option_strings) or action.metavar or action.dest]
    if action.option_strings and action.nargs != 0:
        parts.append(f"={action.metavar or action.dest.upper()}")
    if action.nargs not in (None, 0):
        parts.append(f" nargs={action.nargs}")
    if action.type is not None:
        parts.append(f" type={action.type.__name__}")
    if action.choices is not None:
        parts.append(f" choices={','.join(map(str, action.choices))}")
    if action.default not in (None, False, argparse.SUPPRESS):
        parts.append(f" default={action.default}")
    if action.required:
        parts.append(" required")
    return "".join(parts)


def list_parser(name, parser):
    lines = [name]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub, inner in action.choices.items():
                lines += list_parser(f"{name} {sub}", inner)
        elif not isinstance(action, argparse._HelpAction):
            lines.append(f"  {describe(action)}")
    for group in parser._mutually_exclusive_groups:
        needed = "exactly" if group.required else "at most"
        lines.append(f"  {needed} one of {', '.join(one.option_strings[0] for one in group._group_actions)}")
    return lines


def surface():
    commands = sorted(path.stem for path in (ROOT / "resflax").glob("*.py") if "\ndef main(" in path.read_text())
    lines = [line for name in commands for line in list_parser(name, parser_of(name))]
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.ResflaxError)]
    lines += ["exit codes", *sorted(f"  {one.__name__} {one.exit_code}" for one in kinds)]
    return "\n".join(lines) + "\n"


def test_the_surface_is_as_it_was():
    assert surface() == STORED.read_text()


def test_flags_are_not_abbreviated_and_what_was_meant_is_shown():
    parser = cli.Parser(prog="x")
    parser.add_argument("--checkpoint")
    parser.add_argument("--workdir")
    for typed, meant in (("--check=1", "--checkpoint"), ("--wrkdir=1", "--workdir"), ("--work-dir", "--workdir")):
        with pytest.raises(errors.ConfigError, match=f"did you mean {meant}[?]"):
            parser.parse_args([typed])


if __name__ == "__main__":
    print(surface(), end="")
