"""Stands for CUDA's streams, events and graphs where there is no GPU; the host's memory is that of the device."""

import contextlib
import threading

import torch

STREAM = 7  # the handle of every stream: none of the default ones, 0 to 2


class Graph:
    """Computes what was captured anew when it is replayed."""

    recording = None  # the one whose capture goes on, in `thread`: calls of other threads are not captured
    thread = None

    def replay(self):
        self.output.copy_(self.compute())


class Stream:
    cuda_stream = STREAM
    device_index, device = 0, torch.device("cpu")

    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass

    def synchronize(self):
        pass


class Event:
    def record(self, stream):
        pass

    def synchronize(self):
        pass


@contextlib.contextmanager
def capture(graph, **_):
    assert Graph.recording is None, "two captures at a time"
    Graph.recording, graph.thread = graph, threading.get_ident()
    try:
        yield
    finally:
        Graph.recording = None


def recording():
    """The graph that captures what this thread does, if one does."""
    graph = Graph.recording
    return graph if graph is not None and graph.thread == threading.get_ident() else None


def recorded(prepare):
    """`prepare` as for `GraphPerShape`, of calls that a graph's double can replay: what CUDA sees by itself."""

    def of(taken):
        call = prepare(taken)

        def watched():
            output, graph = call(), recording()
            if graph is not None:
                graph.output, graph.compute = output, call
            return output

        return watched

    return of


def install(monkeypatch):
    empty = torch.empty
    for name, double in {
        "Stream": Stream, "Event": Event, "CUDAGraph": Graph, "graph": capture, "graph_pool_handle": object,
        "device": lambda _: contextlib.nullcontext(), "stream": lambda _: contextlib.nullcontext(),
        "current_stream": Stream, "empty_cache": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, double)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):  # after a capture that failed
        monkeypatch.setattr(torch._C, name, lambda *_: None, raising=False)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None, raising=False)
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **options: empty(*size, **options))
    monkeypatch.setattr(Graph, "recording", None)
