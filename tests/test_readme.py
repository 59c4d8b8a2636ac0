"""The examples of the README and of the pages about engines, run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "docs" / name for name in ("engines.md", "large_images.md", "translate.md")]


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
    run(desk, f"python -m cyclegan_fast.train --data horse2zebra --out runs/demo --device cpu {small}")
    return desk


def run(folder: Path, command: str) -> None:
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
    run(desk, "python example.py")
    with Image.open(desk / "zebra.png") as zebra, Image.open(desk / "horse.jpg") as horse:
        assert zebra.size == horse.size


def test_commands(desk: Path) -> None:
    commands = re.findall(r"^    (python -m cyclegan_fast\.\S+ --.*)$", README, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        if ".train" in command:  # a GPU's flags and a real data set: the settings alone are resolved here
            command += " --print-config"
        run(desk, command)
    assert len(list((desk / "translated").glob("*.jpg"))) == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_pages_examples(desk: Path, page: Path) -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    commands = re.findall(r"^    (python -m cyclegan_fast\.\S+ --.*)$", page.read_text(), re.MULTILINE)
    for command in commands:
        if ".evaluate" not in command:  # which needs rendered scenes: tests/evaluation runs it
            run(desk, command.replace("--output ", f"--output {page.stem}_"))
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        (desk / f"{page.stem}.py").write_text(block)
        run(desk, f"python {page.stem}.py")


@pytest.mark.parametrize("name", ["train", "translate", "export", "card", "evaluate", "dataset", "doctor", "demo"])
def test_every_command_has_a_help_page_with_an_example(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"cyclegan_fast.{name}", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m cyclegan_fast.{name}" in done.stdout
    assert "xample" in done.stdout


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
