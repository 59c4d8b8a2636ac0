"""A CUDA graph for each shape of batch that an engine is given."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Call = Callable[[], Tensor]
_MOST_GRAPHS = 16  # of a lane; each holds the memory of its shape
_CAPTURING = threading.Lock()  # one capture at a time: its begin synchronises the device


class GraphPerShape:
    """Runs batches as CUDA graphs, one for each shape that came; the least used ones are given up.

    Args:
        prepare: Takes the input of one shape, [N, C, H, W], whose memory stays where it is, and returns a call that
            computes the output anew from what the input holds, on torch's current stream: float32 [N, C', H, W].
        device: A GPU.
        dtype: Of the inputs.
        memory_format: Of the inputs.
        lanes: Batches that run at a time, each on a stream of its own; further threads wait. Each has its own graphs.
    """

    def __init__(
        self,
        prepare: Callable[[Tensor], Call],
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        lanes: int = 1,
    ) -> None:
        self._free: queue.LifoQueue[_Lane] = queue.LifoQueue()  # the one used last has graphs already
        for _ in range(lanes):
            self._free.put(_Lane(prepare, device, dtype, memory_format))

    def run(self, batch: Tensor) -> Tensor:
        """[N, C, H, W] on any device -> float32 [N, C', H, W] of the caller's own, on the GPU."""
        lane = self._free.get()
        try:
            return lane.run(batch)
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """Gives all memory back; nothing may run."""
        while not self._free.empty():
            self._free.get().close()


@dataclass
class _Graph:
    call: Call  # holds what the graph works on
    taken: Tensor  # static, [N, C, H, W]
    made: Tensor  # static, float32 [N, C', H, W]
    graph: torch.cuda.CUDAGraph
    pinned: Tensor | None = None  # of host memory, for batches that come from there


class _Lane:
    """One stream with its graphs, which share their memory: one of them runs at a time."""

    def __init__(
        self,
        prepare: Callable[[Tensor], Call],
        device: torch.device,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
    ) -> None:
        self._prepare, self._device, self._dtype, self._memory_format = prepare, device, dtype, memory_format
        self._stream, self._uploaded = torch.cuda.Stream(device), torch.cuda.Event()
        self._memory = torch.cuda.graph_pool_handle()
        self._graphs: OrderedDict[torch.Size, _Graph] = OrderedDict()

    def run(self, batch: Tensor) -> Tensor:
        with torch.cuda.device(self._device):
            caller = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                graph = self._graph_for(batch.shape)
                self._load(batch, graph)
                graph.graph.replay()
                result = graph.made.clone()
            caller.wait_stream(self._stream)
            result.record_stream(caller)
            return result

    def close(self) -> None:
        self._stream.synchronize()
        self._graphs.clear()

    def _load(self, batch: Tensor, graph: _Graph) -> None:
        if batch.is_cuda:
            graph.taken.copy_(batch)
            batch.record_stream(self._stream)
            return
        if graph.pinned is None:
            graph.pinned = torch.empty(batch.shape, dtype=torch.float32, pin_memory=True)
        self._uploaded.synchronize()  # the last batch has left the pinned memory
        graph.pinned.copy_(batch)
        graph.taken.copy_(graph.pinned.to(self._device, non_blocking=True))
        self._uploaded.record(self._stream)

    def _graph_for(self, shape: torch.Size) -> _Graph:
        if shape not in self._graphs:
            while len(self._graphs) >= _MOST_GRAPHS:
                self._stream.synchronize()
                self._graphs.popitem(last=False)
            self._graphs[shape] = self._capture(shape)
        self._graphs.move_to_end(shape)
        return self._graphs[shape]

    def _capture(self, shape: torch.Size) -> _Graph:
        taken = torch.zeros(shape, dtype=self._dtype, device=self._device).contiguous(memory_format=self._memory_format)
        call = self._prepare(taken)
        for _ in range(2):  # lets libraries choose their algorithms, outside of the graph
            call()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile: it is this thread's calls alone that the capture watches.
        watched = torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local")
        with _CAPTURING, watched:
            made = call()
        return _Graph(call, taken, made, graph)
