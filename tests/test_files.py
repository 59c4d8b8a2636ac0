"""What a killed process leaves behind: its lock goes with it, and the next one clears what it had not finished."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyclegan_fast import files
from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import building_file, building_folder, remove_leftovers, write_atomically
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.process import RunLock
from cyclegan_fast.translate import translate
from tests.data.sample_images import noise
from tests.reliability import Recorder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and kills of POSIX")

# Each begins something in the folder `root` and is in the middle of it when it comes to `wait()`.
LOCK = "from cyclegan_fast.training.process import RunLock\nlock = RunLock(root).__enter__()\n"
PROGRAMS = {
    "file": "with building_file(root / 'a.png') as partial:\n    partial.write_bytes(b'half'); wait()",
    "folder": "with building_folder(root / 'a') as partial:\n    (partial / 'half').write_bytes(b'x'); wait()",
    "tiff": """
import numpy as np
from cyclegan_fast.images.tiff_rows import write_tiff

def bands():
    yield np.zeros((32, 16, 3), np.uint8)
    wait()

write_tiff(root / "a.tif", bands(), (64, 16, 3), np.dtype("uint8"), compress=False)
""",
    "pool": """
from concurrent.futures import ProcessPoolExecutor
from cyclegan_fast.processes import end_with_parent

pool = ProcessPoolExecutor(1, multiprocessing.get_context("fork"), end_with_parent)
child = pool.submit(os.getpid).result()
wait()
""",
    "lock": LOCK + "wait()",
    "forked": LOCK
    + "begun, begin = os.pipe(); child = os.fork()\n"
    + "os.read(begun, 1) if child else os.write(begin, b'.')  # the child has run what a fork runs\n"
    + "wait()",
    "forkserver": LOCK
    + "process = multiprocessing.get_context('forkserver').Process(target=time.sleep, args=(600,))\n"
    + "process.start(); child = process.pid; wait()",
}
HEAD = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from cyclegan_fast.files import building_file, building_folder

root, child = Path(sys.argv[1]), 0

def wait():
    if child or "os.fork" not in program:  # the child of a fork stays silent
        print(child, flush=True)
    signal.pause()
"""


