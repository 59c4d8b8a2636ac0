"""Runs of several processes: their checkpoints, a resume on as many and on another number, and what ends them."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cyclegan_fast.checkpoint import native
from cyclegan_fast.training.process import EXIT_STOPPED
from tests.data.sample_images import noise
from tests.reliability import Recorder
from tests.training.ranks import Rank, ended, started, train, trained
from tests.training.test_step import relative_error
from tests.training.test_train_command import newest, one_sentence, records

FLAGS = (
    "--generator resnet_1blocks --ngf 2 --ndf 2 --discriminator n_layers --n-layers 1 --load-size 20 --crop-size 16 "
    "--device cpu --workers 0 --log-every 1 --pool-size 3 --sample-every 0 --loader cache --rank-timeout 20"
)
SMALL = FLAGS.split()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 images of each domain."""
    root = tmp_path_factory.mktemp("images")
    for domain in ("trainA", "trainB"):
        (root / domain).mkdir()
        for i in range(6):
            noise(24, 22, seed=i).save(root / domain / f"{i}.png")
    return root


def losses(out: Path) -> list[tuple[int, int, dict[str, float]]]:
    return [(record["step"], record["epoch"], record["losses"]) for record in records(out)]


def until(condition: object, ranks: list[Rank]) -> None:
    deadline = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        assert all(rank.process.exitcode is None for rank in ranks) and time.monotonic() < deadline
        time.sleep(0.05)


def all_done(done: list, status: int = 0) -> None:  # type: ignore[type-arg]
    assert [one.returncode for one in done] == [status] * len(done), [one.stderr for one in done]


