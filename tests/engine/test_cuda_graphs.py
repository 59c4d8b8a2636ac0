"""Which batches run as graphs, on which stream, and what is cached: here with doubles of CUDA's streams and graphs."""

import threading
import time
from unittest.mock import Mock

import pytest
import torch

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.engine import ShapeLimits
from cyclegan_fast.engine.backends import cuda_graphs as graphs
from tests.engine import cuda_double
from tests.engine.cuda_double import Graph, recorded, recording


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


class Choices:
    """What cuDNN would do in torch: each thread chooses for a shape once, by measurement or not, and keeps that."""

    def __init__(self):
        self.chosen, self.captured, self.faults = {}, [], []

    def prepare(self, input):
        def call():
            key = threading.current_thread(), tuple(input.shape)  # not its number, which another may get after it
            by = "measured" if torch.backends.cudnn.benchmark else "guessed"
            if recording() is not None:
                if key not in self.chosen and by == "measured":
                    raise RuntimeError("operation not permitted when stream is capturing")
                self.captured.append(self.chosen.get(key, by))
            self.chosen.setdefault(key, by)
            return input * 2

        return recorded(lambda _: call)(input)

    def runner(self, **options):
        return graphs.GraphPerShape(self.prepare, torch.device("cpu"), convolutions=True, **options)


@pytest.fixture
def host(cuda, monkeypatch):
    """torch's settings as a host application has them."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    return torch.backends.cudnn


def on_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("setting", [False, True])
def test_a_graph_holds_the_measured_algorithms_whichever_thread_comes(host, setting):
    host.benchmark = setting
    choices = Choices()
    runner = choices.runner(streams=2)
    runner.run(batch())  # chooses for this thread as the host wants it
    runner.run(batch())
    on_a_thread(lambda: runner.run(batch(1, 3, 8, 8)))
    on_a_thread(lambda: runner.run(batch(1, 3, 8, 8)))
    runner.warm(batch(3, 3, 8, 8))
    assert choices.captured == ["measured"] * 4 and host.benchmark is setting
    runner.close()


@pytest.mark.parametrize(
    ("owner", "setting", "value"),
    [
        (torch.backends.cudnn, "deterministic", True),
        (torch, "are_deterministic_algorithms_enabled", lambda: True),
        (torch.backends, "flags_frozen", lambda: True),
    ],
    ids=["cudnn", "everywhere", "frozen"],
)
def test_a_host_that_wants_determinism_or_froze_its_settings_gets_that(host, monkeypatch, owner, setting, value):
    monkeypatch.setattr(owner, setting, value)
    choices = Choices()
    choices.runner().warm(batch())
    assert choices.captured == ["guessed"]


def test_the_hosts_setting_is_restored_whatever_happens(host):
    seen, full = [], [True]

    def prepare(input):
        def call():
            seen.append(torch.backends.cudnn.benchmark)
            if threading.current_thread() is not threading.main_thread() and full:
                full.clear()
                raise ValueError("no algorithm")
            return input * 2

        return recorded(lambda _: call)(input)

    runner = graphs.GraphPerShape(prepare, torch.device("cpu"), convolutions=True)
    runner.run(batch())
    with pytest.raises(ValueError, match="no algorithm"):
        runner.run(batch())
    assert seen == [False, True] and host.benchmark is False
    runner.warm(batch())  # works again
    assert host.benchmark is False and True in seen[2:]


def test_engines_of_many_threads_leave_the_setting_as_it_was(host):
    choices, faults = Choices(), []
    runners = [choices.runner() for _ in range(4)]

    def work(runner):
        for i in range(6):
            runner.warm(batch(1 + i, 3, 8, 8))
        faults.extend([] if set(choices.captured) == {"measured"} else [choices.captured])

    threads = [threading.Thread(target=work, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == [] and len(choices.captured) == 24 and host.benchmark is False


def test_a_torch_engine_on_a_gpu_measures(host, monkeypatch):
    from cyclegan_fast.engine.backends import torch as torch_backend

    asked = []
    monkeypatch.setattr(torch_backend, "resolve_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(torch_backend, "GraphPerShape", lambda *_, **options: asked.append(options["convolutions"]))
    generator = Mock(limits=ShapeLimits(), direction="AtoB", in_format=PixelFormat(), out_format=PixelFormat())
    torch_backend.TorchBackend(generator, name="g")
    assert asked == [True]


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
