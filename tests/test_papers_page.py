"""The page of the papers names them all, and only what is there."""

import re

from resflax.config.fields import all_keys
from resflax.config.files import load_experiment
from tests.conftest import ROOT
from tests.test_experiments import VARIANTS
from tests.test_recipes import FOLLOWS

PAGE = (ROOT / "docs/papers.md").read_text()
LINES = re.findall(r"^\| `(\w+)` \| (.*?) \| .*? \| (.*?) \|$", PAGE, re.MULTILINE)


def test_every_paper_is_there():
    assert {name for name, _, _ in LINES} == FOLLOWS.keys()
    assert FOLLOWS.keys() <= VARIANTS.keys()


def test_papers_are_called_as_in_their_files():
    """By author and year."""
    for name, paper, _ in LINES:
        author, year = re.match(r"(\w+).*? (\d{4})", paper).groups()
        about = load_experiment(name)[0].__doc__
        assert {author, year} <= set(re.findall(r"\w+", about)), name


def test_keys_exist():
    for name, _, keys in LINES:
        for key in re.findall(r"`([\w.]+)", keys):
            assert key in all_keys(), (name, key)
