"""Worker processes that cannot hand over batches: /dev/shm is full, a worker hangs, a batch cannot be sent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.loaders import prefetch
from cyclegan_fast.data.loaders.prefetch import WaitCancelledError
from cyclegan_fast.data.loaders.samples import Samples
from cyclegan_fast.data.loaders.torch import WorkersLoader
from cyclegan_fast.errors import UserError
from tests.data.test_faults import settings

SMALL_SHM = ["unshare", *(["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"])]

# Prints what becomes of a loader, and of the batches once /dev/shm is full.
PROGRAM = """
import logging, os, sys, time
from pathlib import Path
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.errors import UserError
from tests.data.test_faults import settings

logging.basicConfig(format="%(message)s", stream=sys.stdout)
workers = None if sys.argv[2] == "default" else int(sys.argv[2])
sizes = {"preprocess": "resize_and_crop", "load_size": 130, "crop_size": 128}
config = settings("torch", Path(sys.argv[1]), workers=workers, **sizes)
try:
    with build_train_loader(config, "cpu") as loader:
        print("workers", loader.workers)
        next(loader)
        for i in range(64):  # while they work on; what is there already is delivered
            try:
                Path(f"/dev/shm/full{i}").write_bytes(bytes(1 << 20))
            except OSError:
                pass
            next(loader)
        print("all came")
except UserError as error:
    print(error)
"""


def in_small_shared_memory(size: str, folder: Path, workers: int | str) -> list[str]:
    """The lines that `PROGRAM` prints where /dev/shm has `size`."""
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*SMALL_SHM, "sh", "-c", mount], check=False).returncode:
        pytest.skip("no small /dev/shm can be mounted here")
    program = [sys.executable, "-c", PROGRAM, str(folder), str(workers)]
    done = subprocess.run(
        [*SMALL_SHM, "sh", "-c", f'{mount} && exec "$@"', "sh", *program],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()


def test_workers_that_shared_memory_is_too_small_for_are_refused_before_anything_starts(good_folder: Path) -> None:
    (refused,) = in_small_shared_memory("300k", good_folder, 2)
    assert refused == (
        "--loader torch: 2 worker processes would hand over batches in /dev/shm, which has 307 kB free of the 688 kB "
        "needed: enlarge it (docker run --shm-size 1g), or use --workers 0"
    )


def test_by_default_there_are_as_many_workers_as_fit(good_folder: Path) -> None:
    lines = in_small_shared_memory("300k", good_folder, "default")
    if os.cpu_count() == 1:
        pytest.skip("on one core there are none by default")
    assert "(docker run --shm-size 1g); until then 0 decode" in lines[0]
    assert lines[1:] == ["workers 0", "all came"]


def test_shared_memory_that_fills_up_meanwhile_ends_in_a_sentence(good_folder: Path) -> None:
    lines = in_small_shared_memory("1m", good_folder, 2)
    assert lines[0] == "workers 2"
    assert lines[-1] == (
        "a process that reads images cannot hand over a batch in /dev/shm (No space left on device (28)): enlarge it "
        "(docker run --shm-size 1g), or use fewer --workers, and go on with --resume auto"
    )


def test_a_batch_that_cannot_be_sent_is_not_waited_for(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Samples.read

    def unsendable(self: Samples, domain: int, index: int, skipped: list) -> object:
        skipped.append(lambda: None)
        return read(self, domain, index, skipped)

    monkeypatch.setattr(Samples, "read", unsendable)
    with (
        build_train_loader(settings("torch", good_folder, workers=1), "cpu") as loader,
        pytest.raises(UserError, match=r"a process that reads images was killed"),
    ):
        next(loader)


def test_a_stop_is_not_kept_waiting_by_a_worker_that_hangs(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "CLOSE_SECONDS", 0.1)
    stop = []
    loader = build_train_loader(settings("torch", good_folder, workers=1), "cpu")
    assert isinstance(loader, WorkersLoader)
    loader.prepare(lambda: bool(stop))
    next(loader)
    (worker,) = loader._processes
    os.kill(worker.pid, signal.SIGSTOP)
    stop.append(True)
    with pytest.raises(WaitCancelledError):
        for _ in range(100):  # what was made before is delivered first
            next(loader)
    loader.close()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
