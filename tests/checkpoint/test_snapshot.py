"""A snapshot holds what a checkpoint is made of, whatever training does to it afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclegan_fast.checkpoint.retention import Retention, Scored
from cyclegan_fast.checkpoint.saving import checkpoint_contents, write_checkpoint
from cyclegan_fast.checkpoint.snapshot import Contents, SnapshotMemory
from cyclegan_fast.config import TrainConfig


def files_of(checkpoint: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def tensors_of(contents: Contents) -> dict[str, Tensor]:
    tables = [table for table in contents.files.values() if not isinstance(table, bytes)]
    return {name: tensor for table in tables for name, tensor in table.items()}


@pytest.fixture
def state() -> dict[str, Any]:
    x = torch.randn(2, 6, 4, 4)
    return {
        "moments": [x, x.to(memory_format=torch.channels_last), x.half(), torch.tensor(3), torch.empty(0, 4)],
        "views": {"columns": x[..., ::2], "wide": torch.ones(1, 3).expand(5, 3), "turned": x.mT},
        "flags": torch.tensor([True, False, True]),
        "step": 7,
    }


@pytest.fixture
def contents(networks: nn.ModuleDict, config: TrainConfig, state: dict[str, Any]) -> Contents:
    scored = Scored(7, {"swd": 1.5}, "of 3 images")
    networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return checkpoint_contents(scored, networks=networks, config=config, progress={}, state=state)


def test_it_is_written_as_the_tensors_themselves_are_byte_for_byte(contents: Contents, tmp_path: Path) -> None:
    expected = files_of(write_checkpoint(tmp_path / "live", contents, Retention()))
    copied = SnapshotMemory(torch.device("cpu")).copy(contents)
    for tensor in tensors_of(contents).values():
        if 0 not in tensor.stride():
            tensor.fill_(1)
    assert files_of(write_checkpoint(tmp_path / "copied", copied, Retention())) == expected
    changed = files_of(write_checkpoint(tmp_path / "changed", contents, Retention()))
    assert changed["weights.safetensors"] != expected["weights.safetensors"]


def test_its_memory_is_used_again(contents: Contents) -> None:
    memory = SnapshotMemory(torch.device("cpu"))
    first = memory.copy(contents)
    places, size = {name: t.data_ptr() for name, t in tensors_of(first).items()}, len(memory.memory)
    for _ in range(3):
        assert {name: t.data_ptr() for name, t in tensors_of(memory.copy(contents)).items()} == places
    assert len(memory.memory) == size
    largest = sum(t.nbytes for t in tensors_of(contents).values())
    assert largest <= size <= largest + 64 * len(places)


def test_it_grows_with_what_it_holds(contents: Contents) -> None:
    """Pools of images of several sizes change their size from one checkpoint to the next."""
    memory = SnapshotMemory(torch.device("cpu"))
    for side in (3, 200, 50):
        pool = {"pool": torch.randn(3, side, side)}
        more = Contents(Scored(8), {**contents.files, "pool.safetensors": pool})
        assert all(t.equal(tensors_of(more)[name]) for name, t in tensors_of(memory.copy(more)).items())
