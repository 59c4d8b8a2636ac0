"""The step on CUDA: equal to the CPU's, to itself on two streams, and to itself as a graph."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cyclegan_fast.config import ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training import base_step
from cyclegan_fast.training.concurrency import TwoStreams, sequential
from cyclegan_fast.training.device_batches import DeviceBatches
from cyclegan_fast.training.graphed_step import MAX_GRAPHS, WARM_UP_STEPS, GraphedStep
from cyclegan_fast.training.joint_gradients import JointGradients
from cyclegan_fast.training.reduction import GradientReduction
from cyclegan_fast.training.step import CycleGANStep
from tests.training.gradients import recorded_gradients

pytestmark = pytest.mark.gpu

MODEL = ModelConfig(generator="resnet_2blocks", discriminator="n_layers", n_layers=2, ngf=16, ndf=16)
STEPS = 12
Batch = tuple[Tensor, Tensor]


def make_step(networks: nn.ModuleDict, device: str, amp: str = "off", *, micro_batches: int = 1, **run: Any) -> Any:
    nets = copy.deepcopy(networks).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = TrainConfig(
        model=MODEL,
        objective=ObjectiveConfig(pool_size=3, gan_mode=run.pop("gan_mode", "lsgan")),
        optim=OptimConfig(grad_accumulation=micro_batches),
        run=RunConfig(amp=amp, **run),  # type: ignore[arg-type]
    )
    return CycleGANStep(nets, config)


def make_batches(dtype: torch.dtype = torch.float32, batch: int = 1, size: int = 64) -> list[Batch]:
    shape = (batch, 3, size, size)
    return [(torch.rand(shape, dtype=dtype) * 2 - 1, torch.rand(shape, dtype=dtype) * 2 - 1) for _ in range(STEPS)]


def to_gpu(batch: Batch) -> Batch:
    real_A, real_B = (x.cuda().to(memory_format=torch.channels_last) for x in batch)
    return real_A, real_B


def weights_of(step: CycleGANStep) -> list[nn.Parameter]:
    return step.optimizer_G.weights + step.optimizer_D.weights


def assert_same_steps(one: Any, other: Any, batches: list[Batch], *, of: tuple[CycleGANStep, CycleGANStep]) -> None:
    """Both give the same bits of losses, images and weights; a changing rate must reach them."""
    for i, batch in enumerate(batches):
        real = to_gpu(batch)
        for step in of:
            step.set_learning_rate(2e-4 * (1 - i / len(batches)))
        images, expected = one(*real)
        images, expected = ({k: v.clone() for k, v in found.items()} for found in (images, expected))
        images, losses = other(*real)
        for name, value in expected.items():
            assert losses[name].equal(value), f"step {i}: {name} {losses[name].item()} != {value.item()}"
        assert all(images[name].equal(image) for name, image in images.items()), f"step {i}"
    for ours, theirs in zip(*map(weights_of, of), strict=True):
        assert ours.equal(theirs)


@pytest.fixture
def exact_float32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = (
        False,
        True,
        False,
    )
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_first_step_equals_the_cpu(exact_float32: None, dtype: torch.dtype) -> None:
    networks = build_networks(MODEL).to(dtype)
    batch = make_batches(dtype)[0]
    on_cpu, on_gpu = make_step(networks, "cpu"), make_step(networks, "cuda")
    gradients = {step: recorded_gradients(step) for step in (on_cpu, on_gpu)}
    _, expected = on_cpu(*batch)
    _, got = on_gpu(*(x.cuda() for x in batch))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    for name, value in expected.items():
        assert abs(got[name].item() - value.item()) <= tolerance * abs(value.item()), name
    for name in ("optimizer_G", "optimizer_D"):
        got_all, expected_all = (
            torch.cat([gradients[step][w].flatten().cpu() for w in getattr(step, name).weights])
            for step in (on_gpu, on_cpu)
        )
        assert (got_all - expected_all).norm() <= 10 * tolerance * expected_all.norm()


@pytest.mark.parametrize(
    ("amp", "gan_mode", "micro_batches"),
    [("off", "lsgan", 1), ("bf16", "lsgan", 1), ("fp16", "lsgan", 1), ("off", "lsgan", 2), ("off", "hinge", 1)],
)
def test_two_streams_change_no_bit(exact_float32: None, amp: str, gan_mode: str, micro_batches: int) -> None:
    networks = build_networks(MODEL)
    settings = {"micro_batches": micro_batches, "gan_mode": gan_mode}
    alone = make_step(networks, "cuda", amp, side_by_side="off", **settings)
    beside = make_step(networks, "cuda", amp, side_by_side="on", **settings)
    assert alone.choose_runner(torch.empty(1, 3, 64, 64)) is sequential
    assert isinstance(beside.choose_runner(torch.empty(1, 3, 64, 64)), TwoStreams)
    beside.joint = JointGradients([])  # one weight gradient for both passes is summed in another order
    assert_same_steps(alone, beside, make_batches(batch=2 * micro_batches), of=(alone, beside))


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_joint_passes_give_the_same_gradients(exact_float32: None, amp: str) -> None:
    networks = build_networks(MODEL)
    joint, separate = (make_step(networks, "cuda", amp, side_by_side="on") for _ in "ab")
    assert joint.joint.passes
    separate.joint = JointGradients([])
    gradients = {step: recorded_gradients(step) for step in (joint, separate)}
    batch = to_gpu(make_batches()[0])
    for step in (joint, separate):
        step(*batch)
    got, expected = (
        torch.cat([gradients[step][w].flatten().float() for w in step.optimizer_G.weights])
        for step in (joint, separate)
    )
    assert (got - expected).norm() <= (1e-4 if amp == "off" else 2e-2) * expected.norm()


def test_two_streams_draw_the_same_random_numbers(exact_float32: None) -> None:
    """wgangp mixes at random, and its penalty differentiates twice."""
    networks, losses = build_networks(MODEL), []
    for side_by_side in ("off", "on"):
        step = make_step(networks, "cuda", side_by_side=side_by_side, gan_mode="wgangp")
        torch.manual_seed(5)
        losses.append([step(*to_gpu(batch))[1] for batch in make_fixed_batches()])
    for i, (one, other) in enumerate(zip(*losses, strict=True)):
        for name, value in one.items():
            assert torch.allclose(other[name], value, rtol=1e-4), f"step {i}: {name}"


def make_fixed_batches() -> list[Batch]:
    state = torch.get_rng_state()
    torch.manual_seed(9)
    batches = make_batches(batch=2)[:4]
    torch.set_rng_state(state)
    return batches


@pytest.mark.parametrize("side_by_side", ["off", "on"])
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_graph_equals_eager_bit_for_bit(exact_float32: None, amp: str, side_by_side: str) -> None:
    networks = build_networks(MODEL)
    eager, captured = (make_step(networks, "cuda", amp, side_by_side=side_by_side) for _ in "ab")
    graphed = GraphedStep(captured)
    assert_same_steps(eager, graphed, make_batches(), of=(eager, captured))
    assert len(graphed.graphs) == 1


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A group of this process alone, whose reductions are NCCL's and change nothing."""
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1, device_id=torch.device("cuda", 0))
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("side_by_side", ["off", "on"])
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_graph_with_the_reductions_of_ranks_changes_no_bit(
    exact_float32: None, one_rank: None, amp: str, side_by_side: str
) -> None:
    networks = build_networks(MODEL)
    alone, captured = (make_step(networks, "cuda", amp, side_by_side=side_by_side) for _ in "ab")
    captured.reduction = GradientReduction()
    graphed = GraphedStep(captured)
    assert_same_steps(alone, graphed, make_batches(), of=(alone, captured))
    assert len(graphed.graphs) == 1


