"""torch's stream sanitizer on training steps, and what it does not look for: memory that is reused too early.

python -m tests.mock_cuda -m tests.mock_cuda.sanitizer    prints what was found, by case, as JSON

A process of its own: the sanitizer's hooks stay for good.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.cuda import _sanitizer

from cyclegan_fast.training.concurrency import TwoStreams
from cyclegan_fast.training.device_batches import DeviceBatches
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS, GraphedStep
from tests.mock_cuda.steps import batch, make_step


class Reuse(_sanitizer.EventHandler):
    """Notes memory that is given out again while a stream may still use what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.freed: dict[int, list[Any]] = {}  # address -> the accesses since it was allocated
        self.recorded: dict[int, set[int]] = {}  # address -> streams that the allocator waits for
        self.found: list[str] = []

    def _handle_memory_deallocation(self, data_ptr: int) -> None:
        accesses = self.tensors_accessed
        accesses.ensure_tensor_exists(data_ptr)
        write, waited_for = accesses.get_write(data_ptr), self.recorded.pop(data_ptr, set())
        self.freed[data_ptr] = [
            access
            for access in (*accesses.get_reads(data_ptr), *([write] if write else []))
            if not any(self.syncs.is_ordered_after(s, access.seq_num, access.stream) for s in waited_for)
        ]
        super()._handle_memory_deallocation(data_ptr)

    def _handle_memory_allocation(self, data_ptr: int) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        for access in self.freed.pop(data_ptr, []):
            if not self.syncs.is_ordered_after(stream, access.seq_num, access.stream):
                self.found.append(f"reused before {access.operator} on stream {access.stream} has ended")
        super()._handle_memory_allocation(data_ptr)


class Arguments(_sanitizer.ArgumentHandler):
    """Passes over tensors without elements: the sanitizer takes the ids of their Python objects for addresses."""

    def _handle_argument(self, value: Any, *arguments: Any, **options: Any) -> None:
        if not (isinstance(value, torch.Tensor) and value.numel() == 0):
            super()._handle_argument(value, *arguments, **options)


class Sanitizer(_sanitizer.CUDASanitizerDispatchMode):
    """Raises at an access that is not ordered after an earlier one, and notes reuse."""

    def __init__(self) -> None:
        self.reuse = Reuse()
        with mock.patch.object(_sanitizer, "EventHandler", lambda: self.reuse):
            super().__init__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.record_stream.default:
            tensor, stream = args
            handle = torch.cuda.Stream(
                stream_id=stream.stream_id, device_index=stream.device_index, device_type=stream.device_type
            ).cuda_stream
            self.reuse.recorded.setdefault(tensor.untyped_storage().data_ptr(), set()).add(handle)
        with mock.patch.object(_sanitizer, "ArgumentHandler", Arguments):
            return super().__torch_dispatch__(function, types, args, kwargs)


class NoFork(TwoStreams):
    """The second stream does not wait for the first."""

    def __call__(self, first: Callable[[], Any], second: Callable[[], Any]) -> Any:
        current = torch.cuda.current_stream(self.device)
        result = first()
        with torch.cuda.stream(self.stream):
            other = second()
        current.wait_stream(self.stream)
        return result, other


class NoJoin(TwoStreams):
    """The first stream does not wait for the second."""

    def __call__(self, first: Callable[[], Any], second: Callable[[], Any]) -> Any:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        result = first()
        with torch.cuda.stream(self.stream):
            return result, second()


def train(runner: type[TwoStreams] = TwoStreams, *, graphs: bool = False, **settings: Any) -> None:
    """A few steps, fed as the trainer feeds them."""
    step = make_step(**({"side_by_side": "on"} | settings))
    if settings.get("side_by_side") != "off":
        both = runner(step.device)
        step.choose_runner = lambda images: both
    run = GraphedStep(step) if graphs else step

    def source() -> Iterator[dict[str, Any]]:
        while True:
            yield dict(zip("AB", batch(), strict=True))

    batches = DeviceBatches(source(), step.device)
    for _ in range(WARM_UP_STEPS):  # a replay would look like a race: what was captured counts as if it had run then
        images = next(batches)
        _, losses = run(images["A"], images["B"])
        torch.stack(list(losses.values())).sum()


def read_on_another_stream(*, record: bool = False, wait: bool = False) -> None:
    """Frees a tensor that another stream reads, and allocates again."""
    other, current = torch.cuda.Stream(), torch.cuda.current_stream()
    x = torch.zeros(1 << 20, device="cuda")
    other.wait_stream(current)
    with torch.cuda.stream(other):
        x.sum()
    if record:
        x.record_stream(other)
    if wait:
        current.wait_stream(other)
    del x
    torch.zeros(1 << 20, device="cuda")


CASES: dict[str, Callable[[], None]] = {
    "fp32": lambda: train(),
    "bf16": lambda: train(amp="bf16"),
    "fp16": lambda: train(amp="fp16"),
    "one after the other": lambda: train(side_by_side="off"),
    "wgangp": lambda: train(objective={"gan_mode": "wgangp"}),
    "before a capture": lambda: train(graphs=True, amp="bf16"),
    "record_stream": lambda: read_on_another_stream(record=True),
    "wait": lambda: read_on_another_stream(wait=True),
    "no fork": lambda: train(NoFork),
    "no join": lambda: train(NoJoin),
    "freed early": lambda: read_on_another_stream(),
}


def main() -> None:
    found = {}
    with Sanitizer() as sanitizer:
        for name, case in CASES.items():
            sanitizer.reuse.found.clear()
            try:
                case()
                found[name] = sorted(set(sanitizer.reuse.found))
            except _sanitizer.CUDASanitizerErrors as errors:
                found[name] = [" ".join(str(error).split())[:400] for error in errors.errors]
            torch.cuda.synchronize()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
