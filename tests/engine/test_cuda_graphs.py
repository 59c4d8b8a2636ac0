"""Which batches run as graphs, on which stream, and what is cached: here with doubles of CUDA's streams and graphs."""

import threading
import time

import pytest
import torch

from cyclegan_fast.engine.backends import cuda_graphs as graphs
from tests.engine import cuda_double
from tests.engine.cuda_double import Graph, recorded


@pytest.fixture
def cuda(monkeypatch):
    cuda_double.install(monkeypatch)


class Doubled:
    """What is run: twice the input. Tells how often it was set up, computed and captured."""

    def __init__(self):
        self.set_up, self.computed, self.captured = [], 0, 0
        self.full = 0  # how often the memory is not enough

    def prepare(self, input):
        self.set_up.append(tuple(input.shape))
        double = recorded(lambda x: lambda: x * 2)(input)

        def call():  # replays pass it by
            if self.full:
                self.full -= 1
                raise torch.OutOfMemoryError("full")
            self.computed += Graph.recording is None
            self.captured += Graph.recording is not None
            return double()

        return call

    def runner(self, **options):
        return graphs.GraphPerShape(self.prepare, torch.device("cpu"), **options)


def batch(*shape):
    return torch.rand(shape or (2, 3, 8, 8))


def test_a_shape_is_captured_when_it_comes_again(cuda):
    doubled = Doubled()
    runner, results = doubled.runner(), []
    for _ in range(4):
        given = batch()
        results.append((runner.run(given), given))
    for output, given in results:  # each is the caller's own, whatever ran afterwards
        torch.testing.assert_close(output, given * 2, rtol=0, atol=0)
    assert (doubled.computed, doubled.captured, len(doubled.set_up)) == (1, 1, 1)
    runner.run(batch(1, 3, 8, 8))
    assert (doubled.computed, doubled.captured, len(doubled.set_up)) == (2, 1, 2)


def test_all_is_forgotten_when_too_many_shapes_came(cuda):
    doubled = Doubled()
    runner = doubled.runner()
    sizes = [(1, 3, 8, 8 + 4 * i) for i in range(graphs._MAX_SHAPES + 1)]
    for size in (*sizes, sizes[-1], sizes[0]):
        given = batch(*size)
        torch.testing.assert_close(runner.run(given), given * 2, rtol=0, atol=0)
    assert doubled.set_up == [*sizes, sizes[0]] and doubled.captured == 1


def test_graphs_are_given_up_where_memory_is_short(cuda):
    doubled = Doubled()
    runner = doubled.runner()
    runner.run(batch())
    doubled.full = 1
    given = batch(1, 3, 8, 8)
    torch.testing.assert_close(runner.run(given), given * 2, rtol=0, atol=0)
    assert doubled.set_up == [(2, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)]
    doubled.full = 2
    with pytest.raises(torch.OutOfMemoryError):
        runner.run(batch(3, 3, 8, 8))


def test_warming_captures_on_every_stream(cuda):
    doubled = Doubled()
    runner = doubled.runner(streams=3)
    threads = [threading.Thread(target=runner.warm, args=(batch(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert (doubled.computed, doubled.captured, len(doubled.set_up)) == (3, 3, 3)
    runner.close()


def test_streams_run_at_a_time_and_further_threads_wait(cuda):
    at_work, most, lock, faults = 0, 0, threading.Lock(), []

    def prepare(input):
        def call():
            nonlocal at_work, most
            with lock:
                at_work += 1
                most = max(most, at_work)
            time.sleep(0.002)
            with lock:
                at_work -= 1
            return input * 2

        return call

    runner = graphs.GraphPerShape(recorded(prepare), torch.device("cpu"), streams=2)

    def work(seed):
        for i in range(10):
            given = batch(1 + (seed + i) % 20, 3, 8, 8)
            faults.extend([] if torch.equal(runner.run(given), given * 2) else [(seed, i)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and most == 2


@pytest.mark.gpu
def test_graphs_per_shape_on_two_streams():
    device = torch.device("cuda", torch.cuda.current_device())
    weight = torch.rand(3, 3, 3, 3, device=device)
    runner = graphs.GraphPerShape(lambda x: lambda: torch.conv2d(x, weight, padding=1), device, streams=2)
    faults = []

    def work(seed):
        for i in range(20):
            batch = torch.rand(1 + (seed + i) % 3, 3, 16, 16 + 4 * (i % 2))
            with torch.inference_mode():
                output = runner.run(batch if i % 3 else batch.to(device)).cpu()
            apart = (output - torch.conv2d(batch, weight.cpu(), padding=1)).abs().max()
            faults.extend([] if apart < 1e-2 else [(seed, i, apart)])  # TF32

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    runner.close()
