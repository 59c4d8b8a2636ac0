"""The engine that runs a generator in torch, with our fused operators, and on a GPU as one CUDA graph per shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cyclegan_fast.device import resolve_device
from cyclegan_fast.engine.backends.cuda_graphs import Call, GraphPerShape
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.generator import Generator
from cyclegan_fast.engine.info import EngineInfo, Precision
from cyclegan_fast.engine.threads import threads_on
from cyclegan_fast.errors import UserError

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchBackend(Engine):
    """Runs a generator in torch, channels_last, without any trace of gradients.

    Raises:
        UserError: The device is not there, or the precision cannot be had on it.
    """

    forks_on_one_thread = True

    def __init__(
        self,
        generator: Generator,
        *,
        name: str,
        device: str = "auto",
        precision: Precision | None = None,
        threads: int | None = None,
    ) -> None:
        where, precision = resolve_device(device), precision or "fp32"
        if precision not in _TYPES:
            raise UserError(f"precision {precision} of a checkpoint needs an exported file: {', '.join(_TYPES)} do not")
        if precision == "fp16" and where.type != "cuda":
            raise UserError("fp16 runs on CUDA devices only; on the CPU use bf16 or fp32")
        super().__init__(
            EngineInfo(
                name=name,
                device=str(where),
                precision=precision,
                direction=generator.direction,
                in_format=generator.in_format,
                out_format=generator.out_format,
                limits=generator.limits,
                threads=threads_on(where.type, threads),
            )
        )
        self.dtype = _TYPES[precision]
        self.network: nn.Module = generator.network.to(where, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graphs = (
            GraphPerShape(self._prepare, where, dtype=self.dtype, memory_format=torch.channels_last, convolutions=True)
            if where.type == "cuda"
            else None
        )

    @torch.inference_mode()
    def _compute(self, batch: Tensor) -> Tensor:
        if self._graphs is not None:
            return self._graphs.run(batch)
        return self._prepare(batch.to(self.device, self.dtype, memory_format=torch.channels_last))()

    def _prepare(self, input: Tensor) -> Call:
        return lambda: self.network(input).float()

    @torch.inference_mode()
    def _warm(self, batch: Tensor) -> None:
        if self._graphs is not None:
            self._graphs.warm(batch)

    def _release(self) -> None:
        if self._graphs is not None:
            self._graphs.close()
        del self.network
