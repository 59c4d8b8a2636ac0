"""Copies of what a checkpoint holds, in host memory, so that training goes on while they are written."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cyclegan_fast.checkpoint.retention import Scored
from cyclegan_fast.checkpoint.tensor_file import Tensors
from cyclegan_fast.checkpoint.tree import dense_strides

log = logging.getLogger(__name__)

_ALIGNMENT = 64  # bytes: a line of the CPU's cache


@dataclass(frozen=True)
class Contents:
    """What a checkpoint is made of."""

    scored: Scored
    """Its step and its scores."""
    files: dict[str, bytes | Tensors]
    """Content by file name: bytes, or the tensors of a .safetensors file."""
    wait: Callable[[], object] = field(default=lambda: None)
    """Returns once the tensors can be read."""


class SnapshotMemory:
    """Host memory that holds the tensors of one checkpoint, and then those of the next one.

    On CUDA it is pinned, and the copies are work of the current stream: they read what all that was enqueued before
    them wrote (steps, graphs), what is enqueued after them waits, and the host does not.

    Args:
        device: Of the tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.memory = torch.empty(0, dtype=torch.uint8)

    def copy(self, contents: Contents) -> Contents:
        """Returns the same contents with copies of all tensors; those of the call before are overwritten.

        Raises:
            MemoryError: There is too little for them.
        """
        tables = {name: content for name, content in contents.files.items() if not isinstance(content, bytes)}
        self._reserve(sum(_room(tensor) for table in tables.values() for tensor in table.values()))
        copies: dict[str, dict[str, Tensor]] = {}
        begin = 0
        for file, table in tables.items():
            copies[file] = {}
            for name, tensor in table.items():
                copies[file][name] = self._copy(tensor, begin)
                begin += _room(tensor)
        return dataclasses.replace(contents, files=contents.files | copies, wait=self._when_copied())

    def _copy(self, tensor: Tensor, begin: int) -> Tensor:
        strides = dense_strides(tensor)
        if tensor.stride() != strides:  # with gaps or shared values: the copy below would not be one transfer
            tensor = tensor.clone()
        room = self.memory[begin : begin + tensor.nbytes].view(tensor.dtype)
        return room.as_strided(tensor.shape, strides).copy_(tensor, non_blocking=True)

    def _reserve(self, size: int) -> None:
        """Makes the memory at least `size` bytes large."""
        if len(self.memory) >= size:
            return
        self.memory = torch.empty(0, dtype=torch.uint8)  # the old one is free before the new one is there
        if self.device.type == "cuda":
            try:
                self.memory = torch.empty(size, dtype=torch.uint8, pin_memory=True)
                return
            except RuntimeError as error:
                reason = " ".join(str(error).split()[:12])
                log.warning("no %.1f GB of pinned memory (%s): checkpoints are copied slowly", size / 1e9, reason)
        try:
            self.memory = torch.empty(size, dtype=torch.uint8)
        except RuntimeError as error:
            raise MemoryError(
                f"there are no {size / 1e9:.1f} GB of memory for a copy of the training's state"
            ) from error

    def _when_copied(self) -> Callable[[], object]:
        if self.device.type != "cuda":
            return lambda: None
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self.device))

        def wait() -> None:
            with torch.cuda.device(self.device):  # the thread that waits may have no other one's context
                copied.synchronize()

        return wait


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
