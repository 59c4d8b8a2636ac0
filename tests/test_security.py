"""What docs/security.md promises: no network, no unpickling, no code out of files, and the limits of its table."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")

# Notes each call that would reach a network, also of a library's native code, and fails it.
WATCH = r"""
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
static bool watched(const char* name, const sockaddr* address) {
  if (!address || (address->sa_family != AF_INET && address->sa_family != AF_INET6)) return false;
  if (FILE* log = fopen(getenv("NETWORK_LOG"), "a")) { fprintf(log, "%s\n", name); fclose(log); }
  errno = ENETUNREACH;
  return true;
}
extern "C" {
int connect(int fd, const sockaddr* address, socklen_t size) {
  if (watched("connect", address)) return -1;
  return reinterpret_cast<int (*)(int, const sockaddr*, socklen_t)>(dlsym(RTLD_NEXT, "connect"))(fd, address, size);
}
ssize_t sendto(int fd, const void* data, size_t count, int flags, const sockaddr* address, socklen_t size) {
  if (watched("sendto", address)) return -1;
  return reinterpret_cast<ssize_t (*)(int, const void*, size_t, int, const sockaddr*, socklen_t)>(
      dlsym(RTLD_NEXT, "sendto"))(fd, data, count, flags, address, size);
}
int getaddrinfo(const char* name, const char*, const addrinfo*, addrinfo**) {
  if (FILE* log = fopen(getenv("NETWORK_LOG"), "a")) { fprintf(log, "getaddrinfo %s\n", name); fclose(log); }
  return EAI_FAIL;
}
}
"""

# Trains, exports, translates, examines, in one process; prints which audit events of a network came, and of unpickling
# while files were loaded.
COMMANDS = r"""
import importlib, json, sys
from pathlib import Path

events, loading = [], False
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request", "http.")

def hook(name, arguments):
    local = name == "socket.connect" and not isinstance(arguments[1], tuple)  # a path, to one of our own processes
    if (name.startswith(NETWORK) and not local) or (loading and name in ("pickle.find_class", "os.system")):
        events.append((name, str(arguments)[:200]))

def run(command, *words):
    try:
        importlib.import_module(f"cyclegan_fast.{command}").main([str(word) for word in words])
    except SystemExit as ended:
        assert ended.code == 0, (command, ended.code)

if __name__ == "__main__":
    import torch
    from cyclegan_fast.checkpoint.native import load_state
    from cyclegan_fast.data.scenes import render_dataset
    from cyclegan_fast.engine import load_engine

    sys.addaudithook(hook)
    work = Path(sys.argv[1])
    render_dataset(work / "data", 32, 4, 2, seed=0)
    small = "--generator resnet_1blocks --ngf 4 --ndf 4 --load-size 36 --crop-size 32 --device cpu --loader torch"
    run("train", *small.split(), "--workers", 1, "--max-steps", 3, "--data", work / "data", "--out", work / "run")
    files = [work / name for name in ("g.onnx", "g.safetensors", "latest_net_G_A.pth")]
    for path in files:
        run("export", "--checkpoint", work / "run", "--direction", "AtoB", "--out", path)
    run("translate", "--engine", files[0], "--input", work / "data" / "testA", "--output", work / "translated")
    run("report", work / "run")
    run("evaluate", "--run", work / "run", "--data", work / "data", "--out", work / "scores.json")
    run("dataset", "check", work / "data")
    run("doctor")
    loading = True
    for path in (work / "run", *files):
        load_engine(path).close()
    load_engine(files[0], backend="openvino").close()
    load_state(work / "run")
    loading = False
    print("events:" + json.dumps(events))
"""


def build_watch(folder: Path) -> dict[str, str]:
    """Compiles the watch; returns the environment of a process that is watched."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("the watch is compiled on Linux")
    library = folder / "watch.so"
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(library), "-ldl"]
    subprocess.run(command, input=WATCH, text=True, check=True)
    watched = {"LD_PRELOAD": str(library), "NETWORK_LOG": str(folder / "network.log"), "OMP_NUM_THREADS": "1"}
    return os.environ | watched | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def test_the_watch_sees_what_would_reach_a_network(tmp_path: Path) -> None:
    watched = build_watch(tmp_path)
    code = """
import socket
for reach in (lambda: socket.create_connection(("192.0.2.1", 9), 1), lambda: socket.getaddrinfo("example.org", 80)):
    try:
        reach()
    except OSError:
        pass
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(("192.0.2.1", 9))
"""
    subprocess.run([sys.executable, "-c", code], env=watched, check=True)
    seen = (tmp_path / "network.log").read_text()
    assert "getaddrinfo example.org\n" in seen and "connect\n" in seen


