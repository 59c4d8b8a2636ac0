"""The check of everything that training takes beside a folder with trainA and trainB: locations, pairs, depths."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast import dataset
from cyclegan_fast.cli import run_command
from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.audit.report import AuditReport, audit
from cyclegan_fast.data.catalog.manifest import Manifest
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import as_image_file
from tests.data.sample_images import noise, photo

GEOMETRY = {"preprocess": "crop", "crop_size": 32, "load_size": 32}


def check(**data: object) -> AuditReport:
    return audit(DataConfig(**(GEOMETRY | data)))  # type: ignore[arg-type]


def findings_of(result: AuditReport, root: Path) -> set[tuple[str, str]]:
    return {(finding.kind, finding.name.removeprefix(f"{root}/")) for finding in result.findings}


def fill(folder: Path, numbers: range, side: int = 40) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        photo(side, side, seed=i).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def locations(tmp_path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A: a folder, and a shard with a bad member; B: a list that names two files."""
    fill(tmp_path / "a", range(3))
    members = {"good.png": (tmp_path / "a" / "0.png").read_bytes(), "text.png": b"text"}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    fill(tmp_path / "b", range(5, 8))
    (tmp_path / "b.txt").write_text("b/5.png\nb/6.png\n")
    return (str(tmp_path / "a"), str(tmp_path / "a.tar")), (str(tmp_path / "b.txt"),)


