"""Cases of what a training step has besides its networks: the losses, the image pool and the update."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import DEVICE
from benchmarks.op_cases.case import Call, OpCase, describe, noise, per_set, sets_of, torch_compiled
from cyclegan_fast import ops
from cyclegan_fast.config import ModelConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.ops.adam import adam_step
from cyclegan_fast.ops.adam_inputs import AdamGroup

ADAM_CHANNELS = 4 if harness.quick else 64 if DEVICE.type == "cuda" else 16  # of the networks whose weights move


def four_cycle_losses(side: int) -> OpCase:
    """Both cycle and both identity losses of a step."""
    weights, shape = [10.0, 10.0, 5.0, 5.0], (1, 3, side, side)
    moved = 4 * math.prod(shape) * (2 * 4 + 1 + 1 + 4)  # a, b and a sign; the sign again and the gradient
    images = [[noise(shape, "nhwc", torch.float32) for _ in range(8)] for _ in range(sets_of(moved))]
    pairs = [[(a.requires_grad_(), b) for a, b in zip(s[:4], s[4:], strict=True)] for s in images]

    def aten(pairs: list[tuple[Tensor, Tensor]], weights: list[float]) -> Tensor:
        return torch.stack([w * F.l1_loss(a, b) for w, (a, b) in zip(weights, pairs, strict=True)])

    def with_gradient(loss: Callable[..., Tensor], pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        values = loss(pairs, weights)
        return values, *torch.autograd.grad(values.sum(), [a for a, _ in pairs])

    def exact() -> list[Tensor]:
        leaves = [(a.detach().double().requires_grad_(), b.double()) for a, b in pairs[0]]
        return [t.detach() for t in with_gradient(aten, leaves)]

    variants = {"ours": ops.cycle_loss, "aten": aten, "compiled": torch_compiled(aten)}
    return OpCase(
        "four cycle losses, forward and backward",
        f"3x{side}x{side} float32",
        moved,
        {name: per_set(functools.partial(with_gradient, variant), pairs) for name, variant in variants.items()},
        exact,
    )


def discriminator_losses() -> OpCase:
    """LSGAN of a discriminator's scores of real and of fake images."""
    shape = (1, 1, 30, 30)
    moved = 2 * math.prod(shape) * (4 + 4 + 4)
    scores = [[noise(shape, "nchw", torch.float32).requires_grad_() for _ in "ab"] for _ in range(sets_of(moved))]

    def aten(scores: list[Tensor]) -> Tensor:
        real, fake = scores
        return 0.5 * (F.mse_loss(real, torch.ones_like(real)) + F.mse_loss(fake, torch.zeros_like(fake)))

    def ours(scores: list[Tensor]) -> Tensor:
        return ops.lsgan_loss(scores, [1, 0], [0.5, 0.5]).sum()

    def with_gradient(loss: Callable[..., Tensor], scores: list[Tensor]) -> tuple[Tensor, ...]:
        value = loss(scores)
        return value, *torch.autograd.grad(value, scores)

    def exact() -> list[Tensor]:
        return [t.detach() for t in with_gradient(aten, [s.detach().double().requires_grad_() for s in scores[0]])]

    variants = {"ours": ours, "aten": aten, "compiled": torch_compiled(aten)}
    return OpCase(
        "a discriminator's LSGAN loss, forward and backward",
        "2 x 1x30x30 float32",
        moved,
        {name: per_set(functools.partial(with_gradient, variant), scores) for name, variant in variants.items()},
        exact,
    )


