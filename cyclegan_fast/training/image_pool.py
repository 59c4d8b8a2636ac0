"""The image pool (Shrivastava et al. 2017): discriminators also see earlier fakes, not only the newest.

One decision per image. Until the pool is full an image is stored and returned. Then, with probability 0.5, a random
slot's image is returned and the new one takes its place; otherwise the image itself is returned and not stored. The
decisions are `ops.image_pool_draws`: both pools below decide alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.layout import memory_format_of


class ImagePool:
    """A pool of images of one shape that lives on the device: no decision ever waits for the host.

    Args:
        size: Images in the pool; with 0, `exchange` returns its input.
        seed: Seed of the decisions.
        device: Where the images and the decisions live.
    """

    def __init__(self, size: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.size, self.seed = size, seed
        self.count = torch.zeros((), dtype=torch.int64, device=device)  # images stored so far
        self.drawn = torch.zeros((), dtype=torch.int64, device=device)  # decisions drawn so far
        self.images: Tensor | None = None  # [size, C, H, W], laid out as the first fakes

    def exchange(self, fakes: Tensor) -> Tensor:
        """Offers the fakes [N, C, H, W] to the pool, one by one; returns as many images, detached."""
        if self.size == 0:
            return fakes.detach()
        if self.images is None:
            images = torch.zeros((self.size, *fakes.shape[1:]), dtype=fakes.dtype, device=fakes.device)
            self.images = images.contiguous(memory_format=memory_format_of(fakes))
        return ops.image_pool_exchange(self.images, self.count, self.drawn, fakes, seed=self.seed)

    def state_dict(self) -> dict[str, Any]:
        """Returns the images, how many there are, and how many decisions were drawn."""
        return {"images": self.images, "count": self.count, "drawn": self.drawn, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state_dict` was taken."""
        _check_version(state)
        images = state["images"]
        self.images = None if images is None else images.to(self.count.device, copy=True)
        self.count.copy_(state["count"])
        self.drawn.copy_(state["drawn"])
        self.seed = state["seed"]


class MixedSizePool:
    """The same pool for images whose sizes differ from step to step. The host waits to learn whether each is finite."""

    def __init__(self, size: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.size, self.seed, self.device = size, seed, device
        self.drawn = 0
        self.images: list[Tensor] = []  # each [1, C, H, W]

    def exchange(self, fakes: Tensor) -> Tensor:
        """As `ImagePool.exchange`, for a batch of one image; the returned one may differ from it in size."""
        if self.size == 0:
            return fakes.detach()
        return torch.cat([self._exchange_one(fake) for fake in fakes.detach().split(1)])

    def _exchange_one(self, fake: Tensor) -> Tensor:
        """Offers one image [1, C, H, W]."""
        swap, slot = ops.image_pool_draws(self.seed, torch.tensor(self.drawn), self.size)  # on the host
        self.drawn += 1
        if not fake.isfinite().all():
            return fake
        if len(self.images) < self.size:
            self.images.append(fake.clone())
        elif swap:
            old, self.images[slot] = self.images[slot], fake.clone()
            return old
        return fake

    def state_dict(self) -> dict[str, Any]:
        """Returns the images and how many decisions were drawn."""
        return {"images": list(self.images), "drawn": self.drawn, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state_dict` was taken."""
        _check_version(state)
        self.images = [image.to(self.device, copy=True) for image in state["images"]]
        self.drawn, self.seed = state["drawn"], state["seed"]


def _check_version(state: dict[str, Any]) -> None:
    """Refuses the state of an earlier version, whose decisions came from another random generator."""
    if "drawn" not in state:
        raise UserError(
            "the checkpoint's image pools are of an earlier version, whose random decisions this one cannot continue: "
            "finish the run with that version, or start a new one from its weights with --init-from"
        )