class Process:
    """A process in the middle of one of `PROGRAMS`."""

    def __init__(self, kind: str, root: Path) -> None:
        program = f"{HEAD}\nprogram = {PROGRAMS[kind]!r}\nexec(program)"
        self.process = subprocess.Popen([sys.executable, "-c", program, str(root)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())

    def kill(self) -> None:
        """As the kernel does when memory is short; children stay."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        if self.child:
            os.kill(self.child, signal.SIGKILL)


@pytest.fixture
def begun(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    process = Process(request.param, tmp_path)
    yield process
    process.close()


def unfinished(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".partial-*"))


@pytest.mark.parametrize("begun", ["file", "folder", "tiff"], indirect=True)
def test_leftovers_go_once_their_process_is_dead(begun: Process, tmp_path: Path) -> None:
    others = [".partial-0123456789ab", ".partial-of-mine"]
    (tmp_path / others[0]).symlink_to("/etc/hostname")
    (tmp_path / others[1]).write_bytes(b"of another program")
    living = unfinished(tmp_path)
    assert len(living) >= 3
    remove_leftovers(tmp_path)
    assert unfinished(tmp_path) == living
    begun.kill()
    assert unfinished(tmp_path) == living
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == others


@pytest.mark.parametrize("begun", ["file"], indirect=True)
def test_the_first_write_into_a_folder_clears_it(begun: Process, tmp_path: Path) -> None:
    begun.kill()
    (tmp_path / "deep").mkdir()
    write_atomically(tmp_path / "deep" / "b", b"b")
    assert unfinished(tmp_path)
    write_atomically(tmp_path / "b", b"b")
    assert not unfinished(tmp_path) and (tmp_path / "b").read_bytes() == b"b"


def test_what_this_process_writes_is_not_cleared(tmp_path: Path) -> None:
    with building_file(tmp_path / "a") as partial, building_folder(tmp_path / "b") as folder:
        remove_leftovers(tmp_path)
        write_atomically(tmp_path / "c", b"c")
        partial.write_bytes(b"a")
        (folder / "x").write_bytes(b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    assert (tmp_path / "a").read_bytes() == b"a" and (tmp_path / "b" / "x").read_bytes() == b"x"


@pytest.mark.parametrize("begun", ["file"], indirect=True)
def test_translate_clears_what_a_killed_one_left(begun: Process, tmp_path: Path) -> None:
    model = ModelConfig(generator="resnet_1blocks", ngf=2, ndf=2)
    run, photos = tmp_path / "run", tmp_path / "photos"
    networks = build_networks(model)
    save_checkpoint(run / "checkpoints", 1, networks=networks, config=TrainConfig(model=model), progress={"step": 1})
    photos.mkdir()
    noise(16, 16).save(photos / "a.bmp")
    words = {"engine": run, "input": photos, "output": tmp_path, "device": "cpu", "direction": "AtoB"}
    assert translate(**words) == 0
    assert unfinished(tmp_path)  # still being written
    begun.kill()
    assert translate(**words, resume=True) == 0  # also if nothing is left to do
    assert not unfinished(tmp_path)


@pytest.mark.fault(19)
@pytest.mark.parametrize("begun", ["lock", "forked", "forkserver"], indirect=True)
def test_a_killed_run_holds_no_lock_whatever_its_workers_do(
    begun: Process, tmp_path: Path, user_sees: Recorder
) -> None:
    with pytest.raises(UserError, match="another run") as error, RunLock(tmp_path):
        pass
    user_sees(error.value)
    for folder in (tmp_path, tmp_path / "samples"):
        folder.mkdir(exist_ok=True)
        (folder / ".partial-0123456789ab").write_bytes(b"left by a kill")
    begun.kill()
    if begun.child:
        os.kill(begun.child, 0)  # it lives on
    with RunLock(tmp_path):
        assert not unfinished(tmp_path) and not unfinished(tmp_path / "samples")


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or nobody has asked yet how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked at in /proc")
@pytest.mark.parametrize("begun", ["pool"], indirect=True)
def test_a_reader_does_not_outlive_a_killed_parent(begun: Process) -> None:
    """A worker of a pool would wait for its next task for ever: it holds the other end of that pipe, too."""
    assert begun.child and not has_ended(begun.child)
    begun.kill()
    deadline = time.monotonic() + 240
    while not has_ended(begun.child):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun.child = 0


def test_a_fork_lets_go_of_nothing_in_its_parent(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(UserError, match="another run"), RunLock(tmp_path):
            pass


def test_a_scratch_folder_is_removed_at_the_end_and_those_of_killed_processes_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = f"""
import tempfile, time; tempfile.tempdir = {str(tmp_path)!r}
from cyclegan_fast.files import scratch_folder
with scratch_folder() as folder:
    (folder / "half").touch()
    print(flush=True)
    time.sleep(600)
"""
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert killed.stdout is not None
    killed.stdout.readline()
    files._remove_scratch_once.cache_clear()
    with files.scratch_folder() as living:
        assert len(list(tmp_path.iterdir())) == 2, "that of a living process stays"
        killed.kill()
        killed.communicate()
        files._remove_scratch_once.cache_clear()
        with files.scratch_folder() as other:
            assert set(tmp_path.iterdir()) == {living, other}
        with pytest.raises(ValueError), files.scratch_folder():
            raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_that_another_process_takes_for_a_leftover_is_made_anew(tmp_path, monkeypatch):
    """It does so between the moments in which the folder is there and is locked."""
    import fcntl

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    flock, others = fcntl.flock, []

    def late(file: object, how: int) -> None:
        if not others:
            (taken,) = tmp_path.iterdir()
            others.append((taken / ".lock").open("r+b"))
            flock(others[0], how)
            shutil.rmtree(taken)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with files.scratch_folder() as folder:
        (folder / "0.png").touch()
    others[0].close()
    assert list(tmp_path.iterdir()) == []
