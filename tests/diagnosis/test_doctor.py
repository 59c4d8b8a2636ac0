"""The doctor, run as a user runs it: where everything is here, and where real faults were put in its way."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan_fast import doctor as doctor_command
from cyclegan_fast import ops
from cyclegan_fast.diagnosis import build, packages, smoke
from cyclegan_fast.diagnosis.findings import Finding, NeededFor, import_fault
from cyclegan_fast.diagnosis.gpu import covers, driver_fault, gpu
from cyclegan_fast.diagnosis.machine import BUILD_VARIABLES, SWITCHES
from cyclegan_fast.diagnosis.packages import CORE, EXTRAS, TESTED_TORCH, Extra
from tests.data.test_shared_memory import SMALL_SHM

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sysconfig.get_path("purelib")
Done = subprocess.CompletedProcess[str]
needs_extension = pytest.mark.skipif(not ops.extension_available(), reason="there is no extension to damage")


def doctor(
    *words: str,
    source: Path = ROOT,
    flags: tuple[str, ...] = (),
    packages: str = "",
    before: tuple[str, ...] = (),
    limits: Callable[[], object] | None = None,
    **environment: str,
) -> Done:
    """Runs the doctor of `source`; with the flag -S no editable install is seen, and `packages` holds the others.

    Args:
        words: Of the command line.
        source: The folder that holds the package.
        flags: Of Python.
        packages: Folders of further packages.
        before: What stands before Python on the command line.
        limits: Called in the new process.
        environment: Beside PATH and what Python needs.
    """
    command = [*before, sys.executable, *flags, "-m", "cyclegan_fast.doctor", *words]
    path = os.pathsep.join(filter(None, [str(source), packages]))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "HOME": "/nowhere"} | environment
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment | {"PYTHONIOENCODING": "utf-8"},
        cwd=source,
        check=False,
        preexec_fn=limits,
    )


def finding(report: Done, name: str) -> dict[str, Any]:
    """The line of that name in a report of JSON."""
    groups = json.loads(report.stdout)["findings"]
    return next(item for items in groups.values() for item in items if item["name"] == name)


def copy_of_package(folder: Path, *without: str) -> Path:
    shutil.copytree(ROOT / "cyclegan_fast", folder / "cyclegan_fast", ignore=shutil.ignore_patterns(*without))
    return folder


def program(folder: Path, name: str, script: str) -> str:
    """Puts a shell script into a folder of programs; returns a PATH that begins with it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def in_small_tmpfs(folder: str, size: str) -> tuple[str, ...]:
    """What stands before a command line that sees a small disk there; nothing where none can be mounted."""
    unshare = shutil.which(SMALL_SHM[0])
    mount = f"PATH=/usr/sbin:/usr/bin:/sbin:/bin mount -t tmpfs -o size={size} tmpfs {folder}"
    before = (unshare or "", *SMALL_SHM[1:], "/bin/sh", "-c")
    if unshare is None or subprocess.run([*before, mount], capture_output=True, check=False).returncode:
        return ()
    return (*before, f'{mount} && cd {"." if folder == "/dev/shm" else folder} && exec "$@"', "sh")


