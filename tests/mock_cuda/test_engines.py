"""Graphs of engines that several threads use at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cyclegan_fast.config import ModelConfig, PixelFormat
from cyclegan_fast.engine.backends import cuda_graphs
from cyclegan_fast.engine.backends.cuda_graphs import GraphPerShape
from cyclegan_fast.engine.backends.torch import TorchBackend
from cyclegan_fast.engine.generator import Generator
from cyclegan_fast.engine.info import Precision
from cyclegan_fast.nn import build_networks
from tests.mock_cuda import runtime
from tests.mock_cuda.steps import SMALL


def generator(dtype: torch.dtype) -> Callable[[Tensor], Callable[[], Tensor]]:
    network = build_networks(ModelConfig(**SMALL))["G_A"].eval().requires_grad_(False)
    network = network.to("cuda", dtype, memory_format=torch.channels_last)
    return lambda x: lambda: network(x).float()


def run_on_threads(work: Callable[[int], None], count: int = 6) -> None:
    """Runs work(0), work(1) and so on at a time, and raises what one of them raises."""
    errors: list[BaseException] = []

    def guarded(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_threads_share_streams_and_graphs(dtype: torch.dtype) -> None:
    runner = GraphPerShape(
        generator(dtype), torch.device("cuda", 0), dtype=dtype, memory_format=torch.channels_last, streams=2
    )

    def work(seed: int) -> None:
        with torch.inference_mode():
            for i in range(8):
                images = torch.zeros(1 + (seed + i) % 2, 3, 32, 32 + 8 * (i % 2))
                given = images if i % 3 else images.to("cuda")
                assert runner.run(given).shape == (len(images), 3, *images.shape[2:])

    with runtime.recorded() as calls:
        run_on_threads(work)
    replayed = [call for call in calls if call.kind == "graph"]
    assert len({call.stream for call in replayed}) == 2 and len(replayed) >= 6 * 8 - 2 * 4
    runner.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cudnn_measures_for_the_graphs_of_a_torch_engine_alone(precision: Precision) -> None:
    """On a thread of the engine's own, before the capture, never in it; and the process's setting is as before."""
    model, device = ModelConfig(**SMALL), torch.cuda.device_count() - 1
    network = build_networks(model)["G_A"].eval().requires_grad_(False)
    generator = Generator(network, model, "AtoB", PixelFormat(), PixelFormat())
    engine = TorchBackend(generator, name="g", device=f"cuda:{device}", precision=precision)
    seen: list[tuple[bool, bool, bool]] = []

    def look(*_: object) -> None:
        own = threading.current_thread().name.startswith("cyclegan_fast.capture")
        seen.append((own, torch.backends.cudnn.benchmark, runtime.capturing()))
        assert torch.is_inference_mode_enabled() and torch.cuda.current_device() == device

    engine.network.register_forward_pre_hook(look)
    assert not torch.backends.cudnn.benchmark
    for _ in range(2):
        run_on_threads(lambda _: engine.run(torch.zeros(1, 3, 32, 32)), count=3)
    with runtime.recorded() as calls:
        engine.run(torch.zeros(1, 3, 32, 32))
    assert [call.kind for call in calls].count("graph") == 1
    assert seen == [(False, False, False), (True, True, False), (True, False, True)]
    assert not torch.backends.cudnn.benchmark and not runtime.take_faults()
    engine.close()


def test_shapes_are_dropped_while_other_threads_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "_MAX_SHAPES", 2)
    runner = GraphPerShape(generator(torch.float32), torch.device("cuda", 0), streams=3)

    def work(seed: int) -> None:
        with torch.inference_mode():
            for i in range(15):
                images = torch.zeros(1, 3, 16 + 8 * ((seed + i // 3) % 5), 16)
                assert runner.run(images).shape == images.shape

    with runtime.recorded() as calls:
        run_on_threads(work)
    kinds = [call.kind for call in calls]
    assert kinds.count("graph") > 0 and kinds.count("free") > 0
    runner.close()
