"""python -m cyclegan_fast.dataset as users run it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cyclegan_fast import dataset
from cyclegan_fast.cli import run_command
from tests.data.sample_images import noise

Check = Callable[..., tuple[int, list[str], str]]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cyclegan_fast.dataset", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """``dataset check`` without a process of its own: its status, its lines and what goes to stderr."""
    return lambda *words: in_process(capsys, "check", *words)


def in_process(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, list[str], str]:
    with pytest.raises(SystemExit) as status:
        run_command({"scenes": dataset.scenes, "check": dataset.check}, [*map(str, words)])
    stderr = capsys.readouterr()
    return int(status.value.code or 0), stderr.out.splitlines(), stderr.err


def test_scenes_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scenes"
    words = ("scenes", "--out", out, "--size", "32", "--train", "4", "--test", "2", "--seed", "0")
    status, lines, stderr = in_process(capsys, *words)
    assert status == 0 and stderr == "" and lines[-1].startswith(f"{out}: 4 + 4 training and 2 + 2 test images")
    done = run("check", out)  # in a process of its own, as users run it
    assert done.returncode == 0, done.stderr
    assert "trainA: 4 images\n  pixels   all 32x32\n  formats  JPEG 4\n" in done.stdout


CROP = ("--preprocess", "crop", "--crop-size", "64", "--load-size", "64")


def test_check_reports_everything_and_quarantines_the_errors(check: Check, flawed_copy: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheets" / "sheet.png"
    status, lines, stderr = check(flawed_copy, *CROP, "--contact-sheet", sheet)
    assert status == 2 and stderr == ""
    for line in (
        "trainA: 21 images, 4 of them cannot be used",
        "error: cannot be read (4)",
        "  trainA/empty.jpg: the file is empty",
        "error: ends too early (1)",
        "  trainB/tiny.png: 30x20 pixels, but the shorter side must be at least 64",
        "  testA/leak.jpg: the same file as trainA/6.jpg",
        "46 images, 6 errors and 8 warnings",
        "--quarantine makes training leave out the files with errors",
    ):
        assert line in lines, line
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width == 1480 and len(image.getcolors(1 << 24) or ()) > 1000

    assert check(flawed_copy, *CROP, "--quarantine")[0] == 0
    status, lines, _ = check(flawed_copy, *CROP)
    assert status == 0 and {"6 files left out: quarantine.txt", "40 images, 8 warnings"} <= set(lines)
    assert check(flawed_copy, *CROP, "--strict")[0] == 2


def test_check_as_json(check: Check, flawed_copy: Path) -> None:
    status, lines, stderr = check(flawed_copy, "--json")
    report = json.loads("\n".join(lines))
    assert status == 2 and stderr == "" and report["files_read"] == 46
    assert report["domains"]["trainB"]["smallest"] == [30, 20] and report["domains"]["trainB"]["formats"]["GIF"] == 1
    (near,) = [finding for finding in report["findings"] if finding["kind"] == "near-identical"]
    assert near["severity"] == "warning" and (near["name"], near["like"]) == ("trainA/7.jpg", "trainB/near.webp")


def test_check_of_folders_that_cannot_be_used(check: Check, good_folder: Path) -> None:
    shutil.rmtree(good_folder / "trainB")
    (good_folder / "testA").mkdir()
    status, lines, stderr = check(good_folder)
    assert status == 2 and stderr == ""
    assert "  trainB: the folder trainB is missing; put the images of that domain there" in lines
    assert any(line.startswith(f"  testA: {good_folder / 'testA'}: holds no image") for line in lines)
    assert "testB: absent" in lines
    (good_folder / "trainB").symlink_to(good_folder / "trainA")
    status, lines, _ = check(good_folder)
    assert status == 2 and any("trainA and trainB are the same folder" in line for line in lines)


def test_check_of_a_domain_suggests_the_data_folder(check: Check, good_folder: Path) -> None:
    status, lines, stderr = check(good_folder / "trainA")
    assert status == 2 and stderr == "" and lines[0] == f"{good_folder / 'trainA'}: no image to read"
    for name in ("trainA", "trainB"):
        assert (
            f"  {name}: the folder {name} is missing; name {good_folder} instead, which holds trainA and trainB"
            in lines
        )
    assert not any("manifest" in line for line in lines)


def test_images_that_are_enlarged_name_the_setting(check: Check, good_folder: Path) -> None:
    for path in good_folder.glob("train?/*"):
        noise(100, 100, seed=len(path.name)).save(path)
    _, lines, _ = check(good_folder)
    at = lines.index("info: enlarged to twice its size or more (12)")
    assert lines[at + 1] == (
        "  12 of 12 images: for --load-size 286; dataset plan proposes settings that suit these images"
    )
    assert not any("enlarged 2.9 times" in line for line in lines)
    noise(300, 300).save(good_folder / "trainA" / "large.png")
    noise(300, 300, seed=1).save(good_folder / "trainB" / "large.png")
    _, lines, _ = check(good_folder, "--preprocess", "scale_width_and_crop")
    assert "info: enlarged to twice its size or more (12)" in lines
    assert any(
        line.endswith("100x100 pixels, enlarged 2.9 times for --load-size 286 --crop-size 256") for line in lines
    )


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_read_only_folder_is_checked_all_the_same(check: Check, good_folder: Path) -> None:
    check(good_folder)  # imports everything, which nobody may not
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "data"
        for name in ("trainA", "trainB"):
            (folder / name).mkdir(parents=True)
            noise(40, 40, seed=ord(name[-1])).save(folder / name / "0.png")
        Path(parent).chmod(0o755)
        folder.chmod(0o555)
        is_root = os.geteuid() == 0
        if is_root:  # root writes whatever the mode says
            os.seteuid(65534)
        try:
            status, lines, stderr = check(folder)
            named = check(folder, "--contact-sheet", folder / "sheet.png")
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)
    assert status == 0 and stderr == "" and "2 images, nothing wrong" in lines
    assert any("the metadata is not stored, and the next check reads every image again" in line for line in lines)
    assert any("name another location with --contact-sheet FILE.png" in line for line in lines)
    assert named[0] == 2 and named[2].startswith(f"error: cannot write {folder / 'sheet.png'}")


def test_mistakes_are_one_sentence(check: Check, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, lines, stderr = check(tmp_path / "nowhere")
    assert status == 2 and not lines and "there is no such data folder" in stderr
    status, _, stderr = check(tmp_path, "--crop-size", "300")
    assert status == 2 and stderr.startswith("error: --crop-size 300 is larger than --load-size 286")
    (tmp_path / "trainA").mkdir()
    status, _, stderr = check(tmp_path, "--contact-sheet", tmp_path / "trainA" / "sheet.png")
    assert status == 2 and stderr.startswith(f"error: --contact-sheet {tmp_path / 'trainA' / 'sheet.png'} lies among")
    file = tmp_path / "file"
    file.touch()
    for words, reason in (
        ((tmp_path, "--size", "8"), "--size must be from 32 to 1024"),
        ((file, "--train", "1", "--test", "0"), f"cannot write the data set {file}: "),
    ):
        status, lines, stderr = in_process(capsys, "scenes", "--out", *words)
        assert status == 2 and not lines
        assert stderr.startswith(f"error: {reason}") and stderr.count("\n") == 1
