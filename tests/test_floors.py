"""The floors' rule: who may import whom, read from the sources themselves."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cyclegan_fast"
FLOORS = [
    {"errors", "logs", "version"},
    {"config", "files", "device"},
    {"ops"},
    {"nn", "images", "monitoring"},
    {"data", "checkpoint"},
    {"training", "engine", "evaluation"},
    {"cli", "train", "translate", "export", "model_card", "card", "evaluate", "dataset", "doctor", "demo", "__main__"},
]
RANK = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
COMMAND_HELPERS = {"cli"}


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms that a module imports, at its head or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "cyclegan_fast" else [f"cyclegan_fast.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("cyclegan_fast.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":  # the package's front door hands out the engine, lazily
        assert imports(path) <= {"engine", "version"}
        return
    assert room in RANK, f"{room} stands on no floor: give it one in this test and in CONTRIBUTING.md"
    for other in imports(path) - {room, "_C"}:
        below = RANK[other] < RANK[room]
        helper = other in COMMAND_HELPERS and RANK[room] == RANK[other]
        demo = room == "demo"  # runs the other commands one after the other
        assert below or helper or demo or {room, other} == {"card", "model_card"}, f"{room} may not import {other}"


def test_kernels_know_neither_torch_nor_python() -> None:
    sources = [p for p in (ROOT / "csrc" / "kernels").rglob("*") if p.is_file()]
    assert sources
    for path in sources:
        for include in re.findall(r'#\s*include\s*[<"]([^>"]+)[>"]', path.read_text()):
            assert not re.match(r"(torch|ATen|c10|pybind11|Python|NvInfer)", include), f"{path.name} includes {include}"


@pytest.mark.parametrize("module", ["tyro", "rich"])
def test_command_line_libraries_are_imported_lazily(module: str) -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] == module for name in names), f"{path.name} imports {module} at its head"
