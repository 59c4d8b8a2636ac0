"""The pages of the site: their commands run as they stand, and the messages that they quote exist."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import tarfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.training import example_data
from tests.commands import run_in_process
from tests.data.sample_images import noise

ROOT = Path(__file__).resolve().parents[2]
TINY = "--generator resnet_1blocks --ngf 4 --ndf 4 --load-size 36 --crop-size 32 --workers 0 --device cpu"
ELSEWHERE = (".demo", ".evaluate", ".doctor")  # tests/test_demo.py, tests/evaluation, tests/diagnosis
PAGES = (
    *("index.md", "train.md", "results_are_bad.md", "example_data.md", "data.md", "monitoring.md"),
    *("from_the_reference.md", "recipes.md", "gallery.md", "models.md"),
)
ANY = "…"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader would have it: image sets, a run under runs/demo, the reference's weights."""
    sets = tmp_path_factory.mktemp("sets")
    for name in ("horse2zebra", "horses", "maps", "datasets/horse2zebra", "summer2winter_yosemite"):
        for domain in ("trainA", "trainB", "testA"):
            write_images(sets / name / domain, ".jpg")
    shutil.make_archive(str(sets / "horse2zebra"), "zip", sets, "horse2zebra")
    shutil.copytree(ROOT / "configs", sets / "configs")
    write_images(sets / "ct_mr" / "trainA", ".tif")
    write_images(sets / "ct_mr" / "trainB", ".tif")
    write_images(sets / "facades" / "train", ".png", width=120)
    for name in ("photos", "photos/summer", "winter", "lists"):
        write_images(sets / name, ".jpg")
    for path in (sets / "more_winter.txt", sets / "lists" / "more_summer.txt"):
        path.write_text(f"{sets / 'lists' / '0.jpg'}\n")
    for name in ("a", "b"):
        write_images(sets / "tests" / name, ".jpg")
        (sets / "tests" / f"{name}.txt").write_text("".join(f"{name}/{i}.jpg\n" for i in range(4)))
    for season in ("summer", "winter"):
        write_shards(sets / "shards", season, sets / "photos" / "0.jpg")
    noise(61, 83).save(sets / "horse.jpg")
    run(sets, "python -m cyclegan_fast.train --data horse2zebra --out runs/demo --max-steps 20")
    weights = sets / "checkpoints" / "maps_cyclegan"
    weights.mkdir(parents=True)
    for network, direction in (("G_A", "AtoB"), ("G_B", "BtoA")):
        out = weights / f"latest_net_{network}.pth"
        run(sets, f"python -m cyclegan_fast.export --checkpoint runs/demo --direction {direction} --out {out}")
    return sets


def write_images(folder: Path, suffix: str, width: int = 60) -> None:
    """Writes four images: photos, or the floating-point values of a scan."""
    folder.mkdir(parents=True)
    for i in range(4):
        image = noise(width, 50 + i, seed=i + len(str(folder)))
        if suffix == ".tif":
            image = Image.fromarray(np.asarray(image.convert("L"), np.float32) * 5 - 1000)
        image.save(folder / f"{i}{suffix}")


def write_shards(folder: Path, name: str, image: Path) -> None:
    """Writes 32 tar shards of one image each."""
    folder.mkdir(exist_ok=True)
    for i in range(32):
        with tarfile.open(folder / f"{name}-{i:03d}.tar", "w") as shard:
            shard.add(image, f"{name}{i}.jpg")


@pytest.fixture
def desk(sets: Path, tmp_path: Path) -> Path:
    """A copy for one page."""
    return Path(shutil.copytree(sets, tmp_path / "desk"))


def run(folder: Path, command: str) -> None:
    """Runs a command line within this process; a training has tiny settings, and 2 steps for 20, 4 for 40 and more."""
    program, _, module, *words = shlex.split(command)
    assert program == "python"
    if module == "cyclegan_fast.train":
        words += shlex.split(TINY)
        words = [str(min(4, int(word) // 10)) if before == "--max-steps" else word for before, word in pairs(words)]
        words += [] if "--max-steps" in words else ["--max-steps", "2"]
    if module == "cyclegan_fast.dataset" and words[0] == "scenes":
        words += shlex.split("--size 32 --train 4 --test 8")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(example_data, "TRAIN_IMAGES", 4)
        patched.setattr(example_data, "TEST_IMAGES", 2)
        if words[-1].endswith("/*"):  # as a shell does
            words[-1:] = [str(path.relative_to(folder)) for path in sorted(folder.glob(words[-1]))]
        done = run_in_process(lambda: import_module(module).main(words))
    assert done.returncode == 0, f"{command}: {done.stderr}"


def pairs(words: list[str]) -> list[tuple[str, str]]:
    """Each word with the one before it."""
    return list(zip(["", *words], words, strict=False))


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(desk: Path, page: str) -> None:
    if page == "monitoring.md":
        shutil.copytree(desk / "runs" / "demo", desk / "runs" / "horse2zebra")
    text = (ROOT / "docs" / page).read_text("utf-8")
    commands = [line.strip() for line in re.findall(r"^    (python -m cyclegan_fast\..*)$", text, re.MULTILINE)]
    assert commands
    for command in commands:
        if not any(word in command for word in ELSEWHERE):
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
