"""Whatever has a public name in the package says what it is for, and what it takes and gives."""

import ast
from collections.abc import Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def public(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """`(dotted name, node)` of the public classes, functions and methods under `node`, at any depth of classes."""
    for child in ast.walk(node) if isinstance(node, ast.Module) else node.body:
        if isinstance(node, ast.Module) and child not in _statements(node):
            continue
        if isinstance(child, (ast.ClassDef, *FUNCTIONS)) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


def _statements(module: ast.Module) -> list[ast.stmt]:
    """The statements of a module, with those inside `if` and `try`."""
    found, waiting = [], list(module.body)
    while waiting:
        statement = waiting.pop(0)
        found.append(statement)
        if isinstance(statement, (ast.If, ast.Try)):
            waiting += [one for one in ast.iter_child_nodes(statement) if isinstance(one, ast.stmt)]
    return found