def image_pool(batch: int, layout: str) -> OpCase:
    """A full pool of 50 images."""
    shape = (batch, 3, 256, 256)
    # Each image is read twice and one is returned; for every second one a slot is read and written as well.
    moved = math.prod(shape) * 4 * 4
    fakes = [noise(shape, layout, torch.float32) for _ in range(sets_of(moved))]
    stored = noise((50, *shape[1:]), layout, torch.float32)
    pool, count, drawn = stored.clone(), torch.tensor(50, device=DEVICE), torch.tensor(0, device=DEVICE)
    ours = lambda fakes: ops.image_pool_exchange(pool, count, drawn, fakes, seed=0)  # noqa: E731
    plain_pool, plain_count, plain_drawn = stored.clone(), count.clone(), drawn.clone()

    def aten(fakes: Tensor) -> Tensor:
        with ops.use_reference():
            return ops.image_pool_exchange(plain_pool, plain_count, plain_drawn, fakes, seed=0)

    def exact() -> list[Tensor]:
        with ops.use_reference():
            exchanged = ops.image_pool_exchange(
                stored.clone(), count.clone(), torch.zeros_like(drawn), fakes[0], seed=0
            )
        return [exchanged.double()]

    return OpCase(
        "image pool of 50",
        describe(shape, layout, torch.float32),
        moved,
        {"ours": per_set(ours, fakes), "aten": per_set(aten, fakes)},
        exact,
    )


def adam(dtype: torch.dtype) -> OpCase:
    """Every weight of a step, by gradients of two cycles: in float32, or in 16 bits with working weights."""
    networks = build_networks(ModelConfig(ngf=ADAM_CHANNELS, ndf=ADAM_CHANNELS)).to(DEVICE)
    initial = [w.detach() for w in networks.parameters() if w.requires_grad]
    elements = sum(w.numel() for w in initial)
    of_gradients = 2 * 2 * (4 if dtype == torch.float32 else 2)  # two, each read twice
    moved = elements * (6 * 4 + of_gradients + (0 if dtype == torch.float32 else 2))
    gradients = [[torch.randn_like(w, dtype=dtype) for w in initial] for _ in range(2)]
    lr, loss = torch.full((), 2e-4, dtype=torch.float64, device=DEVICE), torch.ones((), device=DEVICE)

    def ours(i: int) -> Call:
        weights, exp_avg, exp_avg_sq, working, step = _adam_state(initial, dtype)
        group = AdamGroup(weights, exp_avg, exp_avg_sq, working, step, *gradients, [loss])

        def call() -> tuple[Tensor, ...]:
            adam_step([group], lr=lr, betas=(0.5, 0.999), eps=1e-8)
            return tuple(weights)

        return call

    def aten(i: int) -> Call:
        weights, _, _, working, _ = _adam_state(initial, dtype)
        optimizer = torch.optim.Adam([w.requires_grad_() for w in weights], lr=2e-4, betas=(0.5, 0.999), fused=True)
        rounded = [w for w in working if w is not None]

        def call() -> tuple[Tensor, ...]:
            for weight, one, other in zip(weights, *gradients, strict=True):
                weight.grad = one.float() + other
            optimizer.found_inf = (~loss.isfinite()).float()  # type: ignore[attr-defined]  # read by fused Adam
            optimizer.step()
            if rounded:
                with torch.no_grad():
                    torch._foreach_copy_(rounded, weights)
            return tuple(w.detach() for w in weights)

        return call

    def exact() -> list[Tensor]:  # the first update is lr times the gradient's sign
        sums = [one.double() + other.double() for one, other in zip(*gradients, strict=True)]
        return [w.double() - 2e-4 * g / (g.abs() + 1e-8) for w, g in zip(initial, sums, strict=True)]

    kind = str(dtype).removeprefix("torch.")
    return OpCase("Adam", f"{elements} weights, gradients {kind}", moved, {"ours": ours, "aten": aten}, exact)


def _adam_state(initial: list[Tensor], dtype: torch.dtype) -> tuple[Any, ...]:
    """Weights, their moments, their working weights where gradients have 16 bits, and the number of updates."""
    weights = [w.clone() for w in initial]
    moments = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    working = [None if dtype == torch.float32 else w.to(dtype) for w in weights]
    return weights, *moments, working, torch.zeros((), device=DEVICE)
