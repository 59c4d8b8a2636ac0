"""Several processes that train together: what two of them compute is what one computes of twice the batch."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from cyclegan_fast.config import ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.ranks import Ranks, find_place
from cyclegan_fast.training.reduction import GradientReduction
from cyclegan_fast.training.step import CycleGANStep
from tests.training.ranks import ended, started
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


EXACT = [Case(torch.float64, 1e-8), Case(torch.float64, 1e-8, micro_batches=2)]
# Adam's epsilon is large: with a small one its move is the sign of a gradient, which rounding may decide.
ROUNDED = [Case(torch.float32, 1e-2, seed=seed) for seed in range(SEEDS)]


def make_step(case: Case, batch_size: int = 1) -> CycleGANStep:
    config = TrainConfig(
        model=MODEL,
        objective=ObjectiveConfig(pool_size=0),
        optim=OptimConfig(eps=case.eps, batch_size=batch_size, grad_accumulation=case.micro_batches),
        run=RunConfig(side_by_side="off"),
    )
    torch.manual_seed(0)
    networks = build_networks(config.model).to(case.dtype)
    return CycleGANStep(networks.to(memory_format=torch.channels_last), config)  # type: ignore[call-overload]


def twenty_steps(case: Case, step: CycleGANStep, rank: int | None = None) -> Found:
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


def steps_of_rank(folder: str) -> None:
    place = find_place()
    with Ranks(place, torch.device("cpu"), 60.0) as ranks:
        for i, case in enumerate(EXACT + ROUNDED):
            step = make_step(case)
            step.reduction = GradientReduction(ranks.seconds)
            torch.save(twenty_steps(case, step, place.rank), f"{folder}/case_{i}_{place.rank}.pt")


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Found]:
    """What both have found, which is the same."""
    folder = tmp_path_factory.mktemp("steps")
    with started(folder, steps_of_rank, [str(folder)], [str(folder)]) as ranks:
        for done in ended(ranks):
            assert done.returncode == 0, done.stderr
    found = {}
    for i, case in enumerate(EXACT + ROUNDED):
        found[case], other = (torch.load(folder / f"case_{i}_{rank}.pt") for rank in range(2))
        assert all(found[case][name].equal(value) for name, value in other.items()), "the ranks differ"
    return found


def farthest(got: Found, expected: Found, of: str = "") -> tuple[float, str]:
    """The largest relative error among what has a name of these."""
    assert got.keys() == expected.keys()
    return max((relative_error(got[name], value), name) for name, value in expected.items() if re.match(of, name))


@pytest.mark.parametrize("case", EXACT, ids=["", "micro-batches"])
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
