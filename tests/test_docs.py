"""Documents that show commands, keys or names are held to them."""

import os
import re
import shlex
import shutil
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
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
QUICKSTART = "python -m resflax.train --workdir=runs/quickstart-resnet"  # what `make train` does
SHORTER = ("--config.total_steps=4", "--config.eval_every_steps=2")


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
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def commands(text):
    """The `python -m resflax` lines of a document, but those of blocks marked as not run."""
    blocks = re.findall(r"(<!-- not run.*?-->\s*)?```bash\n(.*?)```", text, re.DOTALL)
    return [line for skip, block in blocks if not skip for line in block.splitlines() if line.startswith("python -m")]


def run(lines, folder, environment):
    """Runs commands one after another in `folder`; trainings are cut to a few steps."""
    for line in lines:
        words = shlex.split(line, comments=True)
        words[0] = sys.executable
        words += SHORTER if {"resflax.train", "resflax.reproduce"} & {*words} else ()
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/models.md",
        pytest.param("docs/reproducing.md", marks=pytest.mark.long),
        pytest.param("docs/tutorial.md", marks=pytest.mark.long),
        pytest.param("docs/pictures.md", marks=pytest.mark.long),
        pytest.param("docs/transfer.md", marks=pytest.mark.long),
        pytest.param("docs/papers.md", marks=pytest.mark.long),
    ],
)
def test_commands_work(document, tmp_path, one_device_environment):
    text = (ROOT / document).read_text()
    shown = commands(text)
    assert len(shown) >= 2
    for folder in ("docs", "experiments"):
        os.symlink(ROOT / folder, tmp_path / folder)
    run((QUICKSTART, *shown), tmp_path, one_device_environment)
    if document == "docs/tutorial.md":
        (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, env=one_device_environment, capture_output=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_extensions_work(tmp_path, one_device_environment):
    """The diffs of docs/extending.md fit, and what they add can be used."""
    text = (ROOT / "docs/extending.md").read_text()
    for folder in ("resflax", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for diff in re.findall(r"```diff\n(.*?)```", text, re.DOTALL):
        subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=diff, text=True, check=True)
    environment = {**one_device_environment, "PYTHONPATH": str(tmp_path)}
    (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    subprocess.run([sys.executable, "-c", python], cwd=tmp_path, env=environment, check=True)
    run(commands(text), tmp_path, environment)
    for name in ("rezero", "lion", "patches"):
        assert (tmp_path / "runs" / name / "result.json").exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_quoted_code_is_the_code(document):
    for source, quoted in re.findall(r"<!-- from (.*?) -->\n```python\n(.*?)```", document.read_text(), re.DOTALL):
        assert quoted in (ROOT / source).read_text(), source


def run_python(text):
    """What the Python blocks of a document, one after another, leave behind."""
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, scope)  # noqa: S102
    return scope


def test_readme_python_works():
    assert run_python(README)["logits"].shape == (8, 10)


@pytest.mark.long
def test_python_about_pictures_works():
    scope = run_python((ROOT / "docs/pictures.md").read_text())
    assert scope["maps"].shape == (2, 32, 32)
    assert float(scope["shares"].gap.max()) <= 0.01


def test_python_about_models_works():
    scope = run_python((ROOT / "docs/models.md").read_text())
    assert scope["features"].shape == (2, 2048)
    assert set(scope["found"]) == {"stage3", "stage2/block4/conv1", "pre_logits"}
    images = jnp.zeros((1, 64, 64, 3))
    assert jax.eval_shape(lambda: scope["net"].init_with_output(jax.random.key(0), images)[0]).shape == (1, 10)


@pytest.mark.parametrize("name", re.findall(r"`((?:resflax|experiments|tests|docs)/[\w/.]*)`", README))
def test_readme_names_files_that_exist(name):
    assert (ROOT / name).exists()
