"""The mock runtime keeps CUDA's rules: each fault that is planted here is found."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cyclegan_fast import cuda_capture, ops
from cyclegan_fast.errors import UserError
from cyclegan_fast.training import concurrency
from tests.mock_cuda import runtime
from tests.mock_cuda.steps import batch, make_step, warmed_up


def found(*parts: str) -> None:
    """Takes the faults, and checks that they name these."""
    faults = "\n".join(runtime.take_faults())
    assert faults
    for part in parts:
        assert part in faults


class NoFork(concurrency.TwoStreams):
    """The second stream does not wait for the first."""

    def __call__(self, first: Any, second: Any) -> Any:
        current = torch.cuda.current_stream(self.device)
        result = first()
        with torch.cuda.stream(self.stream):
            other = second()
        current.wait_stream(self.stream)
        return result, other


class NoJoin(concurrency.TwoStreams):
    """The first stream does not wait for the second."""

    def __call__(self, first: Any, second: Any) -> Any:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        result = first()
        with torch.cuda.stream(self.stream):
            return result, second()


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (lambda images: torch.cuda.synchronize(), "cudaDeviceSynchronize during a capture"),
        (lambda images: torch.cuda.current_stream().synchronize(), "cudaStreamSynchronize of a stream that is being"),
        (lambda images: images.sum().item(), "cudaStreamSynchronize of a stream that is being captured"),
        (lambda images: bool(images.sum() > 0), "cudaStreamSynchronize of a stream that is being captured"),
        (lambda images: images.cpu(), "Cannot copy between CPU and CUDA tensors"),  # torch refuses these two itself
        (lambda images: torch.tensor(1.0, device="cuda"), "Cannot copy between CPU and CUDA tensors"),
    ],
    ids=["synchronize", "synchronize the stream", "item", "bool", "copy to the host", "copy from the host"],
)
def test_what_waits_for_the_device_breaks_a_capture(fault: Callable[[Any], object], name: str) -> None:
    step = make_step()
    graphed = warmed_up(step, batch)
    step.cycle_A.generator.register_forward_hook(lambda module, inputs, output: (fault(output[0]), None)[1])
    with pytest.raises(UserError, match="could not be captured") as refused:
        graphed(*batch())
    assert torch.cuda.current_stream() == torch.cuda.default_stream() and not graphed.graphs
    assert name in "\n".join([*runtime.take_faults(), str(refused.value)])


@pytest.mark.parametrize(
    ("runner", "name"),
    [
        (NoFork, "outside the graph while its thread captures"),
        (NoJoin, "was forked and never joined"),
    ],
)
def test_streams_that_do_not_wait_for_each_other_break_a_capture(runner: Any, name: str) -> None:
    step = make_step(side_by_side="on")
    planted = runner(step.device)
    step.choose_runner = lambda images: planted
    graphed = warmed_up(step, batch)
    with pytest.raises(UserError, match="could not be captured"):
        graphed(*batch())
    found(name)


def test_work_beside_the_graph_is_found() -> None:
    step = make_step()
    graphed, other, x = warmed_up(step, batch), torch.cuda.Stream(), torch.zeros(3, device="cuda")

    def beside(*_: Any) -> None:
        with torch.cuda.stream(other):
            x.add_(1)

    step.cycle_A.generator.register_forward_hook(beside)
    graphed(*batch())
    found("kernel outside the graph while its thread captures")


def test_an_allocation_beside_the_graph_breaks_a_capture() -> None:
    step = make_step()
    graphed, other = warmed_up(step, batch), torch.cuda.Stream()

    def beside(*_: Any) -> None:
        with torch.cuda.stream(other):
            torch.empty(1 << 30, device="cuda")

    step.cycle_A.generator.register_forward_hook(beside)
    with pytest.raises(UserError, match="could not be captured"):
        graphed(*batch())
    found("cudaMalloc during a capture")


def test_a_launch_on_a_stream_of_another_device_is_refused() -> None:
    """torch makes the device of a tensor current, and our operators do; what did not would end here."""
    x, _ = (torch.zeros(1, 3, 64, 64, device=f"cuda:{i}") for i in range(2))  # both have a context
    with torch.cuda.device(1), runtime.recorded() as calls:
        x.add_(1)
        ops.instance_norm_act(x)
    assert {call.device for call in calls} == {0} and not runtime.take_faults()
    assert runtime.launch("a kernel", torch.cuda.Stream(1).cuda_stream) != 0
    found("a launch on a stream of device 1 while device 0 is current: a kernel")


def test_the_host_cannot_read_device_memory() -> None:
    assert torch.full((3,), 7.0, device="cuda").cpu().tolist() == [0, 0, 0]
    assert torch.full((), 7.0, device="cuda").item() == 1


@pytest.mark.parametrize(("mode", "breaks"), [("thread_local", False), ("global", True)])
def test_whether_other_threads_may_wait_during_a_capture(mode: str, breaks: bool) -> None:
    """They may with the mode that the step and the engines capture with."""
    refused: list[Exception] = []

    def wait() -> None:
        try:
            torch.cuda.default_stream().synchronize()
        except RuntimeError as error:
            refused.append(error)

    graph, stream, x = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.zeros(3, device="cuda")
    pool = torch.cuda.graph_pool_handle()
    capture = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode=mode)
    expected = pytest.raises(RuntimeError, match="previous error") if breaks else contextlib.nullcontext()
    with expected, torch.cuda.stream(torch.cuda.current_stream()), capture:
        x.add_(1)
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    if breaks:
        cuda_capture._close(pool, stream)
    assert len(refused) == breaks and bool(runtime.take_faults()) == breaks


def test_memory_runs_out() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(200 << 30, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_launch_that_fails_names_the_error_the_kernel_and_the_shape(dtype: torch.dtype) -> None:
    x = torch.zeros(1, 256, 64, 64, device="cuda", dtype=dtype)
    on = rf"\[1, 256, 64, 64\] {str(dtype).removeprefix('torch.')}"
    why = rf"could not be launched on {on}: cudaErrorInvalidConfiguration \(invalid configuration argument\)"
    with runtime.refused_launches("resident_kernel"):
        with pytest.raises(RuntimeError, match=f"instance_norm_act: resident_kernel {why}"):
            ops.instance_norm_act(x)
        x.add_(1)  # nothing is left of the error
    with runtime.refused_launches("cyclegan_fast"), pytest.raises(RuntimeError, match=rf"losses: \w+_kernel {why}"):
        ops.l1_mean(x, x)
    ops.instance_norm_act(x)
