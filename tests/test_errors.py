"""The exit codes that are promised are those that are given."""

import re
import signal

from resflax.errors import Interrupted, ResflaxError
from resflax.training.signals import SignalFlag
from tests.conftest import ROOT


def caught_signals():
    def handlers():
        return {number: signal.getsignal(number) for number in signal.valid_signals()}

    outside = handlers()
    with SignalFlag():
        return [number for number, handler in handlers().items() if handler != outside[number]]


def test_the_documented_exit_codes_are_those_of_the_errors():
    section = (ROOT / "docs" / "runs.md").read_text().partition("## Exit codes\n")[2].partition("\n## ")[0]
    documented = [int(code) for row in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE) for code in row.split(",")]
    assert len(documented) == len(set(documented))
    errors = {kind.exit_code for kind in ResflaxError.__subclasses__() if kind is not Interrupted}
    interrupted = {Interrupted(number, "").exit_code for number in caught_signals()}
    assert set(documented) == {0} | errors | interrupted
    assert len(errors) == len(ResflaxError.__subclasses__()) - 1  # no two mean the same


def test_no_error_is_without_a_code_of_its_own():
    bare = re.compile(r"raise ResflaxError\b")
    assert not [path for path in (ROOT / "resflax").rglob("*.py") if bare.search(path.read_text())]
