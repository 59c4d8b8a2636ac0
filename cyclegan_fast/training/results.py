"""What a step computes before its updates: images, losses and gradients, of a micro-batch and of all together.

And the small operations on them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclegan_fast.training.adam import Gradients

Images = dict[str, Tensor]  # each [N, C, H, W] in [-1, 1]
Losses = dict[str, Tensor]  # scalars on the device


@dataclass(frozen=True)
class StepResult:
    """What a micro-batch, or all of them, contribute to a step, detached."""

    images: Images
    losses: Losses
    generator_gradients: Gradients  # of the weights of all generators
    discriminator_gradients: Gradients


def mean_result(micro_batches: Iterable[StepResult]) -> StepResult:
    """Joins micro-batches: images concatenated, losses averaged, gradients (already scaled) summed as they come."""
    results = iter(micro_batches)
    first = next(results)
    images, losses = [first.images], [first.losses]
    of_G, of_D = first.generator_gradients, first.discriminator_gradients
    for result in results:
        images.append(result.images)
        losses.append(result.losses)
        of_G = add_gradients(of_G, result.generator_gradients)
        of_D = add_gradients(of_D, result.discriminator_gradients)
    return StepResult(_joined(images), mean_losses(losses), of_G, of_D)


def mean_losses(parts: Sequence[Losses]) -> Losses:
    """The mean of each loss over micro-batches."""
    if len(parts) == 1:
        return parts[0]
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def _joined(parts: Sequence[Images]) -> Images:
    """The images of all micro-batches."""
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without what autograd recorded of them."""
    return {name: tensor.detach() for name, tensor in tensors.items()}


def join(first: Tensor, second: Tensor) -> Tensor:
    """Joins images of A and of B to what a discriminator of pairs scores, [N, C_A + C_B, H, W]."""
    return torch.cat([first, second.to(first.dtype)], dim=1)


def gradients(losses: list[Tensor], weights: list[Tensor], scale: Tensor) -> Gradients:
    """scale * d(sum of all losses) / d(each weight), laid out as the weight, which Adam relies on."""
    if not losses:
        return [None] * len(weights)
    found = torch.autograd.grad(losses, weights, [scale.expand_as(loss) for loss in losses], allow_unused=True)
    assert any(g is not None for g in found), "the forward pass read other tensors than those of the gradients"
    return [
        g if g is None or g.stride() == w.stride() else torch.empty_like(w).copy_(g)
        for g, w in zip(found, weights, strict=True)
    ]


def add_gradients(first: Gradients, second: Gradients) -> Gradients:
    """The sum of two lists of gradients, in float32 where they are in 16 bits, else in the memory of the first."""
    totals = [None if a is None else as_full_precision(a) for a in first]
    both = [(a, b) for a, b in zip(totals, second, strict=True) if a is not None and b is not None]
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [b if a is None else a for a, b in zip(totals, second, strict=True)]


def largest(lists: Sequence[Gradients]) -> Tensor:
    """The largest magnitude in all gradients, a scalar; NaN where one of them is."""
    norms = torch._foreach_norm([g for one in lists for g in one if g is not None], float("inf"))
    return torch.stack([as_full_precision(norm) for norm in norms]).max()


@contextlib.contextmanager
def frozen(weights: list[Tensor]) -> Iterator[None]:
    """What is computed inside has no gradients of these weights: an operator would compute them, needed or not."""
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_()


def as_full_precision(x: Tensor) -> Tensor:
    """Returns 16-bit values as float32, others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
