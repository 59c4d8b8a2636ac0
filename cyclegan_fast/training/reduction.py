"""Means of gradients and losses over all ranks, in flat buckets that are reduced while the step goes on.

A bucket is in the type of the weights, so that gradients in 16 bits are summed in 32. What is not finite on one rank is
not finite in the mean, so that all ranks skip the same updates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cyclegan_fast.training.adam import Gradients

ALIGNMENT = 16  # elements: each gradient begins where vectors of 16 bytes may be read


@dataclass(frozen=True)
class Bucket:
    """The memory of the gradients of some weights."""

    flat: Tensor
    views: list[Tensor]  # of each weight that has a gradient, laid out as the weight


class GradientReduction:
    """Reduces the gradients of a step.

    Args:
        connected: Returns the context of a wait for the other ranks, which turns its errors into a sentence.
        group: Of the ranks; by default all.
    """

    def __init__(
        self,
        connected: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.connected, self.group = connected, group
        self.world = dist.get_world_size(group)
        self.buckets: dict[tuple[int, ...], Bucket] = {}  # by the weights
        self.works: list[tuple[Any, Tensor]] = []  # begun, with what they reduce
        self.begun: set[int] = set()  # the gradients of these, by identity

    def begin(self, weights: Sequence[Tensor], *gradients: Gradients) -> Gradients:
        """Begins to reduce the sum of one or two lists of gradients, and returns it; it holds the mean after `wait`.

        All ranks call it for the same weights in the same order. Gradients that this has returned are returned again.

        Args:
            weights: Those of the gradients, in float32 or float64.
            gradients: The lists, of each weight; None where a loss does not depend on it.
        """
        if all(g is None or id(g) in self.begun for of_weight in gradients for g in of_weight):
            return gradients[0]
        parts = [[g for g in of_weight if g is not None] for of_weight in zip(*gradients, strict=True)]
        bucket = self._bucket([weight for weight, found in zip(weights, parts, strict=True) if found])
        views = iter(bucket.views)
        total: Gradients = [next(views) if found else None for found in parts]
        with torch.no_grad():
            torch._foreach_copy_(bucket.views, [found[0] for found in parts if found])
            for k in range(1, len(gradients)):
                pairs = [
                    (t, found[k]) for t, found in zip(total, parts, strict=True) if t is not None and k < len(found)
                ]
                if pairs:
                    torch._foreach_add_([t for t, _ in pairs], [g for _, g in pairs])
        self._reduce(bucket.flat)
        self.begun |= {id(view) for view in bucket.views}
        return total

    def mean_of(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Begins to reduce scalars, and returns them; they hold the means after `wait`."""
        if not values:
            return {}
        together = torch.stack(list(values.values()))
        self._reduce(together)
        return dict(zip(values, together.unbind(), strict=True))

    def average(self, tensors: list[Tensor]) -> None:
        """Makes tensors, such as running statistics, their means over all ranks, at once."""
        if tensors:
            together = torch.cat([tensor.reshape(-1) for tensor in tensors])
            self._reduce(together)
            self.wait()
            parts = together.split([tensor.numel() for tensor in tensors])
            torch._foreach_copy_(tensors, [part.view(t.shape) for t, part in zip(tensors, parts, strict=True)])

    def wait(self) -> None:
        """Returns when all that was begun is reduced; on CUDA the current stream waits, and the host does not.

        Raises:
            RankError: Another rank has ended, or does not answer, with the context of `Ranks.connected`.
        """
        works, self.works = self.works, []
        self.begun.clear()
        with self.connected(), torch.no_grad():
            for work, tensor in works:
                work.wait()
                if not tensor.is_cuda:  # NCCL divides by itself
                    tensor.div_(self.world)

    def _reduce(self, tensor: Tensor) -> None:
        op = dist.ReduceOp.AVG if tensor.is_cuda else dist.ReduceOp.SUM
        with self.connected():
            self.works.append((dist.all_reduce(tensor, op, group=self.group, async_op=True), tensor))

    def _bucket(self, weights: Sequence[Tensor]) -> Bucket:
        key = tuple(map(id, weights))
        if key not in self.buckets:
            self.buckets[key] = _make_bucket(weights)
        return self.buckets[key]


def _make_bucket(weights: Sequence[Tensor]) -> Bucket:
    places, size = [], 0
    for weight in weights:
        places.append(size)
        size += -(-weight.numel() // ALIGNMENT) * ALIGNMENT
    flat = torch.zeros(size, dtype=weights[0].dtype, device=weights[0].device)
    views = [flat.as_strided(w.shape, w.stride(), place) for w, place in zip(weights, places, strict=True)]
    return Bucket(flat, views)