# ---- What they compute.
def test_two_processes_log_and_save_what_one_does_with_twice_the_batch(images: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--data", images, "--pool-size", 0, "--eps", 1e-2, "--max-steps", 8]
    one, two = tmp_path / "one", tmp_path / "two"
    done = trained(tmp_path, [*words, "--out", two], [*words, "--out", two])
    all_done(done)
    assert "2 processes train together, by updates of 2 images of each domain" in done[0].stdout
    assert not done[1].stdout and not done[1].stderr, "the first process alone reports"
    all_done(trained(tmp_path, [*words, "--out", one, "--batch-size", 2]))
    for got, expected in zip(losses(two), losses(one), strict=True):
        assert got[:2] == expected[:2]
        assert got[2] == pytest.approx(expected[2], rel=1e-5)
    for name, limit in (("weights.safetensors", 1e-5), ("state.safetensors", 1e-4)):
        found, expected_file = (load_file(newest(out) / name) for out in (two, one))
        for key, value in expected_file.items():
            if not re.search("rng|seed", key) and value.is_floating_point():
                assert relative_error(found[key], value) <= limit, key


def test_a_resume_changes_no_bit_and_another_number_of_processes_goes_on(images: Path, tmp_path: Path) -> None:
    """Pools, dropout and the penalty draw random numbers of their own on each rank."""
    words = [*SMALL, "--data", images, "--gan-mode", "wgangp", "--dropout", "--n-epochs", 3, "--n-epochs-decay", 3]
    words += ["--lr", 1e-4, "--lr-rule", "sqrt"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    all_done(trained(tmp_path, *[[*words, "--out", straight, "--max-steps", 8]] * 2))
    all_done(trained(tmp_path, *[[*words, "--out", stopped, "--max-steps", 5]] * 2))
    resume = ["--out", stopped, "--resume", "--max-steps"]
    all_done(trained(tmp_path, *[[*resume, 8]] * 2))
    for name in ("weights.safetensors", "state.safetensors", "state.json"):
        assert (newest(straight) / name).read_bytes() == (newest(stopped) / name).read_bytes(), name
    assert losses(straight) == losses(stopped)

    state = native.load_state(newest(stopped))
    own = [state["step"]["pool_A"], *(other["pools"]["pool_A"] for other in state["ranks"])]
    assert len(own) == 2 and own[0]["seed"] != own[1]["seed"] and not own[0]["images"].equal(own[1]["images"])

    # 8 steps of 2 images are 2 epochs and 4 of 6 images; 2 + 6 * 3 steps of 1 image are left of 6 epochs.
    (done,) = trained(tmp_path, [*resume, "none"])
    all_done([done])
    assert re.search("2 until here, 1 from here on: 1 images .* instead of 2; epoch 3 goes on", done.stdout), (
        done.stdout
    )
    assert [step for step, *_ in losses(stopped)] == list(range(1, 8 + 2 + 18 + 1))
    assert [epoch for _, epoch, _ in losses(stopped)] == [*[1] * 3, *[2] * 3, *[3] * 4, *[4] * 6, *[5] * 6, *[6] * 6]
    assert native.load_state(newest(stopped))["loader"] == {"sample": 36}
    assert "--lr-rule sqrt: the learning rate begins at 0.0001 instead of 0.0001414" in done.stdout
    rates = [record["lr"] for record in records(stopped) if record["epoch"] <= 3]
    assert rates == pytest.approx([1e-4 * 2**0.5] * 8 + [1e-4] * 2), "by the images of all processes"


# ---- What ends them.
def test_a_signal_to_one_process_ends_all_at_the_same_step(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [*SMALL, "--data", images, "--out", out]
    with started(tmp_path, train, [words], [words]) as ranks:
        until(lambda: (out / "events.jsonl").exists() and len(records(out)) >= 3, ranks)
        ranks[1].send(signal.SIGTERM)
        done = ended(ranks)
    all_done(done, EXIT_STOPPED)
    step = records(out)[-1]["step"]
    assert newest(out).name == f"step_{step:08d}"
    assert "stopped by a signal after a checkpoint" in done[0].stdout and not done[1].stdout


@pytest.mark.fault(26)
@pytest.mark.parametrize(("fault", "lost"), [(signal.SIGKILL, 0), (signal.SIGSTOP, 1)], ids=["dies", "hangs"])
def test_one_process_dies_or_hangs_and_the_others_end(
    images: Path, tmp_path: Path, fault: signal.Signals, lost: int, user_sees: Recorder
) -> None:
    """The first one also holds the store in which they have met."""
    out, seconds = tmp_path / "run", 4
    words = [*SMALL, "--data", images, "--out", out, "--checkpoint-every", 2, "--rank-timeout", seconds]
    with started(tmp_path, train, [words], [words]) as ranks:
        until(lambda: list((out / "checkpoints").glob("step_*")), ranks)
        ranks[lost].send(fault)
        (done,) = ended([ranks[1 - lost]], 30 + seconds)
        if fault == signal.SIGSTOP:
            ranks[lost].send(signal.SIGCONT)  # it finds that the other one has ended, or its own time over
            one_sentence(ended(ranks)[lost], f"error: {named(ranks, 1 - lost)} has ", "--resume auto")
    why = "has ended" if fault == signal.SIGKILL else f"has not answered for {seconds} s (--rank-timeout)"
    one_sentence(done, f"error: {named(ranks, lost)} {why}, so this one ends: ", "--resume auto")
    user_sees(re.sub(r"pid \d+ on [^)]+", "pid 4711 on node-1", done.stderr))
    step = int(newest(out).name.removeprefix("step_"))
    (again,) = trained(tmp_path, ["--out", out, "--resume", "--max-steps", step + 2])
    all_done([again])
    user_sees(next(line for line in again.stdout.splitlines() if line.startswith("processes: 2 until here")))


@pytest.mark.fault(26)
@pytest.mark.parametrize(("fault", "lost"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 0)], ids=["dies", "hangs"])
def test_all_that_are_left_name_the_process_that_is_lost(
    images: Path, tmp_path: Path, fault: signal.Signals, lost: int
) -> None:
    """And none of those that end because of it."""
    out, seconds = tmp_path / "run", 4
    words = [*SMALL, "--data", images, "--out", out, "--rank-timeout", seconds]
    with started(tmp_path, train, *[[words]] * 3) as ranks:
        until(lambda: (out / "events.jsonl").exists() and len(records(out)) >= 2, ranks)
        ranks[lost].send(fault)
        left = [rank for rank in ranks if rank is not ranks[lost]]
        for done in ended(left, 30 + seconds):
            one_sentence(done, f"error: {named(ranks, lost)} has ", "--resume auto")


def named(ranks: list[Rank], lost: int) -> str:
    return f"process {lost} of {len(ranks)} (pid {ranks[lost].process.pid} on {socket.gethostname()})"


def test_what_one_process_cannot_do_ends_all_with_a_checkpoint(images: Path, tmp_path: Path) -> None:
    """An image that only the second one finds missing, in the middle of an epoch."""
    root, out = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(images, root)
    words = [*SMALL, "--data", root, "--out", out, "--loader", "torch", "--serial-batches"]
    with started(tmp_path, train, [words], [words]) as ranks:
        until(lambda: (out / "events.jsonl").exists() and len(records(out)) >= 2, ranks)
        (root / "trainA" / "3.png").unlink()  # the second process has the odd ones
        done = ended(ranks)
    one_sentence(done[0], "process 1 of 2: ", "3.png", "repair it and resume")
    assert done[1].returncode == 2 and not done[1].stderr
    assert newest(out).name == f"step_{records(out)[-1]['step']:08d}"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            [["--lr", "1e-4"], []],
            "all processes must have the same settings: --lr is 0.0001 in process 0 and 0.0002 in ",
        ),
        (
            [["--batch-size", "4"]] * 2,
            "an epoch has 6 samples, but 2 processes take 8 in one step: start fewer processes",
        ),
        ([["--data", "nowhere"]] * 2, "nowhere"),
    ],
)
def test_what_rules_a_run_out_is_one_sentence(
    images: Path, tmp_path: Path, words: list[list[str]], sentence: str
) -> None:
    done = trained(tmp_path, *([*SMALL, "--data", images, "--out", tmp_path / "run", *given] for given in words))
    one_sentence(done[0], sentence)
    assert done[1].returncode == 2 and not done[1].stderr
    assert not (tmp_path / "run").exists()
