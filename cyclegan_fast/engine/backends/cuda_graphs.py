"""A CUDA graph for each shape of batch that an engine is given more than once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclegan_fast.cuda_capture import captured
from cyclegan_fast.engine.backends.cudnn import measured_convolutions
from cyclegan_fast.memory import is_out_of_memory

Call = Callable[[], Tensor]
_MAX_SHAPES = 16  # of a stream; each holds its input and its output
# Held by a capture, and by what may synchronise the device, which would break one: another's begin, a library's set-up.
_CAPTURING = threading.Lock()


class GraphPerShape:
    """Runs batches, those of a shape that comes again as a CUDA graph.

    Args:
        prepare: Takes the input of one shape, [N, C, H, W], whose memory stays where it is, and returns a call that
            computes the output anew from what the input holds, on torch's current stream: float32 [N, C', H', W'].
        device: A GPU.
        dtype: Of the inputs.
        memory_format: Of the inputs.
        streams: Batches that run at a time, each on a CUDA stream with graphs of its own; further threads wait.
        convolutions: Whether the calls have convolutions of torch. A graph then holds the algorithms of cuDNN that are
            the fastest by measurement, whatever the process's settings are and whichever thread gives the batch.
    """

    def __init__(
        self,
        prepare: Callable[[Tensor], Call],
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        streams: int = 1,
        convolutions: bool = False,
    ) -> None:
        # torch stores cuDNN's choice for each thread, and the first one for good: a thread that has never run one of
        # these shapes, and lives as long as the graphs, has none but the measured ones.
        self._recorder = ThreadPoolExecutor(1, thread_name_prefix="cyclegan_fast.capture") if convolutions else None
        self._streams = [_GraphStream(prepare, device, dtype, memory_format, self._recorder) for _ in range(streams)]
        self._free: queue.LifoQueue[_GraphStream] = queue.LifoQueue()  # the one used last has graphs already
        for stream in self._streams:
            self._free.put(stream)
        self._warming = threading.Lock()

    def run(self, batch: Tensor) -> Tensor:
        """[N, C, H, W] on any device -> float32 [N, C', H', W'] of the caller's own, on the GPU."""
        stream = self._free.get()
        try:
            return stream.run(batch)
        finally:
            self._free.put(stream)

    def warm(self, batch: Tensor) -> None:
        """Captures the graph of this shape on every stream."""
        with self._warming:  # two that held a stream each would wait for each other
            streams = [self._free.get() for _ in self._streams]
            try:
                for stream in streams:
                    stream.run(batch)
                    stream.run(batch)
            finally:
                for stream in streams:
                    self._free.put(stream)

    def close(self) -> None:
        """Gives all memory back; nothing may run."""
        for stream in self._streams:
            stream.clear()
        if self._recorder is not None:
            self._recorder.shutdown()


@dataclass
class _Shape:
    input: Tensor  # static, [N, C, H, W]
    call: Call
    graph: torch.cuda.CUDAGraph | None = None  # from the second batch on: many shapes come only once
    output: Tensor | None = None  # the graph's, static, float32 [N, C', H', W']
    pinned: Tensor | None = None  # of host memory, for batches that come from there


class _GraphStream:
    """One stream with its graphs, which share their memory: one of them runs at a time."""

    def __init__(
        self,
        prepare: Callable[[Tensor], Call],
        device: torch.device,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        recorder: ThreadPoolExecutor | None,
    ) -> None:
        self._recorder = recorder
        self._prepare, self._device, self._dtype, self._memory_format = prepare, device, dtype, memory_format
        self._stream, self._copied = torch.cuda.Stream(device), torch.cuda.Event()
        self._memory = torch.cuda.graph_pool_handle()
        self._shapes: dict[torch.Size, _Shape] = {}

    def run(self, batch: Tensor) -> Tensor:
        with torch.cuda.device(self._device):
            caller = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                try:
                    result = self._compute(batch)
                except RuntimeError as error:
                    if not self._shapes or not is_out_of_memory(error):
                        raise
                    self.clear()  # what the graphs hold may be enough
                    result = self._compute(batch)
            caller.wait_stream(self._stream)
            result.record_stream(caller)
            return result

    def clear(self) -> None:
        """Forgets all shapes: a pool of graphs gives nothing back as long as one of them lives."""
        with _CAPTURING:  # what frees memory waits for the device
            self._stream.synchronize()
            self._shapes.clear()
            self._memory = torch.cuda.graph_pool_handle()
            torch.cuda.empty_cache()

    def _compute(self, batch: Tensor) -> Tensor:
        try:
            return self._compute_shape(batch)
        except Exception:
            self._shapes.pop(batch.shape, None)  # the next batch of this shape is set up and run before it is captured
            raise

    def _compute_shape(self, batch: Tensor) -> Tensor:
        shape = self._shapes.get(batch.shape)
        if shape is None:
            if len(self._shapes) >= _MAX_SHAPES:
                self.clear()
            shape = self._shapes[batch.shape] = self._set_up(batch.shape)
            self._load(batch, shape)
            return shape.call()
        if shape.graph is None:
            self._capture(shape)
        assert shape.graph is not None and shape.output is not None
        self._load(batch, shape)
        shape.graph.replay()
        return shape.output.clone()

    def _load(self, batch: Tensor, shape: _Shape) -> None:
        if batch.is_cuda:
            shape.input.copy_(batch)
            batch.record_stream(self._stream)
            return
        if shape.pinned is None:
            shape.pinned = torch.empty(batch.shape, dtype=torch.float32, pin_memory=True)
        self._copied.synchronize()  # the copy of the last batch out of the pinned memory has ended
        shape.pinned.copy_(batch)
        shape.input.copy_(shape.pinned.to(self._device, non_blocking=True))
        self._copied.record(self._stream)

    def _set_up(self, size: torch.Size) -> _Shape:
        input = torch.zeros(size, dtype=self._dtype, device=self._device).contiguous(memory_format=self._memory_format)
        with _CAPTURING:
            return _Shape(input, self._prepare(input))

    def _capture(self, shape: _Shape) -> None:
        if self._recorder is None:
            with _CAPTURING:
                self._record(shape)
            return
        done = self._recorder.submit(self._measure_and_record, shape, torch.is_inference_mode_enabled())
        try:
            done.result()
        except BaseException:  # an interrupt of this thread, too: the stream is free when the other one has ended
            wait([done])
            raise

    def _measure_and_record(self, shape: _Shape, inference: bool) -> None:
        """`_record` on the recorder's thread, which has none of the caller's contexts."""
        with (
            torch.inference_mode(inference),
            torch.cuda.device(self._device),
            torch.cuda.stream(self._stream),
            _CAPTURING,
        ):
            with measured_convolutions():
                shape.call()
            self._record(shape)

    def _record(self, shape: _Shape) -> None:
        graph = torch.cuda.CUDAGraph()
        self._stream.synchronize()
        try:
            with captured(graph, pool=self._memory, stream=self._stream):
                shape.output = shape.call()
        except BaseException:
            self._memory = torch.cuda.graph_pool_handle()
            raise
        shape.graph = graph
