"""Documents that show commands, keys or names are held to them."""

import os
import re
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from resflax.config import Config
from resflax.config.fields import all_keys
from resflax.models.zoo import MODELS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_readme_counts_the_models():
    assert f"{len(MODELS)} rows" in README


def test_every_key_is_documented_with_its_default():
    rows = dict(re.findall(r"^\| `([\w.]+)` \| .*? \| `(.*?)` \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE))
    assert rows.keys() == all_keys().keys()
    for key, shown in rows.items():
        value = Config()
        for name in key.split("."):
            value = getattr(value, name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert shown.strip().lower() == text.lower(), key


def test_links_lead_somewhere():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def commands(text):
    """The `python -m resflax` lines of a document, but those of blocks marked as not run."""
    blocks = re.findall(r"(<!-- not run.*?-->\s*)?```bash\n(.*?)```", text, re.DOTALL)
    return [line for skip, block in blocks if not skip for line in block.splitlines() if line.startswith("python -m")]


@pytest.mark.parametrize(
    "document", ["README.md", "docs/models.md", pytest.param("docs/reproducing.md", marks=pytest.mark.long)]
)
def test_commands_work(document, tmp_path, one_device_environment):
    shown = commands((ROOT / document).read_text())
    assert len(shown) >= 2
    for folder in ("docs", "experiments"):
        os.symlink(ROOT / folder, tmp_path / folder)
    shorter = ("--config.total_steps=4", "--config.eval_every_steps=2")
    first = "python -m resflax.train --workdir=runs/quickstart-resnet"  # what `make train` does
    for line in (first, *shown):
        words = shlex.split(line, comments=True)
        words[0] = sys.executable
        words += shorter if {"resflax.train", "resflax.reproduce"} & {*words} else ()
        done = subprocess.run(words, cwd=tmp_path, env=one_device_environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def run_python(text):
    """What the Python blocks of a document, one after another, leave behind."""
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, scope)  # noqa: S102
    return scope


def test_readme_python_works():
    assert run_python(README)["logits"].shape == (8, 10)


def test_python_about_models_works():
    scope = run_python((ROOT / "docs/models.md").read_text())
    assert scope["features"].shape == (2, 2048)
    assert set(scope["found"]) == {"stage3", "stage2/block4/conv1", "pre_logits"}
    images = jnp.zeros((1, 64, 64, 3))
    assert jax.eval_shape(lambda: scope["net"].init_with_output(jax.random.key(0), images)[0]).shape == (1, 10)


@pytest.mark.parametrize("name", re.findall(r"`((?:resflax|experiments|tests|docs)/[\w/.]*)`", README))
def test_readme_names_files_that_exist(name):
    assert (ROOT / name).exists()
