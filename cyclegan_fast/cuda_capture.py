"""Captures of CUDA graphs, after which the process works on even where they fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

Pool = Any  # what torch.cuda.graph_pool_handle returns


@contextlib.contextmanager
def captured(graph: torch.cuda.CUDAGraph, *, pool: Pool, stream: torch.cuda.Stream) -> Iterator[None]:
    """Captures what the block enqueues on `stream`, with memory of `pool`; the caller's stream stays current.

    Other threads may allocate and wait meanwhile: it is this thread's calls alone that the capture watches. No pool can
    be used again whose capture failed.
    """
    capture = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
    try:
        # A capture that fails leaves its own stream current; the outer context restores the caller's.
        with torch.cuda.stream(torch.cuda.current_stream()), capture:
            yield
    except BaseException:
        with contextlib.suppress(RuntimeError):
            _close(pool, stream)
        raise


def _close(pool: Pool, stream: torch.cuda.Stream) -> None:
    """Completes what torch leaves undone where the end of a capture fails.

    Its allocator believes that the capture goes on, keeps the pool, and never reuses what is freed while another stream
    may read it; its generator refuses to draw.

    Raises:
        RuntimeError: The capture did end.
    """
    torch._C._cuda_endAllocateToPool(stream.device_index, pool)
    torch._C._cuda_releasePool(stream.device_index, pool)
    again = torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode="thread_local")
    with torch.cuda.stream(torch.cuda.current_stream()), again:  # the generator leaves a capture where one ends
        torch.zeros((), device=stream.device)
