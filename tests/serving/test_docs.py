"""The examples of docs/serving.md, against a running server; and its tables against the code."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from cyclegan_fast.cli.flags import flags_of_function
from cyclegan_fast.cli.parse import Grammar
from cyclegan_fast.export import export
from cyclegan_fast.serve import serve
from cyclegan_fast.serving.limits import Limits
from cyclegan_fast.serving.models import open_engines, read_source
from tests.serving.running import pixels_of, png, running

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text("utf-8")


def test_the_examples_run(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tritonclient.http")
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "horse.jpg").write_bytes(png(pixels_of()))
    tiny = functools.partial(open_engines, read_source(str(run_folder)), device="cpu")
    with running({"tiny": tiny}) as server:
        here = server.url.removeprefix("http://")
        (commands,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
        for command in commands.replace("127.0.0.1:8000", here).splitlines():
            subprocess.run([*shlex.split(command), "--silent", "--fail"], check=True)
        (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        exec(compile(block.replace("127.0.0.1:8000", here), "serving.md", "exec"), {})
        metrics = server.get("/metrics").body.decode()
    assert (tmp_path / "zebra.jpg").read_bytes() and (tmp_path / "zebra.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "faithfulness.json").read_text())["scores"]["hidden"] > 0
    for name in re.findall(r"`(cyclegan_\w+)`", PAGE):
        assert f"\n{name}" in metrics, name


def test_the_command_lines_are_read() -> None:
    found = 0
    for function in (serve, export):
        grammar = Grammar(prog="", flags=flags_of_function(function), repeated=("engine",))
        for line in re.findall(rf"^    python -m cyclegan_fast\.{function.__name__} (.*)$", PAGE, re.MULTILINE):
            grammar.parse(shlex.split(line))
            found += 1
    assert found == 3


def test_the_defaults_of_the_page_are_those_of_the_command() -> None:
    flags = {flag.spelling: flag.default for flag in flags_of_function(serve)}
    named = re.findall(r"`(--[\w-]+)` \((\d+)(?: s)?\)", PAGE)
    assert len(named) >= 9
    for flag, value in named:
        assert float(value) == flags[flag], flag


def test_the_limits_of_the_command_are_those_of_the_server() -> None:
    from cyclegan_fast import serve as command

    defaults = {flag.name: flag.default for flag in flags_of_function(serve)}
    names = list(command._limits.__code__.co_varnames[: command._limits.__code__.co_argcount])
    limits = command._limits(**{name: defaults[name] for name in names})
    assert limits == Limits() and len(names) == len(fields(Limits))
