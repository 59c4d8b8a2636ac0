"""Who may import whom: the package's layers, read from the sources themselves."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.import_graph import Import, find_cycle, module_name, read_imports

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cyclegan_fast"
CSRC = ROOT / "csrc"
COMMANDS = {
    *("train", "translate", "export", "model_card", "evaluate", "report", "dataset", "doctor", "serve", "demo"),
    "experiments",
}
ALIASES = {"card": "model_card"}  # former names of commands
LAYERS = [
    {"errors", "logs", "version", "documents", "telemetry"},
    {"metrics"},
    {"_C", "config", "cuda_capture", "files", "device", "processes"},
    {"memory", "models"},
    {"ops"},
    {"nn", "images", "monitoring"},
    {"data", "checkpoint"},
    {"evaluation"},
    {"training", "engine"},
    {"serving"},  # engines behind HTTP
    {"cli"},  # what all commands share
    {"api", "diagnosis", "studies"},  # training from Python; what the doctor examines; the paper's tables
    COMMANDS - {"demo"},
    {"demo", "__main__"} | ALIASES.keys(),  # demo runs the other commands one after the other
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
IMPORTS = read_imports(PACKAGE)


def part_of(module: str) -> str:
    """The package or module of the layers that a module belongs to: "data" of "data.loaders.base"."""
    return module.split(".")[0]


@pytest.mark.parametrize("module", sorted(IMPORTS), ids=lambda name: name or "__init__")
def test_imports_go_to_lower_layers(module: str) -> None:
    part = part_of(module)
    targets = {found.target for found in IMPORTS[module]}
    if part == "":  # the package's root hands out the engine and `fit`, lazily
        assert {part_of(target) for target in targets} <= {"api", "config", "engine", "errors", "version"}
        return
    assert part in RANK, f"{part} is on no layer: give it one in this test and in CONTRIBUTING.md"
    for other in {part_of(target) for target in targets} - {part}:
        if other == "":
            assert part in COMMANDS, f"{module} imports the package's root: import the module that it needs"
            continue
        assert RANK[other] < RANK[part], f"{module} may not import {other}"


def test_modules_import_each_other_in_no_circle() -> None:
    """Counts what a module imports at its head, where a circle breaks the import."""
    graph = {name: {found.target for found in imports if found.at_head} for name, imports in IMPORTS.items()}
    assert find_cycle(graph) == []


def test_packages_import_each_other_in_no_circle() -> None:
    """Counts every import, those inside functions too; a module beside packages counts as one of them."""
    names = {node(name) for name in IMPORTS}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for name, imports in IMPORTS.items():
        if not is_root_of_packages(name):  # which hands out what its packages hold
            targets = {found.target for found in imports}
            graph[node(name)] |= {node(target) for target in targets if not is_root_of_packages(target)}
    assert find_cycle(graph) == []


def node(module: str) -> str:
    """The package or module that a module counts as: "data.loaders" for "data.loaders.base", "data.rng" for itself."""
    return ".".join(module.split(".")[:2])


def is_root_of_packages(module: str) -> bool:
    return "." not in module and (PACKAGE / module / "__init__.py").exists()


SOURCE = """
import pack
import pack.a, json
from pack import b, version_of_the_root
from pack.c import thing
from . import d
from .e import thing
from ..f.g import thing
from .. import root_thing
if True:
    import pack.h
try:
    import pack.i
except ImportError:
    from pack import j
if TYPE_CHECKING:
    import pack.k
def function():
    from pack import l
    importlib.import_module("pack.m")
    import_module(".n", "pack.sub")
    print("pack.o")
"""


def test_every_kind_of_import_is_read(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    (package / "sub").mkdir(parents=True)
    (package / "f").mkdir()
    for name in ["__init__", *"abchijklmo", "sub/__init__", "sub/d", "sub/e", "sub/n", "f/__init__", "f/g"]:
        (package / f"{name}.py").touch()
    (package / "sub" / "user.py").write_text(SOURCE)
    found = read_imports(package)["sub.user"]
    head = {"", "a", "b", "c", "sub.d", "sub.e", "f.g", "h", "i", "j"}
    assert found == {Import(name, True) for name in head} | {Import(name, False) for name in ("k", "l", "m", "sub.n")}
    assert module_name(package / "sub" / "__init__.py", package) == "sub"


def test_circles_are_found() -> None:
    assert find_cycle({"a": {"b", "a"}, "b": {"c"}, "c": set()}) == []
    assert set(find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*([<"][^>"]+[>"])', path.read_text("utf-8"), re.MULTILINE)


FOLDERS = sorted(folder.name for folder in CSRC.iterdir() if folder.is_dir())


def sources(folder: str) -> list[Path]:
    return [path for path in (CSRC / folder).rglob("*") if path.is_file()]


def included_file(quoted: str, includer: Path) -> Path:
    """The file beside the includer, or in a folder of csrc, that an include names."""
    for place in (includer.parent, *(CSRC / folder for folder in FOLDERS)):
        if (found := place / quoted.strip('"')).is_file():
            return found.resolve()
    raise AssertionError(f"{includer.relative_to(ROOT)} includes {quoted}, which is not in csrc")


@pytest.mark.parametrize("folder", [name for name in FOLDERS if name != "torch"])
def test_csrc_knows_neither_torch_nor_python(folder: str) -> None:
    """All of it but csrc/torch, whose files include the others and are included by none of them."""
    assert sources(folder)
    for path in sources(folder):
        for name in includes(path):
            assert not re.match(r"[<\"](torch|ATen|c10|pybind11|Python|NvInfer)", name), f"{path.name} includes {name}"
            if name.startswith('"'):
                found = included_file(name, path)
                assert found.is_relative_to(CSRC / folder), f"{path.name} includes {found.relative_to(CSRC)}"


def test_files_of_csrc_include_each_other_in_no_circle() -> None:
    graph = {
        str(path): {str(included_file(name, path)) for name in includes(path) if name.startswith('"')}
        for folder in FOLDERS
        for path in sources(folder)
    }
    assert find_cycle(graph) == []


def test_command_line_libraries_are_imported_lazily() -> None:
    for path in PACKAGE.rglob("*.py"):
        for statement in ast.parse(path.read_text("utf-8")).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            if isinstance(statement, ast.ImportFrom):
                names = [statement.module or ""]
            heavy = {name.split(".")[0] for name in names} & {"rich"}
            assert not heavy, f"{path.name} imports {heavy} at its head"