@pytest.fixture(scope="module")
def healthy() -> Done:
    return doctor("--json")


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Without compiler and optional packages, with a small /dev/shm and few open files."""
    folder = tmp_path_factory.mktemp("doubtful")
    hidden = "import sys\nfor name in ('onnxruntime', 'av', 'tifffile', 'openvino'):\n    sys.modules[name] = None\n"
    (folder / "sitecustomize.py").write_text(hidden)
    (folder / "bin").mkdir()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return doctor(
        "--json",
        packages=str(folder),
        before=in_small_tmpfs("/dev/shm", "64m"),
        limits=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard)),
        PATH=str(folder / "bin"),
        CYCLEGAN_FAST_NARROW_CONV="on",
        CYCLEGAN_FAST_CONVS="1",
    )


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Broken and old packages, a compiler and an nvcc that fail, an old driver, a disk that is nearly full."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "av.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    (folder / "tifffile.py").write_text("raise SystemExit('two\\nlines')")
    (folder / "imagecodecs.py").touch()
    (folder / "imagecodecs-2020.1.1.dist-info").mkdir()
    (folder / "imagecodecs-2020.1.1.dist-info/METADATA").write_text("Name: imagecodecs\nVersion: 2020.1.1\n")
    driver = 'extern "C" int cuDriverGetVersion(int* version) { *version = 11080; return 0; }'
    if shutil.which("g++"):
        command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(folder / "libcuda.so.1")]
        subprocess.run(command, input=driver, text=True, check=True)
    program(folder / "bin", "g++", "echo no headers here >&2; exit 1")
    program(folder / "bin", "nvidia-smi", "exit 0")
    (folder / "disk").mkdir()
    return doctor(
        "--json",
        packages=str(folder),
        before=in_small_tmpfs(str(folder / "disk"), "8m"),
        PATH=program(folder / "bin", "nvcc", "exit 1"),
        LD_LIBRARY_PATH=str(folder),
    )


# ---- What it reports where nothing is wrong.
def test_says_what_is_here(healthy: Done) -> None:
    result = doctor()
    assert (result.returncode, result.stderr) == (0, "")
    assert f"✓ torch        {torch.__version__}" in result.stdout
    assert ("✓ extension" if ops.extension_available() else "✗ extension") in result.stdout
    for line in ("open files", "disk", "CONV         winograd", "NARROW_CONV  off"):
        assert f"✓ {line}" in result.stdout
    report = json.loads(healthy.stdout)
    assert report["verdict"] in result.stdout
    fixes = [f"fix: {item['fix']}" for items in report["findings"].values() for item in items if item["fix"]]
    assert fixes and all(fix in result.stdout for fix in fixes)


def test_json_holds_the_same_findings_and_no_home_folder(healthy: Done, tmp_path: Path) -> None:
    report = json.loads(healthy.stdout)
    assert (healthy.returncode, healthy.stderr) == (0, "")
    assert set(report) == {"cyclegan_fast", "system", "verdict", "findings"}
    assert finding(healthy, "torch")["ok"] and finding(healthy, "torch")["message"].startswith(torch.__version__)
    assert finding(healthy, "extension")["ok"] == ops.extension_available()
    home = tmp_path / "Zoë"
    home.mkdir()
    program(home / "bin", "nvcc", "exit 1")
    poor = doctor("--json", flags=("-S",), HOME=str(home), CUDA_HOME=str(home))
    assert poor.returncode == 2 and json.loads(poor.stdout)["verdict"] == "Training cannot run here yet."
    assert finding(poor, "nvcc")["message"] == "~/bin/nvcc does not run"
    assert str(ROOT) not in doctor("--json", flags=("-S",), HOME=str(ROOT)).stdout


def test_help_shows_an_example() -> None:
    result = doctor("--help", flags=("-S",))
    assert result.returncode == 0 and "python -m cyclegan_fast.doctor --smoke" in result.stdout


# ---- Packages.
def test_runs_without_a_single_package_and_names_each() -> None:
    for words in ((), ("--smoke",)):
        result = doctor(*words, flags=("-S",))  # -S: no site-packages
        assert (result.returncode, result.stderr) == (2, "")
        for package in ("torch", "numpy", "pillow", "safetensors", "rich", "pyyaml"):
            assert f"✗ {package}" in result.stdout
        assert 'fix: pip install "torch>=2.11"' in result.stdout and "fix: pip install rich" in result.stdout
        assert "Training cannot run here yet." in result.stdout
    assert "✗ training     not run: what it needs is missing" in result.stdout


def test_a_package_that_does_not_load_is_a_fault_even_if_it_kills_the_process(faulty: Done) -> None:
    assert (faulty.returncode, faulty.stderr) == (2, "")
    assert "the process died of SIGSEGV on import" in finding(faulty, "av")["message"]
    assert finding(faulty, "av")["fix"] == "pip install --force-reinstall --no-deps av"
    assert "does not load (two lines)" in finding(faulty, "tifffile")["message"]
    old = finding(faulty, "imagecodecs")
    assert old["message"] == "2020.1.1, but 2024.9.22 or newer is needed" and "cyclegan-fast[deep]" in old["fix"]
    assert all(finding(faulty, name)["needed_for"] == "broken" for name in ("av", "tifffile", "imagecodecs"))
    assert json.loads(faulty.stdout)["verdict"].startswith("Training runs here, but not all of it")


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import os; os._exit(3)", "the process ended with status 3 on import"),
        ("raise OSError('no /caf\\udce9')", "no /caf?"),
    ],
)
def test_whatever_ends_an_import_is_a_fault(
    code: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_fault("broken_package") == fault
    assert import_fault("json") == ""


def test_what_is_optional_and_absent_is_no_fault(doubtful: Done) -> None:
    assert (doubtful.returncode, doubtful.stderr) == (0, "")
    for name, extra in (("onnxruntime", "onnx"), ("av", "video"), ("tifffile", "deep"), ("openvino", "openvino")):
        found = finding(doubtful, name)
        assert (found["ok"], found["needed_for"]) == (False, "option") and found["message"].startswith("absent: ")
        assert found["fix"] == f"pip install 'cyclegan-fast[{extra}]'"


@pytest.mark.parametrize(
    ("version", "ok", "needed_for"),
    [
        ("2.10.1", False, "training"),
        ("2.11.0+cu130", True, "option"),
        (TESTED_TORCH + "+cu132", True, "option"),
        ("99.0.0", False, "caution"),
    ],
)
def test_judges_the_version_of_torch(monkeypatch: pytest.MonkeyPatch, version: str, ok: bool, needed_for: str) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    found = next(item for item in doctor_command.examine()["To train and translate"] if item.name == "torch")
    assert (found.ok, found.needed_for) == (ok, needed_for)
    assert found.message.startswith(version)
    if needed_for == "caution":
        assert found.message.endswith(f"newer than {TESTED_TORCH}, the newest tested") and found.fix is None


def test_the_extras_that_it_names_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    for module, about in EXTRAS.items():
        package = {"tensorrt_rtx": "tensorrt-rtx-cu13", "ray": "ray[data]"}.get(module, module)
        assert [r for r in optional[about.extra] if r.split(";")[0] == f"{package}>={about.min_version}"]
    assert set(CORE.values()) | {"torch"} == {
        re.split("[>=<]", requirement)[0] for requirement in project["dependencies"]
    }


def test_a_package_that_is_not_imported_does_not_pass_for_one_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("raise OSError('no')")
    monkeypatch.syspath_prepend(str(tmp_path))
    about = Extra("ray", "much", "2.51")
    assert packages.extra("broken_package", "broken_package", about).message == "of unknown version does not load (no)"
    found = packages.extra("broken_package", "broken_package", about._replace(resolves_names=True))
    assert (found.ok, found.message) == (True, "of unknown version, not imported: much")


# ---- The extension, and what builds it.
def test_a_missing_extension_matters_only_to_the_strict(tmp_path: Path) -> None:
    copy_of_package(tmp_path, "*.so")
    result = doctor(source=tmp_path, flags=("-S",), packages=PACKAGES)
    assert (result.returncode, result.stderr) == (0, "")
    assert "✗ extension" in result.stdout and "fix: pip install -e ." in result.stdout
    assert result.stdout.rstrip().endswith("plain torch does the extension's work.")


@pytest.mark.parametrize(
    ("needed_for", "status", "strict_status"),
    [("training", 2, 2), ("broken", 2, 2), ("extension", 0, 2), ("option", 0, 0), ("caution", 0, 0)],
)
def test_exits_with_2_on_a_fault_alone(
    needed_for: NeededFor, status: int, strict_status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Finding("one", False, "wrong", needed_for=needed_for)
    monkeypatch.setattr(doctor_command, "examine", lambda smoke: {"Group": [found, Finding("other", True, "right")]})
    assert doctor_command.doctor() == status and doctor_command.doctor(strict=True) == strict_status


@needs_extension
@pytest.mark.parametrize("damage", ["cut off", "zeros"])
def test_a_damaged_extension_is_a_fault(damage: str, tmp_path: Path) -> None:
    (library,) = (copy_of_package(tmp_path) / "cyclegan_fast").glob(f"_C{sysconfig.get_config_var('EXT_SUFFIX')}")
    content = library.read_bytes()
    zeros = content[:4096] + bytes(len(content) - 4096)  # the headers alone: loading it kills a process
    library.write_bytes(zeros if damage == "zeros" else content[: len(content) // 2])
    result = doctor("--json", source=tmp_path, flags=("-S",), packages=PACKAGES)
    assert (result.returncode, result.stderr) == (2, "")
    found = finding(result, "extension")
    assert (found["ok"], found["needed_for"]) == (False, "broken")
    assert found["message"].startswith("cyclegan_fast._C does not load (")
    assert found["fix"] == "pip install --force-reinstall --no-deps cyclegan-fast"


def test_no_compiler_is_no_fault_and_one_that_fails_is(doubtful: Done, faulty: Done) -> None:
    absent, broken = finding(doubtful, "compiler"), finding(faulty, "compiler")
    assert absent["needed_for"] == "option" and absent["fix"] == "sudo apt-get install g++"
    assert broken["message"] == "g++ does not compile a program (no headers here)"
    assert broken["needed_for"] == "broken" and broken["fix"].startswith("sudo apt-get install --reinstall g++")


def test_the_compiler_is_that_of_cxx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert "no no-such-compiler: " in build.compiler().message
    monkeypatch.setenv("CXX", 'g++ "-O2')
    found = build.compiler()
    assert (found.ok, found.message, found.fix) == (
        False,
        'CXX=g++ "-O2 is no command (No closing quotation)',
        "unset CXX",
    )


def test_an_nvcc_that_does_not_run_is_a_fault(faulty: Done) -> None:
    found = finding(faulty, "nvcc")
    assert found["needed_for"] == "broken" and found["message"].endswith("bin/nvcc does not run") and found["fix"]


# ---- The GPU.
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
@pytest.mark.parametrize(
    ("torch_cuda", "visible", "message", "fix"),
    [
        (
            None,
            None,
            "there is an NVIDIA driver, but this torch is built for the CPU only",
            'pip install --force-reinstall "torch>=2.11"',
        ),
        ("13.0", "-1", "CUDA_VISIBLE_DEVICES=-1 leaves torch no device", "unset CUDA_VISIBLE_DEVICES"),
        ("13.0", None, "torch for CUDA 13.0 finds no device", "nvidia-smi"),
    ],
)
def test_a_driver_without_a_device_of_torch(
    torch_cuda: str | None,
    visible: str | None,
    message: str,
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setenv("PATH", program(tmp_path, "nvidia-smi", "exit 0"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (found,) = gpu({})
    assert (found.message, found.fix) == (message, fix)


@needs_extension
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler for a driver's library")
def test_a_driver_that_is_too_old_for_the_cuda_runtime(faulty: Done) -> None:
    if not ops.build_info()["cuda"]:
        pytest.skip("this extension was built without CUDA")
    found = finding(faulty, "driver")
    assert found["needed_for"] == "broken" and found["fix"] == "sudo apt-get install --only-upgrade cuda-drivers"
    assert found["message"].startswith("serves CUDA 11.8 at most, too old for ")
    assert found["message"].endswith(f"the extension for CUDA {ops.build_info()['cuda']}")


def test_a_driver_serves_all_minor_versions_of_its_cuda() -> None:
    assert driver_fault((13, 0), {"torch": "13.2", "the extension": "12.8"}) is None
    assert driver_fault((12, 4), {"torch": None}) is None and driver_fault(None, {"torch": "13.0"}) is None
    late = driver_fault((12, 4), {"torch": "12.8", "the extension": "13.0"})
    assert late is not None and late.message == "serves CUDA 12.4 at most, too old for the extension for CUDA 13.0"


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (["80"], (8, 0), True),
        (["80"], (8, 9), True),
        (["86"], (8, 0), False),
        (["80"], (9, 0), False),
        (["90a"], (9, 0), True),
        (["100a"], (10, 3), False),
        (["100"], (10, 3), True),
        (["120+PTX"], (12, 1), True),
        (["80", "120+PTX"], (13, 0), True),
        (["90+PTX"], (8, 9), False),
        ([], (8, 0), False),
    ],
)
def test_knows_which_gpus_the_kernels_run_on(archs: list[str], capability: tuple[int, int], runs: bool) -> None:
    assert covers(archs, capability) is runs


# ---- The machine, and the switches.
def test_little_shared_memory_is_a_doubt(doubtful: Done) -> None:
    if not in_small_tmpfs("/dev/shm", "64m"):
        pytest.skip("no small /dev/shm can be mounted here")
    found = finding(doubtful, "shared memory")
    assert (found["ok"], found["needed_for"]) == (False, "caution")
    assert found["message"].startswith("64 MiB free of 64 MiB in /dev/shm") and found["fix"].endswith("--shm-size 1g")


def test_a_full_disk_is_a_fault(faulty: Done, tmp_path: Path) -> None:
    if not in_small_tmpfs(str(tmp_path), "8m"):
        pytest.skip("no small disk can be mounted here")
    found = finding(faulty, "disk")
    assert found["needed_for"] == "broken" and found["message"].startswith("8 MiB free in this folder: a checkpoint")
    assert found["fix"] == "python -m cyclegan_fast.train --out FOLDER"


def test_few_open_files_are_a_doubt(doubtful: Done) -> None:
    found = finding(doubtful, "open files")
    assert found["needed_for"] == "caution" and found["message"].startswith("200 at a time")
    assert re.fullmatch(r"ulimit -n \d+", found["fix"])


def test_switches_are_shown(doubtful: Done) -> None:
    shown, unknown = finding(doubtful, "NARROW_CONV"), finding(doubtful, "CONVS")
    assert shown["ok"] and shown["message"].startswith("on (set): ")
    assert not unknown["ok"] and unknown["needed_for"] == "caution"
    assert unknown["message"] == "nothing reads CYCLEGAN_FAST_CONVS, did you mean 'CYCLEGAN_FAST_CONV'?"


def test_a_switch_of_a_value_that_there_is_not_is_a_fault() -> None:
    result = doctor("--json", CYCLEGAN_FAST_CONV="winogard")
    for name in ("CONV", "extension"):
        found = finding(result, name)
        assert (found["needed_for"], found["fix"]) == ("training", "unset CYCLEGAN_FAST_CONV")
    assert result.returncode == 2 and finding(result, "CONV")["message"].startswith("'winogard' is none of winograd,")


def test_the_switches_are_those_that_are_read() -> None:
    read = set()
    for folder in ("cyclegan_fast", "csrc"):
        for path in (path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".cpp", ".h")):
            read |= set(re.findall(r"(?:environ\.get|getenv)\(\"(CYCLEGAN_FAST_\w+)", path.read_text("utf-8")))
    assert read == set(SWITCHES)
    text = (ROOT / "setup.py").read_text("utf-8")
    assert all(re.search(rf"\b{name}\b", text) for name in BUILD_VARIABLES)


# ---- The smoke test.
@pytest.mark.slow
def test_trains_and_translates_in_every_backend_that_is_here() -> None:
    result = doctor("--smoke", "--json", OMP_NUM_THREADS="1")
    rows = {item["name"]: item for item in json.loads(result.stdout)["findings"]["Smoke test"]}
    assert list(rows) == list(smoke._FIXES)
    for name, row in rows.items():
        absent = row["message"].startswith("absent: ")
        assert row["ok"] or absent, f"{name}: {row['message']}"
        assert absent == (row["seconds"] is None) and (row["seconds"] or 1) > 0
    for name in ("training", "torch"):
        assert rows[name]["ok"]
    assert "3 steps" in rows["training"]["message"] and result.returncode == 0


@pytest.mark.slow
def test_a_backend_that_kills_the_process_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the rows after it run."""
    hook = "import os, signal, sys\nclass Finder:\n    def find_spec(self, name, *_):\n        if name == 'openvino':\n"
    hook += "            print('a word', flush=True); os.kill(os.getpid(), signal.SIGSEGV)\n"
    (tmp_path / "sitecustomize.py").write_text(f"{hook}sys.meta_path.insert(0, Finder())\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "folder").mkdir()
    rows = smoke.run_rows(["training", "OpenVINO", "torch"], str(tmp_path / "folder"))
    assert {name: row["ok"] for name, row in rows.items()} == {"training": True, "OpenVINO": False, "torch": True}
    assert rows["OpenVINO"]["message"] == "the process died of SIGSEGV"


def test_rows_that_never_end_and_a_training_that_fails(tmp_path: Path) -> None:
    late = smoke.run_rows(["training", "torch"], str(tmp_path / "a"), limit=0.2)
    assert late == {"training": {"ok": False, "message": "did not end within 0.2 seconds", "seconds": None}}
    (tmp_path / "b").touch()  # no folder
    failed = smoke.run_rows(["training", "torch"], str(tmp_path / "b"))
    assert list(failed) == ["training"] and not failed["training"]["ok"]
    assert "Not a directory" in failed["training"]["message"]
