"""The engine that runs a generator in torch, with our fused operators, and on a GPU as one CUDA graph per shape."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cyclegan_fast.device import resolve_device
from cyclegan_fast.engine.backends import Engine, Precision
from cyclegan_fast.engine.generator import Generator
from cyclegan_fast.errors import UserError

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MOST_GRAPHS = 16  # kept at a time; each holds the activations of its shape


class TorchBackend(Engine):
    """Runs a generator in torch, channels_last, without any trace of gradients.

    Raises:
        UserError: The device is not there, or the precision cannot be had on it.
    """

    def __init__(
        self, generator: Generator, *, name: str, device: str = "auto", precision: Precision | None = None
    ) -> None:
        where, precision = resolve_device(device), precision or "fp32"
        if precision not in _TYPES:
            raise UserError(f"precision {precision} of a checkpoint needs an exported file: {', '.join(_TYPES)} do not")
        if precision == "fp16" and where.type != "cuda":
            raise UserError("fp16 runs on CUDA devices only; on the CPU use bf16 or fp32")
        super().__init__(
            name=name,
            device=str(where),
            precision=precision,
            direction=generator.direction,
            in_form=generator.in_form,
            out_form=generator.out_form,
            multiple=generator.multiple,
            smallest=generator.smallest,
        )
        self.dtype = _TYPES[precision]
        self.network: nn.Module = generator.network.to(where, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graphs = _Graphs(self.network, where) if where.type == "cuda" else None

    @torch.inference_mode()
    def _compute(self, batch: Tensor) -> Tensor:
        batch = batch.to(self.device, self.dtype, memory_format=torch.channels_last)
        if self._graphs is not None:
            return self._graphs.run(batch)
        return self.network(batch).float()

    def _release(self) -> None:
        del self.network
        self._graphs = None


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    taken: Tensor  # static, [N, C, H, W]
    made: Tensor  # static, float32 [N, C', H, W]


class _Graphs:
    """A CUDA graph for each shape that came, the least used ones given up; one replay at a time."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network, self._device = network, device
        self._stream = torch.cuda.Stream(device)
        self._memory = torch.cuda.graph_pool_handle()  # shared: one graph replays at a time, and its result is copied
        self._graphs: OrderedDict[torch.Size, _Graph] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, batch: Tensor) -> Tensor:
        """[N, C, H, W] on the device, in the network's type -> float32 [N, C', H, W] of the caller's own."""
        with self._lock, torch.cuda.device(self._device):
            caller = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                graph = self._graph_for(batch)
                graph.taken.copy_(batch)
                batch.record_stream(self._stream)
                graph.graph.replay()
                result = graph.made.clone()
            caller.wait_stream(self._stream)
            result.record_stream(caller)
            return result

    def _graph_for(self, batch: Tensor) -> _Graph:
        if batch.shape not in self._graphs:
            while len(self._graphs) >= _MOST_GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[batch.shape] = self._capture(batch)
        self._graphs.move_to_end(batch.shape)
        return self._graphs[batch.shape]

    def _capture(self, batch: Tensor) -> _Graph:
        taken = batch.clone(memory_format=torch.channels_last)
        for _ in range(2):  # lets cuDNN choose its algorithms, outside of the graph
            self._network(taken)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile: it is this thread's calls alone that the capture watches.
        with torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"):
            made = self._network(taken).float()
        return _Graph(graph, taken, made)
