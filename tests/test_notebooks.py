"""The notebooks of `colab/`: the files are clean, and run from the first cell to the last in quick mode."""

import ast
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from tests.conftest import ROOT

PATHS = sorted((ROOT / "colab").glob("*.ipynb"))
QUICK = {"SOURCE": "", "QUICK": True}
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells(notebook, kind):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def parsed(cell):
    """The cell's code; `%magic` and `!command` as the calls that IPython makes of them."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def outputs(notebook, mime):
    """What the cells displayed in that form."""
    shown = [output for cell in cells(notebook, "code") for output in cell.outputs if "data" in output]
    return [output.data[mime] for output in shown if mime in output.data]


def test_there_is_a_notebook():
    assert PATHS


@each_notebook
def test_file_is_a_valid_notebook(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert notebook.metadata.kernelspec.name == "python3"


@each_notebook
def test_file_is_of_no_machine(path):
    text = path.read_text()
    assert len(text) < 300_000
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt|opt|var|content|private)\b[\w./-]*", text)
    assert not re.findall(r"https?://\S*(?:simple|pypi|index)\S*", text)


@each_notebook
def test_committed_outputs_hold_no_error(path):
    for cell in cells(nbformat.read(path, as_version=4), "code"):
        assert not [output for output in cell.outputs if output.output_type == "error"], cell.id


@each_notebook
def test_parameters_are_set_in_one_tagged_cell(path):
    tagged = [cell for cell in nbformat.read(path, as_version=4).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    statements = parsed(tagged[0]).body
    assert all(isinstance(one, ast.Assign) for one in statements)
    assert {one.targets[0].id for one in statements} >= QUICK.keys()


@each_notebook
def test_notebook_defines_nothing(path):
    """It calls the functions that everybody calls (DESIGN, section 2)."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in cells(nbformat.read(path, as_version=4), "code"):
        assert not [node for node in ast.walk(parsed(cell)) if isinstance(node, definitions)], cell.id


@each_notebook
def test_functions_of_resflax_take_what_the_notebook_gives(path):
    notebook = nbformat.read(path, as_version=4)
    nodes = [node for cell in cells(notebook, "code") for node in ast.walk(parsed(cell))]
    names = {
        alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module.startswith("resflax")
        for alias in node.names
    }
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names]
    assert {call.func.id for call in calls} == names.keys()
    for call in calls:
        inspect.signature(names[call.func.id]).bind(*call.args, **{one.arg: one.value for one in call.keywords})


@each_notebook
def test_commands_that_the_notebook_names_exist(path):
    commands = set(re.findall(r"-m (resflax\.\w+)", path.read_text()))
    assert commands
    assert all(importlib.util.find_spec(command) for command in commands)


@pytest.fixture
def execute(one_device_environment, tmp_path):
    """Runs a notebook with parameters in an empty folder, by a kernel that has no settings of the user's; returns it."""

    def run(path, parameters):
        notebook = nbformat.read(path, as_version=4)
        (place,) = [index for index, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
        given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(given))
        settings = {name: str(tmp_path / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
        folder = tmp_path / "notebook"
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():  # this process looks the kernel up, and writes its connection file
                patch.setenv(name, value)
            client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
            client.execute(env={**one_device_environment, **settings})  # CellExecutionError names the cell that failed
        return notebook

    return run


def said(notebook):
    """What the cells printed."""
    return "".join(output.text for cell in cells(notebook, "code") for output in cell.outputs if "text" in output)


@pytest.fixture
def quick(execute):
    """Runs `colab/NAME.ipynb` in quick mode, from the first cell to the last."""

    def run(name):
        notebook = execute(ROOT / "colab" / f"{name}.ipynb", QUICK)
        assert all(cell.execution_count for cell in cells(notebook, "code"))
        return notebook

    return run


def test_each_notebook_has_a_test_that_runs_it():
    assert {path.stem for path in PATHS} == set(re.findall(r'quick\("(\w+)"\)', Path(__file__).read_text()))


@pytest.mark.long
def test_reproduce_he2015(quick):
    notebook = quick("reproduce_he2015")
    (table,) = outputs(notebook, "text/markdown")
    errors = dict(re.findall(r"^\| (\w+) \| - \| ([\d.]+) \(1\) \|", table, re.MULTILINE))
    assert errors.keys() == {"plain20_782", "resnet20_782"}
    assert "digits" in table or "total_steps" in table  # what was run is not the row, and it says so
    assert len(outputs(notebook, "image/png")) == 3  # curves, confusion, predictions
    assert f"error {errors['resnet20_782']} % on 360 images" in said(notebook)  # the saved weights score what the table says


@pytest.mark.long
def test_quickstart(quick):
    notebook = quick("quickstart")
    assert re.search(r"test accuracy after the last step: [\d.]+ % of 360 images", said(notebook))
    assert len(outputs(notebook, "image/png")) == 4  # curves, confusion, mistakes, predictions


@pytest.mark.long
def test_tpu_mesh(quick):
    notebook = quick("tpu_mesh")
    shown = said(notebook)
    assert "all-reduce: 1\nall-gather: 0\nall-to-all: 0\ncollective-permute: 0\n" in shown
    assert "one must divide the other" in shown
    devices, groups = (float(re.search(rf"{what}: ([\d.e-]+)", shown)[1]) for what in (r"in 5 steps", "groups of 8 and of 64"))
    assert devices < 1e-4 < 1e-2 < groups
    assert len(outputs(notebook, "image/png")) == 2


@pytest.mark.long
def test_finetune_your_images(quick):
    notebook = quick("finetune_your_images")
    (table,) = outputs(notebook, "text/markdown")
    accuracies = dict(re.findall(r"^\| (\w+) \| ([\d.]+) \|", table, re.MULTILINE))
    assert list(accuracies) == ["full", "head_only", "scratch"]
    assert all(40 < float(one) <= 100 for one in accuracies.values())  # of five classes
    assert "2 are new: params/head/dense/bias, params/head/dense/kernel" in said(notebook)
    assert len(outputs(notebook, "image/png")) == 3  # classes, mistakes, confusion
