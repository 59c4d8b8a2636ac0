"""`doctor --smoke`: trains a few steps and translates in every backend that is here, each a row of the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclegan_fast.diagnosis.build import BUILD
from cyclegan_fast.diagnosis.findings import Finding, NeededFor, how_it_ended, is_there
from cyclegan_fast.diagnosis.packages import TORCH
from cyclegan_fast.errors import one_line

_LIMIT = 900  # seconds for all rows; TensorRT takes minutes for one
_ROWS = "cyclegan_fast.diagnosis.smoke_rows"
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_NEEDS = {  # row: (modules, whether a CUDA device, the extra that brings the modules)
    "CUDA graphs": ((), True, ""),
    "ONNX Runtime": (_ONNX, False, "onnx"),
    "OpenVINO": ((*_ONNX, "openvino"), False, "onnx,openvino"),
    "TensorRT": ((*_ONNX, "tensorrt"), True, "tensorrt"),
    "TensorRT-RTX": ((*_ONNX, "tensorrt_rtx"), False, "tensorrt-rtx"),
}
_TORCH = f'pip install --force-reinstall "{TORCH}"'
_FIXES = {  # of each row, in their order: the first ones train what the others translate with
    "operators": BUILD,
    "training": _TORCH,
    "CUDA graphs": _TORCH,
    "torch": _TORCH,
    "ONNX Runtime": "pip install --force-reinstall --no-deps onnxruntime",
    "OpenVINO": "pip install --force-reinstall --no-deps openvino",
    "AOTInductor": _TORCH,
    "TensorRT": "pip install --force-reinstall tensorrt",
    "TensorRT-RTX": "pip install --force-reinstall tensorrt-rtx-cu13",
}
_NO_CHECKPOINT = "not run: it translates with the checkpoint of the training above"


def smoke(extension: Mapping[str, Any], compiler: Finding) -> list[Finding]:
    """The rows: passed or failed, with their time; or absent, where nothing is here that could run.

    Args:
        extension: Its `build_info`.
        compiler: The finding about the C++ compiler.
    """
    absent = _absent(extension, compiler)
    rows = [name for name in _FIXES if name not in absent]
    with tempfile.TemporaryDirectory(prefix="cyclegan_fast_") as folder:
        results = run_rows(rows, folder)
    return [absent.get(name) or _finding(name, results.get(name)) for name in _FIXES]


def run_rows(rows: Sequence[str], folder: str, *, limit: float = _LIMIT) -> dict[str, dict[str, Any]]:
    """What `smoke_rows` found of each row; one that ends its process has failed, and the others go on in a new one."""
    results: dict[str, dict[str, Any]] = {}
    left = list(rows)
    while left:
        lines, end = _run_process([folder, *left], limit)
        finished = {line["row"]: line for line in lines if "ok" in line}
        begun = [line["row"] for line in lines if line["row"] not in finished]
        if not finished and not begun:
            begun = left[:1]
        results |= finished | {name: {"ok": False, "message": end, "seconds": None} for name in begun}
        left = [name for name in left if name not in results]
        if not results.get("training", {"ok": True})["ok"]:
            break
    return results


def _run_process(words: list[str], limit: float) -> tuple[list[dict[str, Any]], str]:
    """(the lines of JSON that a process of rows printed, how it ended)."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-m", _ROWS, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit, check=False)
        output, errors, status = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        return _json_lines(output), f"did not end within {limit:g} seconds"
    last = "" if status < 0 else errors.strip().rpartition("\n")[2]
    return _json_lines(output), how_it_ended(status) + (f" ({one_line(last)})" if last else "")


def _json_lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.endswith("}")]


def _absent(extension: Mapping[str, Any], compiler: Finding) -> dict[str, Finding]:
    """The rows that nothing here could run, each with what it lacks."""
    import torch

    found: dict[str, Finding] = {}
    if not extension:
        found["operators"] = Finding("operators", False, "absent: they run in plain torch", BUILD)
    if not compiler.ok:
        found["AOTInductor"] = Finding("AOTInductor", False, "absent: a .pt2 file needs a C++ compiler", compiler.fix)
    for name, (modules, cuda, extra) in _NEEDS.items():
        if missing := [module for module in modules if not is_there(module)]:
            fix = f"pip install 'cyclegan-fast[{extra}]'"
            found[name] = Finding(name, False, f"absent: needs {', '.join(missing)}", fix)
        elif cuda and not torch.cuda.is_available():
            found[name] = Finding(name, False, "absent: needs a CUDA device")
    return found


def _finding(name: str, result: Mapping[str, Any] | None) -> Finding:
    if result is None:
        return Finding(name, False, _NO_CHECKPOINT)
    needed_for: NeededFor = "training" if name == "training" else "broken"
    fix = None if result["ok"] else _FIXES[name]
    return Finding(name, result["ok"], result["message"], fix, needed_for, result["seconds"])
