"""The examples of the README and of the pages about engines, run as they stand.

The first command and the first script run in processes of their own, as a reader's do; the others in this one, which
has imported torch already.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import demo_scores
from cyclegan_fast.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ALIASES = {"card": "model_card"}  # the former name of a command
DEMO = demo_scores.STORED
PAGES = [ROOT / "docs" / name for name in ("engines.md", "large_images.md", "translate.md", "deploy.md")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader of the README would have it: data, a short run under runs/demo, an image."""
    desk, rng = tmp_path_factory.mktemp("desk"), np.random.default_rng(0)
    for folder in ("horse2zebra/trainA", "horse2zebra/trainB", "photos"):
        (desk / folder).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(desk / folder / f"{i}.jpg")
    for name in ("horse.jpg", "slide.tif"):
        Image.fromarray(rng.integers(0, 256, (61, 83, 3), dtype=np.uint8)).save(desk / name)
    small = "--generator resnet_1blocks --ngf 4 --ndf 4 --load-size 36 --crop-size 32 --max-steps 2 --workers 0"
    run_as_a_process(desk, f"python -m cyclegan_fast.train --data horse2zebra --out runs/demo --device cpu {small}")
    return desk


def run(folder: Path, command: str) -> None:
    """Runs a command line as the program `python` would, within this process and in `folder`."""
    program, *words = shlex.split(command)
    assert program == "python"
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(sys, "argv", words[1:] if words[0] == "-m" else words)
        patched.setattr(warnings, "showwarning", warnings.showwarning)  # which a command sets for its process
        try:
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            assert end.code == 0, command


def run_as_a_process(folder: Path, command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "python"
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_python_examples(desk: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (desk / "example.py").write_text(block + "\nassert zebras.shape == horses.shape and zebras.dtype == horses.dtype\n")
    run_as_a_process(desk, "python example.py")
    with Image.open(desk / "zebra.png") as zebra, Image.open(desk / "horse.jpg") as horse:
        assert zebra.size == horse.size


def test_commands(desk: Path) -> None:
    commands = re.findall(r"^    (python -m cyclegan_fast\.\S+ --.*)$", README, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        if ".train" in command:  # a GPU's flags and a real data set: the settings alone are resolved here
            command += " --print-config"
        run(desk, command)
    assert len(list((desk / "translated").glob("*.jpg"))) == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_pages_examples(desk: Path, page: Path) -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    commands = re.findall(r"^    (python -m cyclegan_fast\.\S+ --.*)$", page.read_text("utf-8"), re.MULTILINE)
    for command in commands:
        if "--tensorrt rtx" in command and find_spec("tensorrt_rtx") is None:  # Linux alone has it
            continue
        if ".evaluate" not in command:  # which needs rendered scenes: tests/evaluation runs it
            run(desk, command.replace("--output ", f"--output {page.stem}_"))
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        (desk / f"{page.stem}.py").write_text(block)
        start = run_as_a_process if "multiprocessing" in block else run
        start(desk, f"python {page.stem}.py")


@pytest.mark.parametrize("name", [*sorted(COMMANDS), "card"])
def test_every_command_has_a_help_page_with_an_example(name: str) -> None:
    command = [sys.executable, "-m", f"cyclegan_fast.{name}", "--help"]
    environment = os.environ | {"COLUMNS": "120"}  # a narrow page breaks the lines that are looked for
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"python -m cyclegan_fast.{ALIASES.get(name, name)}" in done.stdout
    assert "xample" in done.stdout


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_files_that_a_readme_names_are_there(folder: str) -> None:
    names = re.findall(r"`([\w/]+(?:\.py|\.cpp|/))`", (ROOT / folder / "README.md").read_text("utf-8"))
    assert len(names) > 5
    for name in names:
        assert (ROOT / folder / name).exists(), f"{folder}/README.md names {name}"


def test_links_lead_somewhere() -> None:
    hooks = (ROOT / "docs" / "hooks.py").read_text("utf-8")
    generated = {ROOT / "docs" / name for name in re.findall(r'File\.generated\(config, "([\w.]+)"', hooks)}
    assert generated
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists() or page.parent / target in generated, (
                f"{page.name} links to {target}"
            )


def test_the_scores_of_a_demo_are_stored_as_it_left_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_scores, "STORED", tmp_path / "stored.json")
    monkeypatch.setattr("sys.argv", ["demo_scores", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"scores\.json does not exist"):
        demo_scores.main()
    (found,) = json.loads(DEMO.read_text("utf-8"))["results"]
    (tmp_path / "scores.json").write_text(json.dumps(found))
    demo_scores.main()
    stored = json.loads((tmp_path / "stored.json").read_text())
    assert stored["results"] == [found] and stored["commit"] and stored["date"]


def test_the_scores_of_the_demo_are_the_stored_ones() -> None:
    (found,) = json.loads(DEMO.read_text("utf-8"))["results"]
    figures = [
        found["step"],
        *(
            of[direction]["pixel_accuracy"]
            for direction in found["untranslated"]
            for of in (found, found["untranslated"])
        ),
        found["ceiling"]["pixel_accuracy"],
        found["images"],
    ]
    (text,) = re.findall(r"The [\d,]+ steps of `make demo` .*? scenes", README, re.DOTALL)
    shown = [float(number.replace(",", "")) for number in re.findall(r"\d[\d.,]*", text)]
    assert shown == [round(figure, 2) for figure in figures]
