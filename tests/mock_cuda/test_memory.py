"""A GPU whose memory is full: torch's own errors, from its own allocator, and what a user is shown."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cyclegan_fast import ops
from cyclegan_fast.engine import load_engine
from cyclegan_fast.errors import UserError
from cyclegan_fast.memory import TooLittleMemoryError, is_out_of_memory
from tests.mock_cuda import runtime
from tests.mock_cuda.test_trainer import images, trainer

__all__ = ["images"]

TOTAL = 139 * 2**30  # of the mock's devices
SENTENCE = (
    r"{} needs more memory than cuda has \(\d+\.\d\d GiB asked for at once, \d+\.\d\d GiB free of 139\.00 GiB, "
    r"\d+\.\d\d GiB reserved by torch, \d+\.\d\d GiB of it in use\): {}"
)


@pytest.fixture
def emptied() -> Iterator[None]:
    """Frees what earlier tests have left, and forgets in the end how full it was."""
    gc.collect()  # exceptions hold the tensors of their steps
    torch.cuda.empty_cache()
    yield
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


@pytest.fixture
def nearly_full(emptied: None) -> torch.Tensor:
    """All but 32 MiB of the GPU."""
    free, _ = torch.cuda.mem_get_info()
    return torch.empty(free - 32 * 2**20, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize("graphs", ["--cuda-graphs=on", "--cuda-graphs=off"])
def test_a_step_that_needs_more_than_there_is(
    images: Path, tmp_path: Path, nearly_full: torch.Tensor, graphs: str
) -> None:
    flags = ["--load-size", 128, "--crop-size", 128, "--ngf", 32, "--batch-size", 4, "--max-steps", 9]
    run = trainer(images, tmp_path / "run", *flags, graphs)
    what = (
        r"what reduces it, the most first: --batch-size 1 --grad-accumulation 4 \(.*; --side-by-side off .*--amp bf16"
    )
    with pytest.raises(TooLittleMemoryError) as raised:
        run.run()
    assert re.match(SENTENCE.format("a step of this training", what), str(raised.value)), raised.value
    assert runtime.take_faults() == []


def test_an_operator_of_ours_says_so(nearly_full: torch.Tensor) -> None:
    x = torch.empty(1, 64, 256, 256, device="cuda")  # 16 MiB
    with pytest.raises(RuntimeError, match=r"out of memory on the GPU: tried to allocate \d+ bytes") as raised:
        for _ in range(4):
            nearly_full.add_(0)
            x = torch.cat([x, ops.instance_norm_act(x)])
    assert is_out_of_memory(raised.value)


@pytest.mark.usefixtures("emptied")
def test_an_engine_that_needs_more_than_there_is(images: Path, tmp_path: Path) -> None:
    assert trainer(images, tmp_path / "run", "--max-steps", 1).run() == 0
    with load_engine(tmp_path / "run", device="cuda") as engine:
        free, _ = torch.cuda.mem_get_info()
        held = torch.empty(free - 8 * 2**20, dtype=torch.uint8, device="cuda")
        batch = torch.zeros(4, 3, 512, 512)
        with pytest.raises(UserError) as raised:
            engine.run(batch)
        what = r".*: a batch of shape \[4, 3, 512, 512\]"
        assert re.match(SENTENCE.format(what, "choose a smaller batch size"), str(raised.value)), raised.value
        del held
        torch.cuda.empty_cache()
        assert engine.run(batch).shape == batch.shape
