"""Whatever has a public name in the package says what it is for; public functions say what they take and give."""

import ast
import textwrap
from collections.abc import Iterator

from tests.conftest import ROOT

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """`(dotted name, node)` of public classes, functions and methods; what is defined inside a function has no public name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, *FUNCTIONS)):
            if not child.name.startswith("_"):
                yield f"{prefix}.{child.name}", child
                if isinstance(child, ast.ClassDef):
                    yield from definitions(child, f"{prefix}.{child.name}")
        elif isinstance(child, ast.stmt):  # an `if` or a `try`
            yield from definitions(child, prefix)


def unannotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The arguments without annotation, and `return`."""
    given = function.args
    arguments = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    bare = [one.arg for one in arguments if one is not None and one.annotation is None and one.arg not in ("self", "cls")]
    return bare + ([] if function.returns else ["return"])


PUBLIC = []
for path in sorted((ROOT / "resflax").rglob("*.py")):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if path.name == "__init__.py" or not path.stem.startswith("_"):
        module = ast.parse(path.read_text())
        name = ".".join(parts).removesuffix(".__init__")
        PUBLIC += [(name, module), *definitions(module, name)]


def test_what_counts_as_public():
    source = textwrap.dedent("""
        def function(a, *b: int, c: int = 0, **d) -> None:
            def inner(): ...
        async def _private(): ...
        if True:
            class Conditional:
                def method(self, x): ...
                def __call__(self): ...
                class Nested:
                    async def deep(cls) -> int: ...
        class _Private:
            def method(self): ...
    """)
    found = dict(definitions(ast.parse(source), "m"))
    assert list(found) == [
        "m.function",
        "m.Conditional",
        "m.Conditional.method",
        "m.Conditional.Nested",
        "m.Conditional.Nested.deep",
    ]
    assert unannotated(found["m.function"]) == ["a", "d"]
    assert unannotated(found["m.Conditional.method"]) == ["x", "return"]
    assert unannotated(found["m.Conditional.Nested.deep"]) == []


def test_everything_public_has_a_docstring():
    assert len(PUBLIC) > 100  # the walk found the package
    assert not [name for name, node in PUBLIC if not (ast.get_docstring(node) or "").strip()]


def test_public_functions_are_annotated():
    assert not {name: unannotated(node) for name, node in PUBLIC if isinstance(node, FUNCTIONS) and unannotated(node)}