def test_micro_batches_in_a_graph(exact_float32: None) -> None:
    networks = build_networks(MODEL)
    eager, captured = (make_step(networks, "cuda", micro_batches=3) for _ in "ab")
    graphed = GraphedStep(captured)
    assert_same_steps(eager, graphed, make_batches(batch=6), of=(eager, captured))
    assert len(graphed.graphs) == 1


def test_every_shape_of_batch_gets_its_own_graph(exact_float32: None) -> None:
    """Their memory is shared, and they take turns in another order than that of their captures."""
    networks = build_networks(MODEL)
    eager, captured = (make_step(networks, "cuda") for _ in "ab")
    graphed = GraphedStep(captured)
    full, last = make_batches(batch=3), make_batches(batch=2)
    mixed = [batch for pair in zip(full, last, strict=True) for batch in pair] + last[::-1] + full[::-1]
    assert_same_steps(eager, graphed, mixed, of=(eager, captured))
    assert len(graphed.graphs) == 2


def test_too_many_shapes_are_an_error() -> None:
    graphed = GraphedStep(make_step(build_networks(MODEL), "cuda"))
    batches = [make_batches(batch=n + 1)[0] for n in range(MAX_GRAPHS + 1)]
    for batch in batches[:-1] * (WARM_UP_STEPS + 1):
        graphed(*to_gpu(batch))
    assert len(graphed.graphs) == MAX_GRAPHS
    with pytest.raises(UserError, match=rf"more than {MAX_GRAPHS} shapes.*\[5, 3, 64, 64\].*leave it out"):
        graphed(*to_gpu(batches[-1]))


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_capture_that_fails_is_an_error(amp: str) -> None:
    """A convolution that waits for the device cannot be captured."""
    step = make_step(build_networks(MODEL), "cuda", amp)
    step.cycle_A.generator.register_forward_hook(lambda *_: torch.cuda.synchronize())
    graphed, batches = GraphedStep(step), make_batches()
    for batch in batches[:WARM_UP_STEPS]:
        graphed(*to_gpu(batch))
    with pytest.raises(UserError, match="could not be captured"):
        graphed(*to_gpu(batches[WARM_UP_STEPS]))
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_evaluation_between_replays_changes_nothing(exact_float32: None) -> None:
    networks = build_networks(MODEL)
    eager, captured = (make_step(networks, "cuda") for _ in "ab")
    graphed = GraphedStep(captured)

    def with_evaluation(*real: Tensor) -> Any:
        out = graphed(*real)
        copies = [{name: value.clone() for name, value in found.items()} for found in out]
        with torch.inference_mode():
            for size in (64, 96, 128):
                captured.cycle_A.generator(torch.rand(2, 3, size, size, device="cuda"))
        assert all(out[0][name].equal(value) for name, value in copies[0].items()), "static images were overwritten"
        return copies

    assert_same_steps(eager, with_evaluation, make_batches(), of=(eager, captured))
    assert len(graphed.graphs) == 1


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_no_step_waits_for_the_device(amp: str) -> None:
    """Neither an eager step nor a replay reads anything back."""
    step = make_step(build_networks(MODEL), "cuda", amp)
    graphed = GraphedStep(step)
    batches = [to_gpu(batch) for batch in make_batches()]
    for batch in batches[: WARM_UP_STEPS + 1]:
        graphed(*batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            step(*batch)
            graphed(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_loss_scale_lives_in_the_graph(exact_float32: None) -> None:
    """An overflow inside a replay halves the scale, moves nothing, and the next replay goes on with the new scale."""
    step = make_step(build_networks(MODEL), "cuda", "fp16")
    graphed = GraphedStep(step)
    batches = [to_gpu(batch) for batch in make_batches()]
    for batch in batches[:6]:
        graphed(*batch)
    scale, before = step.scaler.get_scale(), [w.detach().clone() for w in weights_of(step)]
    bad = torch.full((1, 3, 64, 64), float("inf"), device="cuda")
    graphed(bad, bad)
    assert step.scaler.get_scale() == scale / 2
    assert all(w.equal(b) for w, b in zip(weights_of(step), before, strict=True))
    graphed(*batches[6])
    assert step.scaler.get_scale() == scale / 2
    assert not all(w.equal(b) for w, b in zip(weights_of(step), before, strict=True))


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_weights_that_are_loaded_between_replays_are_read(exact_float32: None, amp: str) -> None:
    """A graph reads working weights; a step before them rounds them anew."""
    networks, others = build_networks(MODEL), build_networks(MODEL)
    eager, captured = (make_step(networks, "cuda", amp) for _ in "ab")
    graphed = GraphedStep(captured)
    assert_same_steps(eager, graphed, make_batches(), of=(eager, captured))
    for step in (eager, captured):
        step.networks.load_state_dict(others.state_dict())
    assert_same_steps(eager, graphed, make_batches(), of=(eager, captured))
    for working in captured.optimizer_G.working + captured.optimizer_D.working:
        assert working.rounded.equal(working.weight.to(working.rounded.dtype))


def test_working_weights_are_what_autocast_would_cast(exact_float32: None, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, batches = build_networks(MODEL), make_batches()
    working = make_step(networks, "cuda", "bf16")
    monkeypatch.setattr(base_step, "reads_working_weights", lambda config, device: False)
    casting = make_step(networks, "cuda", "bf16")
    assert all(w is not None for w in working.optimizer_G.working) and not any(casting.optimizer_G.working)
    for i, batch in enumerate(batches[:3]):
        losses, expected = (step(*to_gpu(batch))[1] for step in (working, casting))
        for name, value in expected.items():
            limit = 1e-2 if i else 0.0  # the first forward pass is the same, bit for bit
            assert abs(losses[name].item() - value.item()) <= limit * abs(value.item()), f"step {i}: {name}"


def test_a_resumed_step_continues_inside_a_graph(exact_float32: None) -> None:
    networks, batches = build_networks(MODEL), make_batches()
    straight = make_step(networks, "cuda")
    for batch in batches[:4]:
        straight(*(x.cuda() for x in batch))
    resumed = make_step(straight.networks, "cuda")
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    graphed = GraphedStep(resumed)
    for i, batch in enumerate(batches[4:]):
        real = tuple(x.cuda() for x in batch)
        for step in (straight, resumed):
            step.set_learning_rate(1e-4 / (i + 1))
        _, expected = straight(*real)
        _, losses = graphed(*real)
        assert all(losses[name].equal(expected[name]) for name in expected), f"step {i}"


def test_a_loss_that_is_not_finite_leaves_the_weights_untouched_inside_a_graph() -> None:
    step = make_step(build_networks(MODEL), "cuda", "bf16")
    graphed = GraphedStep(step)
    for batch in make_batches()[:6]:
        graphed(*(x.cuda() for x in batch))
    before = [w.detach().clone() for w in weights_of(step)]
    bad = torch.full((1, 3, 64, 64), float("nan"), device="cuda")
    _, losses = graphed(bad, bad)
    assert not losses["cycle_A"].isfinite()
    assert all(w.equal(b) for w, b in zip(weights_of(step), before, strict=True))


def test_one_cycle_after_the_other_needs_much_less_memory() -> None:
    peaks = []
    for side_by_side in ("on", "off"):
        torch.cuda.empty_cache()
        others = torch.cuda.memory_reserved()
        step = make_step(build_networks(MODEL), "cuda", side_by_side=side_by_side)
        batch = to_gpu(make_batches(batch=4, size=256)[0])
        for _ in range(2):
            step(*batch)
        torch.cuda.synchronize()
        # Reserved: what is allocated leaves out the blocks that one stream freed and the other may not have yet.
        peaks.append(torch.cuda.memory_reserved() - others)
        del step, batch
    assert peaks[1] < 0.75 * peaks[0]


def test_device_batches_keep_every_batch_whole() -> None:
    """What is made on the copy's stream is ready when it is read, and not overwritten before."""

    def batches() -> Iterator[dict[str, Any]]:
        for i in itertools.count():
            side = torch.full((4, 3, 512, 512), float(i)).pin_memory()
            yield {"A": side.to("cuda", non_blocking=True), "B": 2 * side.to("cuda", non_blocking=True)}

    heavy = torch.rand(2048, 2048, device="cuda")
    found = []
    for i, batch in zip(range(20), DeviceBatches(batches(), torch.device("cuda")), strict=False):
        heavy = (heavy @ heavy).clamp(-1, 1)  # the GPU falls behind the host
        found.append((batch["A"] - i).abs().max() + (batch["B"] - 2 * i).abs().max())
    assert not torch.stack(found).any()


def test_only_the_gpus_own_wait_counts() -> None:
    def batches() -> Iterator[dict[str, Any]]:
        while True:
            time.sleep(0.02)  # a loader that needs 20 ms a batch
            yield {side: torch.zeros(8, device="cuda") for side in "AB"}

    def waited(work: int) -> float:
        """Share of the time waited with so much work between the batches."""
        heavy = torch.rand(4096, 4096, device="cuda")
        batches_on_gpu = DeviceBatches(batches(), torch.device("cuda"))
        next(batches_on_gpu)
        torch.cuda.synchronize()
        batches_on_gpu.waited()
        began = time.perf_counter()
        for _ in range(20):
            for _ in range(work):
                heavy = (heavy @ heavy).clamp(-1, 1)
            next(batches_on_gpu)
        torch.cuda.synchronize()
        share = batches_on_gpu.waited() / (time.perf_counter() - began)
        assert not batches_on_gpu.uncounted
        return share

    assert waited(work=0) > 0.5  # the GPU had nothing to do
    assert waited(work=40) < 0.5  # the host slept, the GPU did not
