"""Several processes that train together: what two of them compute is what one computes of twice the batch."""

from __future__ import annotations

import dataclasses
import datetime
import re
import socket
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.config import ModelConfig, ModelName, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training import step as training_step
from cyclegan_fast.training.adam import Gradients
from cyclegan_fast.training.base_step import GENERATOR_PARTS, TrainingStep, _cut_evenly
from cyclegan_fast.training.joint_gradients import JointGradients
from cyclegan_fast.training.meeting import Place, find_place, meet
from cyclegan_fast.training.models import build_step
from cyclegan_fast.training.position import Position, steps_ahead
from cyclegan_fast.training.ranks import Ranks
from cyclegan_fast.training.reduction import GradientReduction
from cyclegan_fast.training.roll_call import RankError, RollCall
from tests.training.ranks import ended, free_port, started
from tests.training.test_step import relative_error

MODEL = ModelConfig(generator="resnet_1blocks", discriminator="n_layers", n_layers=1, ngf=4, ndf=4)
STEPS, SEEDS = 20, 3
Found = dict[str, Tensor]


# ---- The step.
@dataclass(frozen=True)
class Case:
    """Twenty steps of one precision."""

    dtype: torch.dtype
    eps: float
    micro_batches: int = 1
    seed: int = 1
    model: ModelName = "cyclegan"


EXACT = [
    Case(torch.float64, 1e-8),
    Case(torch.float64, 1e-8, micro_batches=2),
    Case(torch.float64, 1e-8, model="pix2pix"),
]
# Adam's epsilon is large: with a small one its move is the sign of a gradient, which rounding may decide.
ROUNDED = [Case(torch.float32, 1e-2, seed=seed) for seed in range(SEEDS)]


def make_step(case: Case, batch_size: int = 1, side_by_side: Literal["on", "off"] = "off") -> TrainingStep:
    config = TrainConfig(
        model=dataclasses.replace(MODEL, model=case.model),
        objective=ObjectiveConfig(pool_size=0),
        optim=OptimConfig(eps=case.eps, batch_size=batch_size, grad_accumulation=case.micro_batches),
        run=RunConfig(side_by_side=side_by_side),
    )
    torch.manual_seed(0)
    networks = build_networks(config.model).to(case.dtype)
    return build_step(networks.to(memory_format=torch.channels_last), config)  # type: ignore[call-overload]


def twenty_steps(case: Case, step: TrainingStep, rank: int | None = None) -> Found:
    """Trains on the images of a rank, or on those of both; returns each loss, and weights and moments at the end."""
    torch.manual_seed(case.seed)
    images = torch.rand(STEPS, 2, 2 * case.micro_batches, 3, 16, 16, dtype=torch.float64) * 2 - 1
    chosen = slice(None) if rank is None else slice(rank * case.micro_batches, (rank + 1) * case.micro_batches)
    found = {}
    for i, batch in enumerate(images.to(case.dtype)):
        losses = step(*batch[:, chosen])[1]
        found |= {f"step {i}: {name}": loss.clone() for name, loss in losses.items()}
    for name, optimizer in (("G", step.optimizer_G), ("D", step.optimizer_D)):
        for kind in ("weights", "exp_avg", "exp_avg_sq"):
            found[f"{kind} of {name}"] = torch.cat([w.detach().flatten() for w in getattr(optimizer, kind)])
    return found


