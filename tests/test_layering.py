"""The layers of the package: arrows point down only (DESIGN, section 2)."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

GROUND = {"nn", "types", "prng", "tree", "files", "errors", "ranges", "version", "pages", "compiler"}
PARTS = {"models", "data", "optim"}
MACHINERY = {"training", "results", "viz", "bench", "weights"}
ENTRY_POINTS = {
    "resflax", "cli", "train", "evaluate", "predict", "prepare", "summary", "visualize", "export", "convert", "benchmark",
    "reproduce", "report", "probe",
}  # fmt: skip

# What a unit may import, beside itself. A unit is a module or folder right under resflax/; "resflax" is the package's own file.
ALLOWED = {
    **{unit: GROUND for unit in GROUND | PARTS},
    **{unit: GROUND | PARTS for unit in MACHINERY},
    "config": GROUND | {"models.zoo"},
    "build": GROUND | PARTS | MACHINERY | {"config"},
    **{unit: GROUND | PARTS | MACHINERY | ENTRY_POINTS | {"config", "build"} for unit in ENTRY_POINTS},
    "experiments": GROUND | PARTS | MACHINERY | ENTRY_POINTS | {"config", "build"},
}
TFDS = {f"resflax/data/{name}.py" for name in ("digits", "packing", "preparing", "tfds_source")}
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "numpy", "tensorflow_datasets", "matplotlib", "sklearn", "PIL"}


class Import(NamedTuple):
    name: str  # dotted, down to the imported name: `from resflax import nn` is resflax.nn
    line: int
    lazy: bool  # inside a function


def imports(source: str, package: str = "") -> Iterator[Import]:
    """All that a module imports when it runs; what only a type checker sees is left out."""
    tree = ast.parse(source)

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING":
            children = node.orelse
        else:
            children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (Import(f"{base}.{alias.name}", node.lineno, lazy) for alias in node.names)
        for child in children:
            yield from walk(child, lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    yield from walk(tree, False)


def unit_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "experiments":
        return "experiments"
    return "resflax" if parts[1] == "__init__" else parts[1]


def upward(unit: str, name: str) -> bool:
    """Whether `unit` may not import `name`."""
    top, *rest = name.split(".")
    if top in ("tests", "experiments"):
        return top == "tests" or unit != "experiments"
    if top != "resflax":
        return False
    # Anything else under resflax is an attribute of its own __init__.py.
    target = rest[0] if rest and rest[0] in UNITS else "resflax"
    return target != unit and target not in ALLOWED[unit] and ".".join(rest[:2]) not in ALLOWED[unit]


UNITS = {path.stem for path in (ROOT / "resflax").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
MODULES = sorted(path for folder in ("resflax", "experiments") for path in (ROOT / folder).rglob("*.py"))
IMPORTS = [
    (path.relative_to(ROOT).as_posix(), unit_of(path), one)
    for path in MODULES
    for one in imports(path.read_text(), ".".join(path.relative_to(ROOT).parent.parts))
]


def where(found):
    return [f"{path}:{one.line} imports {one.name}" for path, _, one in found]


def test_imports_are_found_wherever_they_run():
    source = textwrap.dedent("""
        from __future__ import annotations
        import typing
        from typing import TYPE_CHECKING
        import a.b
        if TYPE_CHECKING:
            import hidden
        else:
            import shown
        if typing.TYPE_CHECKING:
            from hidden import too
        class C:
            import in_class
            def method(self):
                try:
                    from c import d as e, f
                except ImportError:
                    from . import near
                from .sub import thing
                from ..up import other
    """)
    found = {one.name: one.lazy for one in imports(source, "p.q")}
    eager = ["__future__.annotations", "typing", "typing.TYPE_CHECKING", "a.b", "shown", "in_class"]
    lazy = ["c.d", "c.f", "p.q.near", "p.q.sub.thing", "p.up.other"]
    assert found == {**dict.fromkeys(eager, False), **dict.fromkeys(lazy, True)}


@pytest.mark.parametrize(
    ("unit", "name", "forbidden"),
    [
        ("nn", "resflax.types.Array", False),
        ("nn", "resflax.config.Config", True),
        ("nn", "resflax.models.zoo", True),
        ("models", "resflax.models.blocks.BasicBlock", False),
        ("models", "resflax.nn", False),
        ("models", "resflax.data.arrays", True),
        ("models", "resflax.training.steps", True),
        ("data", "resflax.optim.masks", True),
        ("training", "resflax.optim.schedules", False),
        ("training", "resflax.results.record", True),
        ("results", "resflax.config", True),
        ("config", "resflax.models.zoo.MODELS", False),
        ("config", "resflax.models.cifar", True),
        ("build", "resflax.train.main", True),
        ("data", "resflax.create_model", True),
        ("train", "resflax.cli.run", False),
        ("train", "experiments.quickstart", True),
        ("experiments", "resflax.config.Config", False),
        ("experiments", "tests.micro", True),
    ],
)
def test_the_rule_itself(unit, name, forbidden):
    assert upward(unit, name) == forbidden


def test_every_unit_has_its_place():
    assert {unit_of(path) for path in MODULES} <= ALLOWED.keys()


def test_arrows_point_down_only():
    assert not where((path, unit, one) for path, unit, one in IMPORTS if upward(unit, one.name))


@pytest.mark.parametrize(
    ("packages", "allowed"),
    [
        ({"tensorflow", "torch", "keras"}, lambda path, one: one.lazy),
        ({"tensorflow_datasets"}, lambda path, one: path in TFDS),
        ({"matplotlib"}, lambda path, one: path.startswith("resflax/viz/")),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else "",
)
def test_heavy_packages_stay_where_they_belong(packages, allowed):
    assert not where(
        (path, unit, one) for path, unit, one in IMPORTS if one.name.split(".")[0] in packages and not allowed(path, one)
    )


@pytest.mark.parametrize(
    "module",
    [
        "config",
        "models.zoo",
        "cli",
        "train",
        "evaluate",
        "predict",
        "prepare",
        "reproduce",
        "report",
        "benchmark",
        "summary",
        "convert",
        "export",
        "probe",
        "visualize",
    ],
)
def test_a_bad_command_line_can_be_refused_before_anything_heavy_is_imported(module, one_device_environment):
    program = f"import sys, resflax.{module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    child = subprocess.run([sys.executable, "-c", program], env=one_device_environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert not HEAVY & set(child.stdout.split())