def test_locations_are_checked_and_their_lists_honoured_by_training(
    locations: tuple[tuple[str, ...], tuple[str, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_A, data_B = locations
    result = check(data_A=data_A, data_B=data_B)
    assert findings_of(result, tmp_path) == {("corrupt", "a.tar:text.png"), ("duplicate", "a.tar:good.png")}
    assert {name: len(found) for name, found in result.domains.items()} == {"trainA": 5, "trainB": 2}
    words = ["check", "--data-A", *data_A, "--data-B", *data_B, "--preprocess", "crop", "--crop-size", "32"]
    for quarantine, status in ((False, 2), (True, 0), (False, 0)):
        with pytest.raises(SystemExit) as end:
            run_command({"check": dataset.check}, [*words, *["--quarantine"] * quarantine])
        assert end.value.code == status, capsys.readouterr().out
    output = capsys.readouterr().out
    assert f"contact sheet: {tmp_path / 'a' / '.cyclegan_fast' / 'contact_sheet.png'}" in output
    assert f"training leaves out the files with errors from now on: {tmp_path / 'a' / 'quarantine.txt'}" in output
    assert "1 file left out: quarantine.txt" in output
    config = DataConfig(data_A=data_A, data_B=data_B, workers=0, **GEOMETRY)  # type: ignore[arg-type]
    assert build_train_loader(TrainConfig(data=config), "cpu").samples.counts == (4, 2)


def test_what_is_known_of_locations_is_not_read_again(locations: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    first = check(data_A=locations[0], data_B=locations[1])
    again = check(data_A=locations[0], data_B=locations[1])
    assert (first.files_read, again.files_read) == (7, 1)  # a bad one is read each time


def test_locations_that_cannot_be_used_leave_the_others(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(2))
    result = check(data_A=(str(tmp_path / "a"),), data_B=(str(tmp_path / "none.tar"),))
    assert [(f.kind, f.name) for f in result.findings] == [("folder", "trainB")] and list(result.domains) == ["trainA"]
    with pytest.raises(UserError, match="go together"):
        check(data_A=("a",))
    with pytest.raises(UserError, match="give one or the other"):
        check(data=tmp_path, data_A=("a",), data_B=("b",))


def test_pairs_side_by_side(tmp_path: Path) -> None:
    for split, numbers in (("train", range(3)), ("test", range(3, 5))):
        (tmp_path / split).mkdir()
        for i in numbers:
            both = Image.new("RGB", (80, 40))
            both.paste(photo(40, 40, seed=i), (0, 0))
            both.paste(photo(40, 40, seed=i).convert("L").convert("RGB"), (40, 0))
            both.save(tmp_path / split / f"{i}.png")
    noise(62, 40).save(tmp_path / "train" / "narrow.png")  # 31 pixels for each half
    (tmp_path / "test" / "0.png").write_bytes((tmp_path / "train" / "0.png").read_bytes())
    result = check(data=tmp_path, paired=True)
    assert findings_of(result, tmp_path) == {("too small", "train/narrow.png"), ("train and test", "test/0.png")}
    (small,) = [finding for finding in result.findings if finding.kind == "too small"]
    assert small.reason.startswith("31x40 pixels")
    assert list(result.domains) == ["train", "test"] and result.absent == ["val"]


def test_pairs_by_name(tmp_path: Path) -> None:
    fill(tmp_path / "trainA", range(4))
    fill(tmp_path / "trainB", range(1, 4), side=44)
    for i in range(1, 3):
        noise(40, 40, seed=i).save(tmp_path / "trainB" / f"{i}.png")
    noise(40, 40, seed=9).save(tmp_path / "trainB" / "extra.png")
    result = check(data=tmp_path, paired=True)
    assert findings_of(result, tmp_path) == {
        ("partner", "trainA/0.png"),
        ("partner", "trainB/extra.png"),
        ("pair sizes", "trainA/3.png"),
    }
    with pytest.raises(UserError, match="have no partner"):
        build_train_loader(TrainConfig(data=DataConfig(data=tmp_path, paired=True)), "cpu")


def test_depths_and_channels(tmp_path: Path) -> None:
    fill(tmp_path / "trainA", range(2))
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40).save(tmp_path / "trainA" / "deep.png")
    (tmp_path / "trainB").mkdir()
    for i in range(2):
        values = np.random.default_rng(i).normal(size=(40, 40)).astype(np.float32)
        Image.fromarray(values).save(tmp_path / "trainB" / f"{i}.tif")
    result = check(data=tmp_path)
    assert findings_of(result, tmp_path) == {("mixed", "trainA"), ("range", "trainB")}
    reasons = {finding.kind: finding.reason for finding in result.findings}
    assert reasons["mixed"] == "2 files 8 bit, 1 files 16 bit: all are taken as 8 bit (--depth)"
    assert "--value-low" in reasons["range"] and reasons["range"].startswith("from -")
    five = audit(DataConfig(data=tmp_path, **GEOMETRY), channels=(5, 3))  # type: ignore[arg-type]
    assert sorted(f.name for f in five.findings if f.kind == "pixel format") == [
        "trainA/0.png",
        "trainA/1.png",
        "trainA/deep.png",
    ]


def test_a_test_image_that_looks_like_one_for_training(tmp_path: Path) -> None:
    fill(tmp_path / "trainA", range(3), side=120)
    fill(tmp_path / "trainB", range(5, 8), side=120)
    (tmp_path / "testA").mkdir()
    photo(120, 120, seed=1).resize((100, 100)).save(tmp_path / "testA" / "again.jpg", quality=85)
    (found,) = check(data=tmp_path).findings
    assert (found.kind, found.name) == ("near train and test", "testA/again.jpg")
    assert found.like is not None and found.like.name == "trainA/1.png"


def test_test_images_at_locations_are_checked_with_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = {"A": fill(tmp_path / "a", range(3)), "B": fill(tmp_path / "b", range(5, 8))}
    tests = {"A": fill(tmp_path / "c", range(10, 12)), "B": fill(tmp_path / "d", range(7, 10))}
    (tests["A"] / "bad.png").write_bytes(b"")
    words = [word for x in "AB" for word in (f"--data-{x}", str(sides[x]), f"--test-{x}", str(tests[x]))]
    with pytest.raises(SystemExit) as end:
        run_command({"check": dataset.check}, ["check", *words, "--preprocess", "crop", "--crop-size", "32", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert end.value.code == 2
    assert {name: found["files"] for name, found in report["domains"].items()} == {
        "trainA": 3, "trainB": 3, "testA": 3, "testB": 3,
    }  # fmt: skip
    assert {(finding["kind"], Path(finding["name"]).name) for finding in report["findings"]} == {
        ("corrupt", "bad.png"),
        ("train and test", "7.png"),
    }


# ---- Signals ----
COPIES = 400  # of one image in each domain: a few seconds of reading


def many(folder: Path) -> Path:
    """A set of one image, linked many times."""
    noise(300, 300).save(folder / "image.jpg")
    for name in ("trainA", "trainB"):
        (folder / name).mkdir()
        for i in range(COPIES):
            (folder / name / f"{i}.jpg").hardlink_to(folder / "image.jpg")
    return folder


class Started:
    """A check that has begun to read, in a process that ignores Ctrl-C's signal from the start, or does not."""

    def __init__(self, folder: Path, on_ctrl_c: signal.Handlers) -> None:
        command = [sys.executable, "-m", "cyclegan_fast.dataset", "check", str(folder), "--workers", "2", "--json"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, on_ctrl_c),
        )
        self.pid = self.process.pid
        for _ in range(12_000):
            pids = readers(self.pid)
            if len(pids) == 2 and sum(map(seconds_used, pids)) > 0.6:  # of about 5
                return
            time.sleep(0.01)
        self.process.kill()
        raise AssertionError(f"no process reads: {self.process.communicate()}")

    def end(self) -> tuple[int | None, str, str]:
        """Waits for its end; returns its status, stdout and stderr."""
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


def readers(pid: int) -> list[int]:
    """The processes that a check reads with."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def seconds_used(pid: int) -> float:
    """The processor time that a process has used so far."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("in_background", [False, True])
def test_a_signal_ends_a_check_and_what_was_read_is_stored(tmp_path: Path, in_background: bool) -> None:
    """Ctrl-C does; SIGTERM where Ctrl-C is ignored from the start, as under nohup."""
    check = Started(many(tmp_path), signal.SIG_IGN if in_background else signal.SIG_DFL)
    os.kill(check.pid, signal.SIGINT)
    if in_background:
        time.sleep(0.1)
        assert check.process.poll() is None
        os.kill(check.pid, signal.SIGTERM)
    assert check.end() == (130, "", "interrupted\n")
    stored = json.loads((tmp_path / ".cyclegan_fast" / "manifest.json").read_text())["files"]
    assert 0 < len(stored) < 2 * COPIES
    manifest = Manifest(tmp_path)
    assert all(
        isinstance(found, ImageMetadata)
        for found in manifest.probe([as_image_file(tmp_path / name) for name in stored])
    )
    assert manifest.files_read == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_reader_that_is_killed_is_one_sentence(tmp_path: Path) -> None:
    check = Started(many(tmp_path), signal.SIG_DFL)
    os.kill(readers(check.pid)[0], signal.SIGKILL)
    status, _, stderr = check.end()
    assert status == 2 and "a process that read images was killed" in stderr and stderr.count("\n") == 1