class Noted(GradientReduction):
    """Notes how many reductions each step begins, and how many weight gradients are not computed yet at each."""

    def __init__(self, joint: JointGradients, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.joint = joint
        self.begun_by_step: list[int] = []
        self.to_compute: list[int] = []

    def begin(self, weights: Sequence[Tensor], *gradients: Gradients) -> Gradients:
        before = len(self.works)
        found = super().begin(weights, *gradients)
        if len(self.works) > before:
            self.to_compute.append(sum(len(passes._deferred) for passes in self.joint.passes.values()))
        return found

    def mean_of(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        found = super().mean_of(values)  # the last of a step
        self.begun_by_step.append(len(self.works))
        return found


def steps_of_rank(folder: str) -> None:
    place = find_place()
    with Ranks(place, torch.device("cpu"), 60.0) as ranks:
        for i, case in enumerate(EXACT + ROUNDED):
            step = make_step(case)
            step.reduction = GradientReduction(ranks.connected)
            torch.save(twenty_steps(case, step, place.rank), f"{folder}/case_{i}_{place.rank}.pt")

        step = make_step(EXACT[0])
        step.reduction = GradientReduction(ranks.connected)
        before = weights(step)
        images = torch.zeros(1, 3, 16, 16, dtype=torch.float64) + (torch.nan if place.rank else 0)
        losses = step(torch.zeros_like(images), images)[1]
        torch.save((before, weights(step), torch.stack(list(losses.values()))), f"{folder}/nan_{place.rank}.pt")

        if ops.extension_available():  # the passes of a generator are joined on GPUs alone
            with mock.patch.object(training_step, "joins_passes", lambda *_: True):
                step = make_step(EXACT[0])
            assert isinstance(step, training_step.CycleGANStep)
            step.reduction = Noted(step.joint, ranks.connected)
            torch.save(twenty_steps(EXACT[0], step, place.rank), f"{folder}/joined_{place.rank}.pt")
            assert step.reduction.begun_by_step == [2 + GENERATOR_PARTS + 1] * STEPS, "discriminators, parts, losses"
            for i in range(0, len(step.reduction.to_compute), 2 + GENERATOR_PARTS):
                left = step.reduction.to_compute[i + 1 : i + 2 + GENERATOR_PARTS]
                assert left == sorted(set(left), reverse=True) and left[-1] == 0, "each as soon as it is computed"

        torch.set_num_threads(2)  # one runs both cycles side by side, as its host or its images may want it
        step = make_step(EXACT[0], side_by_side="on" if place.rank else "off")
        step.reduction = GradientReduction(ranks.connected)
        torch.save(twenty_steps(EXACT[0], step, place.rank), f"{folder}/threads_{place.rank}.pt")


def weights(step: TrainingStep) -> Tensor:
    return torch.cat([w.detach().flatten() for w in step.networks.parameters()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both have found."""
    folder = tmp_path_factory.mktemp("steps")
    with started(folder, steps_of_rank, [str(folder)], [str(folder)]) as ranks:
        for done in ended(ranks):
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def of_two_ranks(folder: Path) -> dict[Case, Found]:
    """The twenty steps, which are the same on both."""
    found = {}
    for i, case in enumerate(EXACT + ROUNDED):
        found[case], other = (torch.load(folder / f"case_{i}_{rank}.pt") for rank in range(2))
        assert all(found[case][name].equal(value) for name, value in other.items()), "the ranks differ"
    return found


def farthest(got: Found, expected: Found, of: str = "") -> tuple[float, str]:
    """The largest relative error among what has a name of these."""
    assert got.keys() == expected.keys()
    return max((relative_error(got[name], value), name) for name, value in expected.items() if re.match(of, name))


@pytest.mark.parametrize("case", EXACT, ids=["", "micro-batches", "pix2pix"])
def test_in_float64_twenty_steps_of_two_ranks_are_those_of_one_process_with_both_batches(
    of_two_ranks: dict[Case, Found], case: Case
) -> None:
    error, name = farthest(of_two_ranks[case], twenty_steps(case, make_step(case, batch_size=2)))
    assert error <= 1e-9, name


def test_in_float32_twenty_steps_of_two_ranks_are_those_of_one_process_with_both_batches(
    of_two_ranks: dict[Case, Found],
) -> None:
    """A ReLU whose input comes near zero parts two runs by more than rounding; a mistake shows with every seed."""
    errors = []
    for case in ROUNDED:
        expected = twenty_steps(case, make_step(case, batch_size=2))
        trained = farthest(of_two_ranks[case], expected, "step|weights")
        moments = farthest(of_two_ranks[case], expected, "exp_avg")  # as far as gradients are
        errors.append((trained, moments))
    assert any(trained[0] <= 1e-5 and moments[0] <= 1e-4 for trained, moments in errors), errors


@pytest.mark.skipif(not ops.extension_available(), reason="no extension")
def test_gradients_that_are_reduced_in_parts_as_they_are_computed_are_the_same(folder: Path) -> None:
    """Where both passes of a generator share their weight gradients, which are computed last."""
    expected = twenty_steps(EXACT[0], make_step(EXACT[0], batch_size=2))
    for rank in range(2):
        error, name = farthest(torch.load(folder / f"joined_{rank}.pt"), expected)
        assert error <= 1e-9, name


def test_parts_of_gradients_have_a_piece_of_each_network_and_about_one_size() -> None:
    step = make_step(EXACT[0])
    assert step.generator_parts == [[*range(len(step.generator_leaves))]]
    networks = [[torch.empty(n) for n in sizes] for sizes in ([5, 40, 40, 40, 40, 40, 5], [90, 90, 90])]
    assert _cut_evenly(networks, 3) == [[0, 1, 2, 7], [3, 4, 8], [5, 6, 9]]


def test_ranks_that_run_their_cycles_differently_train_alike(folder: Path) -> None:
    expected = twenty_steps(EXACT[0], make_step(EXACT[0], batch_size=2))
    for rank in range(2):
        error, name = farthest(torch.load(folder / f"threads_{rank}.pt"), expected)
        assert error <= 1e-9, name


def test_what_is_not_finite_on_one_rank_moves_no_weight_on_any(folder: Path) -> None:
    """The first rank's own losses and gradients are finite."""
    for rank in range(2):
        before, after, losses = torch.load(folder / f"nan_{rank}.pt")
        assert before.equal(after) and losses.isnan().any()


# ---- Who is who.
ENVIRONMENT = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


def test_the_environment_says_which_rank_this_is() -> None:
    assert find_place({}) == find_place({"RANK": "3"}) == find_place(ENVIRONMENT | {"WORLD_SIZE": "1"}) == Place()
    assert find_place(ENVIRONMENT) == Place(rank=1, world=2, local_rank=1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"RANK": ""}, "has WORLD_SIZE=2, LOCAL_RANK=1, MASTER_ADDR=host, MASTER_PORT=29500, but no RANK: start all"),
        (
            {"MASTER_ADDR": "", "MASTER_PORT": ""},
            "but no MASTER_ADDR and no MASTER_PORT: start all processes with torchrun",
        ),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' in the environment is no number"),
        ({"RANK": "2"}, "RANK=2 in the environment is not below WORLD_SIZE=2"),
    ],
)
def test_an_environment_that_makes_no_sense_is_one_sentence(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        find_place(ENVIRONMENT | changes)


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    place = Place(rank=5, world=8, local_rank=1)
    assert [place.device(name) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    assert Place().device("cuda:1") == "cuda:1"
    with pytest.raises(UserError, match="--device cuda:1: each of 8 processes has a GPU of its own"):
        place.device("cuda:1")
    with pytest.raises(UserError, match="process 3 of this host has no GPU: torch sees 2; start torchrun"):
        Place(rank=2, world=8, local_rank=2).device("auto")


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Of this host, where nobody listens; named in the environment."""
    port = free_port()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    return port


def test_who_does_not_come_is_waited_for_within_bounds(port: int) -> None:
    with pytest.raises(
        UserError, match=rf"^process 0 of 2 cannot reach the others at 127\.0\.0\.1:{port} .*1/2 clients joined"
    ):
        meet(Place(0, 2, 0), 1.0)


def test_an_address_that_nobody_answers_is_one_sentence(port: int) -> None:
    sentence = rf"^process 1 of 2 cannot reach the others at 127\.0\.0\.1:{port} \(.*timed out.*\): are all started"
    with pytest.raises(UserError, match=sentence):
        meet(Place(1, 2, 1), 1.0)


def test_a_port_in_use_is_one_sentence(port: int) -> None:
    with socket.socket() as other:
        other.bind(("", port))
        other.listen()
        with pytest.raises(UserError, match=rf"^port {port} of this host is in use: choose another one for all"):
            meet(Place(0, 2, 0), 1.0)


# ---- What all agree on.
def connected(world: int, seconds: float) -> list[Ranks]:
    """Ranks that are threads of this process."""
    store, pool = dist.HashStore(), ThreadPoolExecutor(world)
    timeout = datetime.timedelta(seconds=seconds)
    groups = pool.map(lambda rank: dist.ProcessGroupGloo(store, rank, world, timeout), range(world))
    ranks = [Ranks(Place(rank, world, rank), torch.device("cpu"), seconds) for rank in range(world)]
    for one, group in zip(ranks, groups, strict=True):
        one.group = group
    return ranks


def agree(ranks: Sequence[Ranks], values: Sequence[tuple[float, ...]]) -> list[Future[list[float]]]:
    with ThreadPoolExecutor(len(ranks)) as pool:
        return [pool.submit(one.highest, *given) for one, given in zip(ranks, values, strict=True)]


@pytest.mark.parametrize("world", [2, 3, 4, 5, 6, 7, 8, 9])
def test_ranks_agree_whichever_has_the_highest(world: int) -> None:
    ranks = connected(world, 60.0)
    for highest in range(world):
        given = [(float(rank == highest), -abs(rank - highest), 1e300 * rank) for rank in range(world)]
        for done in agree(ranks, given):
            assert done.result() == [1.0, 0.0, 1e300 * (world - 1)]


@pytest.mark.parametrize("world", [2, 3, 5])
def test_a_rank_that_does_not_agree_is_an_error_of_all_others(world: int) -> None:
    """The first whose time is over closes its connections, which is all that a later one may notice."""
    ranks, reasons = connected(world, 3.0), set()
    for done in agree(ranks[1:], [(0.0,)] * (world - 1)):
        with pytest.raises(RankError) as error:
            done.result()
        found = re.search(
            r"has (not answered for 3 s \(--rank-timeout\)|ended), so this one ends: the same", str(error.value)
        )
        assert found, error.value
        reasons.add(found[1])
    assert "not answered for 3 s (--rank-timeout)" in reasons


def test_a_rank_that_is_gone_is_an_error_of_the_other() -> None:
    ranks = connected(2, 60.0)
    ranks.pop()
    with pytest.raises(RankError, match=r"has ended, so this one ends: the same command with --resume auto"):
        ranks[0].highest(0.0)


@pytest.fixture
def process_groups(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The seconds that each backend waits, instead of process groups of torch."""
    waits: dict[str, float] = {}

    def note(backend: str, *, timeout: datetime.timedelta, **_: object) -> None:
        waits[backend] = min(timeout.total_seconds(), waits.get(backend, float("inf")))

    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(dist, "is_initialized", lambda: bool(waits))
    monkeypatch.setattr("cyclegan_fast.training.ranks.meet", lambda *_: dist.HashStore())
    monkeypatch.setattr(dist, "init_process_group", note)
    monkeypatch.setattr(dist, "new_group", lambda *, backend, timeout: note(backend, timeout=timeout))
    monkeypatch.setattr(dist, "destroy_process_group", waits.clear)
    return waits


def test_on_gpus_the_hosts_find_a_lost_rank_before_nccl_ends_the_process(process_groups: dict[str, float]) -> None:
    """A step of the GPU has begun to wait before the hosts do: for the next batch and then for each other."""
    with Ranks(Place(0, 2, 0), torch.device("cuda", 0), 600.0):
        assert process_groups == {"cpu:gloo,cuda:nccl": 2 * 600.0 + 60, "gloo": 600.0}


@pytest.mark.parametrize(("timeout", "waits"), [(600.0, 15.0), (4.0, 2.0)])
def test_at_the_start_a_rank_waits_for_an_answer_less_long_than_the_others_wait_for_it(
    process_groups: dict[str, float], monkeypatch: pytest.MonkeyPatch, timeout: float, waits: float
) -> None:
    waited = []

    def reaches_others(roll: RollCall, seconds: float) -> bool:
        waited.append(seconds)
        return False

    monkeypatch.setattr(RollCall, "reaches_others", reaches_others)
    with Ranks(Place(0, 2, 0), torch.device("cpu"), timeout) as ranks:
        assert waited == [waits] and ranks.roll is None


def test_ranks_that_do_not_meet_part(process_groups: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    rolls = []

    def fail(ranks: Ranks, *values: float) -> list[float]:
        raise RankError("another process of this training has ended")

    def reaches_others(roll: RollCall, seconds: float) -> bool:
        rolls.append(roll)
        return True

    monkeypatch.setattr(Ranks, "highest", fail)
    monkeypatch.setattr(RollCall, "reaches_others", reaches_others)
    with pytest.raises(RankError), Ranks(Place(0, 2, 0), torch.device("cpu"), 600.0):
        pass
    assert not process_groups and not dist.is_initialized()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("localhost", rolls[0].members[0].port), 10)


# ---- The place in the epochs.
def test_an_epoch_that_updates_do_not_divide_is_rounded_up_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    assert Position(TrainConfig(), 30, world=5).steps_per_epoch == 6 and not caplog.messages
    assert Position(TrainConfig(optim=OptimConfig(batch_size=2)), 30, world=7).steps_per_epoch == 3
    sentence = "updates of 14 images do not divide the 30 samples of an epoch: it is rounded up to 3 updates, of 42"
    assert caplog.messages == [sentence]


@pytest.mark.parametrize(
    ("done", "ahead", "before", "now", "epoch_and_step"),
    [(8, 0, 3, 6, (2, 4)), (8, 0, 6, 3, (1, 1)), (26, 8, 6, 3, (5, 2)), (6, 0, 3, 2, (2, 0)), (5, 0, 4, 4, (1, 1))],
)
def test_the_place_in_the_epochs_stays_as_the_steps_of_an_epoch_change(
    done: int, ahead: int, before: int, now: int, epoch_and_step: tuple[int, int]
) -> None:
    assert divmod(done + steps_ahead(done, ahead, before, now), now) == epoch_and_step
