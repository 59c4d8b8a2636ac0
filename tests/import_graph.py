"""Reads which modules of a package import which, from the sources: `import`, `from`, relative, and by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

_IMPORTERS = ("import_module", "__import__", "find_spec", "run_module")


@dataclass(frozen=True)
class Import:
    """One module of the package that another one imports."""

    target: str  # dotted name from the package's root, which is ""
    at_head: bool  # runs when the importing module is imported


def module_name(path: Path, package: Path) -> str:
    """Dotted name of a source file, from the package's root: "data.loaders.base", "data.loaders" or ""."""
    return ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def read_imports(package: Path) -> dict[str, set[Import]]:
    """Module -> the modules of the same package that it imports."""
    sources = {module_name(path, package): path for path in package.rglob("*.py")}
    extensions = {path.name.split(".")[0] for path in package.glob("*.so")} | {"_C"}
    known = sources.keys() | extensions
    return {
        name: {
            Import(_existing(target, known), at_head)
            for target, at_head in _targets(ast.parse(path.read_text("utf-8")), package.name, _home(name, path))
        }
        for name, path in sources.items()
    }


def _home(name: str, path: Path) -> str:
    """The package that a module's relative imports start from."""
    return name if path.stem == "__init__" else name.rpartition(".")[0]


def _existing(target: str, known: set[str]) -> str:
    """The module that `target` names, or is an attribute of."""
    while target and target not in known:
        target = target.rpartition(".")[0]
    return target


def _targets(tree: ast.Module, root: str, home: str) -> Iterator[tuple[str, bool]]:
    """Every dotted name within the package that is imported, and whether that happens at the module's head."""
    head = set(_head(tree.body))
    for node in ast.walk(tree):
        for name in _names(node, f"{root}.{home}".rstrip(".")):
            if name == root or name.startswith(f"{root}."):
                yield name[len(root) + 1 :], node in head


def _names(node: ast.AST, home: str) -> Iterator[str]:
    """Absolute dotted names that one node of the tree imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = home.split(".")[: 1 - node.level or None] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        yield from (f"{module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in _IMPORTERS and isinstance(node.args[0].value, str):
            name = node.args[0].value
            yield home + name if name.startswith(".") else name


def _head(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when the module is imported, those for the type checker left out."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.unparse(statement.test):
            yield from _head([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            handlers = [line for handler in statement.handlers for line in handler.body]
            yield from _head([*statement.body, *handlers, *statement.orelse, *statement.finalbody])
        elif isinstance(statement, ast.With):
            yield from _head(statement.body)


def find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """The nodes of a cycle, the first of them again at the end; empty if there is none."""
    try:
        TopologicalSorter({node: targets - {node} for node, targets in graph.items()}).prepare()
    except CycleError as error:
        return error.args[1]
    return []
