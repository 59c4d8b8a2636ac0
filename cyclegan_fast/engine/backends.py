"""What an engine is, and the one that runs in torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cyclegan_fast.config import Form
from cyclegan_fast.device import resolve_device
from cyclegan_fast.engine.generator import Generator
from cyclegan_fast.errors import UserError

DType = Literal["float32", "bf16", "fp16"]
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(kw_only=True, eq=False)
class Engine(ABC):
    """A generator that is ready to run. Several threads may share it."""

    name: str  # where it came from, for messages
    device: str  # where it runs: cpu, cuda or cuda:<index>
    direction: str | None  # AtoB or BtoA; None if the file does not say
    in_form: Form  # of the images that it takes
    out_form: Form  # of the images that it makes
    multiple: int  # sides of a batch must be multiples of this, in pixels
    smallest: int  # the least side, in pixels

    @property
    def in_channels(self) -> int:
        """Channels of the images that it takes."""
        return self.in_form.channels

    @property
    def out_channels(self) -> int:
        """Channels of the images that it makes."""
        return self.out_form.channels

    @abstractmethod
    def run(self, batch: Tensor) -> Tensor:
        """float32 [N, in_channels, H, W] in [-1, 1], on any device -> float32 [N, out_channels, H, W]."""


class TorchBackend(Engine):
    """Runs a generator in torch, channels_last, without any trace of gradients."""

    def __init__(self, generator: Generator, *, name: str, device: str = "auto", dtype: DType = "float32") -> None:
        where = resolve_device(device)
        if dtype not in _DTYPES:
            raise UserError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
        if dtype == "fp16" and where.type != "cuda":
            raise UserError("fp16 runs on CUDA devices only; on the CPU use bf16 or float32")
        super().__init__(
            name=name,
            device=str(where),
            direction=generator.direction,
            in_form=generator.in_form,
            out_form=generator.out_form,
            multiple=generator.multiple,
            smallest=generator.smallest,
        )
        self._dtype = _DTYPES[dtype]
        self._network = generator.network.to(where, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run(self, batch: Tensor) -> Tensor:
        """See `Engine.run`."""
        batch = batch.to(self.device, self._dtype, memory_format=torch.channels_last)
        return self._network(batch).float()