@pytest.mark.slow
def test_no_command_reaches_a_network_and_no_file_is_unpickled(tmp_path: Path) -> None:
    (tmp_path / "commands.py").write_text(COMMANDS)
    command = [sys.executable, str(tmp_path / "commands.py"), str(tmp_path / "work")]
    done = subprocess.run(command, env=build_watch(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "events:[]"
    assert not (tmp_path / "network.log").exists()


def test_libraries_are_imported_without_what_reports_it(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    code = """
import sys
from cyclegan_fast.engine.backends.onnxruntime import _onnxruntime
from cyclegan_fast.engine.backends.openvino import _openvino
from cyclegan_fast.diagnosis.findings import import_fault
assert import_fault("openvino") == "" and "openvino" not in sys.modules
assert _onnxruntime().get_available_providers()
assert _openvino().convert_model and "openvino_telemetry" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], env=build_watch(tmp_path) | {"HOME": str(tmp_path)}, check=True)
    assert not (tmp_path / "network.log").exists() and not (tmp_path / "intel").exists()


# ---- The sources.
REPORTING = {"onnxruntime", "openvino", "ray"}  # which send something where they are imported as they are
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "torch.hub.load"),
    *("urllib.request.urlopen", "urllib.request.urlretrieve", "socket.create_connection", "socket.socket"),
}
NAMED_BY_THE_USER = {
    ("ray_cluster", "socket.create_connection"),  # the address behind --ray
    *(("roll_call", f"socket.{name}") for name in ("socket", "create_connection")),  # the processes of one training
}
NETWORK_MODULES = {"requests", "urllib.request", "urllib3", "http.client", "ftplib", "smtplib", "aiohttp", "httpx"}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


@pytest.mark.parametrize("path", sorted((ROOT / "cyclegan_fast").rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_unpickles_runs_or_fetches(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    for name, call in calls(tree):
        nothing = name == "exec" and [ast.unparse(argument) for argument in call.args] == ["''"]
        asked_for = (path.stem, name) in NAMED_BY_THE_USER
        assert nothing or asked_for or name not in FORBIDDEN, f"{path}:{call.lineno} calls {name}"
        if name == "torch.load":
            assert keywords(call).get("weights_only") == "True", f"{path}:{call.lineno} unpickles"
        if name in ("np.load", "numpy.load"):
            assert keywords(call).get("allow_pickle", "False") == "False", f"{path}:{call.lineno} unpickles"
        assert keywords(call).get("shell", "False") == "False", f"{path}:{call.lineno} runs a shell"
    quiet = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and "telemetry_disabled" in ast.unparse(node.items[0])
    ]
    quiet_lines = {line for block in quiet for line in range(block.lineno, (block.end_lineno or 0) + 1)}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if REPORTING & {name.partition(".")[0] for name in names} and isinstance(node, ast.Import | ast.ImportFrom):
            assert node.lineno in quiet_lines, f"{path}:{node.lineno} imports {names} outside of telemetry_disabled()"
        assert not NETWORK_MODULES & set(names), f"{path}:{getattr(node, 'lineno', 0)} imports {names}"


# ---- The table of limits.
ROWS = re.findall(r"^\|[^|]*\| [^|]+ \| ([\d,]+) \| `([\w.]+)`(, twice)? \|$", PAGE, re.MULTILINE)


def test_the_limits_of_the_table_are_those_of_the_code() -> None:
    assert len(ROWS) > 20 and PAGE.count("` |\n") + PAGE.count("twice |\n") == len(ROWS)
    for number, constant, twice in ROWS:
        module, _, name = constant.rpartition(".")
        owner = Image if module == "PIL.Image" else importlib.import_module(f"cyclegan_fast.{module}")
        value = getattr(owner, name) * (2 if twice else 1)
        assert number == f"{value:,}", f"{constant} is {value:,}"


def test_every_reader_of_documents_has_its_limit_in_the_table() -> None:
    """Whoever reads with another limit than the usual one names it, and the table has it."""
    listed = {constant for _, constant, _ in ROWS}
    for path in (ROOT / "cyclegan_fast").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "cyclegan_fast").with_suffix("").parts)
        for name, call in calls(ast.parse(path.read_text("utf-8"))):
            if name in ("read_limited", "read_json", "parse_json") and len(call.args) > 1 and module != "documents":
                limit = ast.unparse(call.args[1])
                known = f"{module}.{limit}" in listed or f"documents.{limit}" in listed
                assert known or limit == "size", f"{path}:{call.lineno} reads up to {limit}, which is in no row"


def test_the_short_page_points_to_the_long_one() -> None:
    short = (ROOT / "SECURITY.md").read_text("utf-8")
    assert "(docs/security.md)" in short and len(short.splitlines()) < 25
    for suffix in (".pt2", ".engine", ".onnx"):
        assert f"`{suffix}`" in short and f"`{suffix}`" in PAGE
    assert json.dumps("Report a vulnerability") in short and "Report a vulnerability" in PAGE
