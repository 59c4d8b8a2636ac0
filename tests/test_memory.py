"""Allocations that fail: one sentence with what was asked, what there was, and what reduces it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cyclegan_fast import dataset, export
from cyclegan_fast.config import TrainConfig, with_settings
from cyclegan_fast.memory import TooLittleMemoryError, is_out_of_memory, memory_errors
from cyclegan_fast.monitoring.run_status import read_status
from cyclegan_fast.training.memory_advice import memory_advice
from tests.commands import run_in_process
from tests.reliability import Recorder
from tests.training.test_samples import FLAGS, data, trainer

__all__ = ["data"]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HOST = r"this machine has \({}\d+\.\d\d GiB free, \d+\.\d\d GiB in use by this process\): advice"


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize(
    ("allocate", "asked"),
    [
        (lambda: torch.empty(2**50, dtype=torch.uint8), "1048576.00 GiB asked for at once, "),
        (lambda: np.empty(2**50, np.uint8), "1048576.00 GiB asked for at once, "),
        (lambda: bytearray(2**50), ""),
    ],
    ids=["torch", "numpy", "Python"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the process's size is read from /proc")
def test_the_hosts_memory_is_full(allocate: Callable[[], object], asked: str, device: torch.device) -> None:
    pattern = "^a test needs more memory than " + HOST.format(asked) + "$"
    with pytest.raises(TooLittleMemoryError, match=pattern), memory_errors("a test", device, lambda: "advice"):
        allocate()


def test_a_gpus_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is that of torch 2.11, on a GPU that it shares with other processes."""
    message = (
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.25 GiB is "
        "free. Including non-PyTorch memory, this process has 77.84 GiB memory in use."
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(1.25 * 2**30), int(79.1 * 2**30)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 77 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 75 * 2**30)
    with pytest.raises(TooLittleMemoryError) as raised, memory_errors("a step", CUDA, lambda: "advice"):
        raise torch.OutOfMemoryError(message)
    assert str(raised.value) == (
        "a step needs more memory than cuda has (2.50 GiB asked for at once, 1.25 GiB free of 79.10 GiB, 77.00 GiB "
        "reserved by torch, 75.00 GiB of it in use): advice"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("out of memory on the GPU: tried to allocate 512 bytes for a tensor of shape [4, 32]"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of range"), False),
    ],
)
def test_which_errors_are_meant(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
    if isinstance(error, RuntimeError) and not expected:
        with pytest.raises(RuntimeError) as raised, memory_errors("a test", CPU, lambda: "advice"):
            raise error
        assert raised.value is error


ALL = [
    "--batch-size 1 --grad-accumulation 8 (the same updates, one image at a time)",
    "--side-by-side off (one cycle after the other: half, where both ran at once)",
    "--activation-checkpointing (a quarter more work)",
    "--amp bf16 (activations in 16 bits)",
    "--crop-size 128 (a quarter)",
    "--loader torch (images are not cached)",
    "--ngf 32 --ndf 32 (half, for smaller networks)",
]


@pytest.mark.parametrize(
    ("settings", "device", "left_out"),
    [
        ({"batch_size": 4, "grad_accumulation": 2}, CUDA, []),
        ({}, CUDA, [0]),
        ({"batch_size": 8, "side_by_side": "off", "amp": "bf16"}, CUDA, [1, 3]),
        ({"batch_size": 8, "activation_checkpointing": True, "amp": "fp16"}, CUDA, [2, 3]),
        ({"batch_size": 8, "generator": "unet_256"}, CUDA, [2]),
        ({"batch_size": 8, "norm": "batch"}, CUDA, [1, 2]),
        ({"batch_size": 8, "model": "cogan"}, CUDA, [1]),
        ({"batch_size": 8, "compile": True}, CPU, [1, 3]),
    ],
)
def test_flags_that_help_and_are_not_on(settings: dict[str, object], device: torch.device, left_out: list[int]) -> None:
    config = with_settings(TrainConfig(), settings)
    advice = memory_advice(config, device, "cache").removeprefix("what reduces it, the most first: ").split("; ")
    assert advice == [flag for i, flag in enumerate(ALL) if i not in left_out]
    assert "--loader torch" not in memory_advice(config, device, "dali")


@pytest.mark.parametrize(("crop_size", "flag"), [(64, "; --crop-size 32 (a quarter); "), (60, ""), (16, "")])
def test_a_crop_that_is_small_already_is_not_halved(crop_size: int, flag: str) -> None:
    advice = memory_advice(with_settings(TrainConfig(), {"crop_size": crop_size}), CPU)
    assert flag in advice and ("--crop-size" in advice) == bool(flag)


def test_images_of_any_size_are_to_be_cropped() -> None:
    config = with_settings(TrainConfig(), {"preprocess": "none"})
    assert "--preprocess scale_width_and_crop --crop-size 256 (" in memory_advice(config, CPU)


@pytest.mark.parametrize("place", ["step", "networks"])
def test_a_training_for_which_memory_is_too_small(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: object, **__: object) -> None:
        torch.empty(2**50)

    flags = "--batch-size 2"
    if place == "networks":
        monkeypatch.setattr("cyclegan_fast.training.trainer.build_networks", full)
        with pytest.raises(TooLittleMemoryError, match=r"^this training needs more memory than .* --batch-size 1 "):
            trainer(data, tmp_path / "run", flags)
        assert not (tmp_path / "run").exists()
        return
    run = trainer(data, tmp_path / "run", flags)
    monkeypatch.setattr(run.step, "run_cycle", full)
    with pytest.raises(TooLittleMemoryError, match=r"^a step of this training .* GiB free.*: what reduces it"):
        run.run()
    status = read_status(tmp_path / "run")
    assert status is not None and status.state == "failed" and "--batch-size 1" in status.message


def test_other_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        torch.empty(2**50)

    monkeypatch.setattr("cyclegan_fast.engine.build_engine", full)
    done = run_in_process(lambda: export.main(["--checkpoint", "run", "--out", "a.onnx", "--device", "cpu"]))
    assert done.returncode == 2 and done.stderr.startswith("error: the export of run needs more memory than this ")
    monkeypatch.setattr("cyclegan_fast.data.audit.report.audit", full)
    done = run_in_process(lambda: dataset.main(["check", str(tmp_path)]))
    assert done.returncode == 2 and done.stderr.startswith("error: this command needs more memory than this machine ")
    monkeypatch.setattr("cyclegan_fast.data.audit.report.audit", lambda *_, **__: [][1])
    with pytest.raises(IndexError):
        run_in_process(lambda: dataset.main(["check", str(tmp_path)]))


@pytest.mark.fault(24)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's size from /proc, and limits it")
def test_a_process_that_may_not_have_more_memory(data: Path, tmp_path: Path, user_sees: Recorder) -> None:
    """Activations of 1024 px, where the process may have 700 MB more than it has with all libraries loaded."""
    words = [*FLAGS.split(), "--data", str(data), "--out", str(tmp_path / "run"), "--load-size", "1024"]
    words += ["--crop-size", "1024", "--ngf", "32", "--batch-size", "2", "--loader", "torch", "--sample-every", "0"]
    script = (
        "import re, resource, sys, torch\n"
        "from cyclegan_fast.training import trainer\n"
        "from cyclegan_fast.train import main\n"
        "size = int(re.search(r'VmSize:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 700 * 2**20,) * 2)\n"
        "main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    user_sees(last)
    assert re.match(r"error: a step of this training needs more memory than this machine has \(", last), last
    assert re.search(r"\d GiB asked for at once, .* ulimit -v allows it \d+\.\d\d GiB of addresses\): what", last), last
