"""The pages that say how to train: their commands run, and the messages that they quote exist."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.training import example_data
from tests.commands import run_in_process
from tests.data.sample_images import noise

ROOT = Path(__file__).resolve().parents[2]
TINY = "--generator resnet_1blocks --ngf 4 --ndf 4 --load-size 36 --crop-size 32 --workers 0 --device cpu"
ELSEWHERE = (".demo", ".evaluate", "shards/")  # tests/test_demo.py, tests/evaluation, tests/data/test_locations.py
ANY = "…"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader would have it: sets, a run under runs/demo, images."""
    desk = tmp_path_factory.mktemp("desk")
    for folder in ("horse2zebra/trainA", "horse2zebra/trainB", "horses/trainA", "horses/trainB", "photos"):
        (desk / folder).mkdir(parents=True)
        for i in range(4):
            noise(50 + i, 60, seed=i + len(folder)).save(desk / folder / f"{i}.jpg")
    render_dataset(desk / "scenes", 32, 4, 2, seed=0)
    noise(61, 83).save(desk / "horse.jpg")
    run(desk, "python -m cyclegan_fast.train --data horse2zebra --out runs/demo --max-steps 20")
    return desk


def run(folder: Path, command: str) -> None:
    """Runs a command line within this process; a training has tiny settings, and 2 steps for 20, 4 for 40 and more."""
    program, _, module, *words = shlex.split(command)
    assert program == "python"
    if module == "cyclegan_fast.train":
        words += shlex.split(TINY)
        words = [str(min(4, int(word) // 10)) if before == "--max-steps" else word for before, word in pairs(words)]
        words += [] if "--max-steps" in words else ["--max-steps", "2"]
    if module == "cyclegan_fast.dataset" and words[0] == "scenes":
        words += shlex.split("--size 32 --train 4 --test 2")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(example_data, "TRAIN_IMAGES", 4)
        patched.setattr(example_data, "TEST_IMAGES", 2)
        done = run_in_process(lambda: import_module(module).main(words))
    assert done.returncode == 0, f"{command}: {done.stderr}"


def pairs(words: list[str]) -> list[tuple[str, str]]:
    """Each word with the one before it."""
    return list(zip(["", *words], words, strict=False))


@pytest.mark.parametrize("page", ["index.md", "train.md", "results_are_bad.md", "example_data.md"])
def test_the_commands_of_a_page_run(desk: Path, page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    commands = [line.strip() for line in re.findall(r"^    (python -m cyclegan_fast\..*)$", text, re.MULTILINE)]
    assert commands
    for command in commands:
        if not any(word in command for word in (*ELSEWHERE, ".doctor")):
            run(desk, command)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(desk)
            exec(compile(block, page, "exec"), {})


def messages_of_the_package() -> list[str]:
    """Returns every text in the sources; what an f-string fills in is `ANY`."""
    found = []
    for path in (ROOT / "cyclegan_fast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else ANY for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_messages_that_the_faq_quotes_exist() -> None:
    quoted = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "faq.md").read_text("utf-8"), re.MULTILINE)
    assert len(quoted) > 20
    known = messages_of_the_package()
    for message in quoted:
        parts = [re.escape(part) for part in message.split(ANY)]
        pattern = re.compile(".*".join(parts))
        assert len(message.replace(ANY, "")) > 10 and any(map(pattern.search, known)), f"no message such as: {message}"
