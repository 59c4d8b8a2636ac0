"""The image pool (Shrivastava et al. 2017): critics also see fakes of earlier steps, so they do not chase the newest.

One decision per image. Until the pool is full an image is stored and returned. Then, with probability 0.5, a random
slot's image is returned and the new one takes its place; otherwise the image itself is returned and not stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """A pool of images of one shape that lives on the device: no decision ever waits for the host.

    Args:
        size: Images kept; with 0, `exchange` returns what it is given.
        seed: Seed of the decisions.
        device: Where the images and the decisions live.
    """

    def __init__(self, size: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.size = size
        self.generator = torch.Generator(device).manual_seed(seed)
        self.count = torch.zeros((), dtype=torch.int64, device=device)  # images stored so far
        self.images: Tensor | None = None  # [size, C, H, W], allocated when the first image comes

    def exchange(self, fakes: Tensor) -> Tensor:
        """Offers the fakes [N, C, H, W] to the pool, one after the other; returns as many images, detached."""
        if self.size == 0:
            return fakes.detach()
        draws = torch.rand(len(fakes), 2, generator=self.generator, device=fakes.device)  # coin, slot
        return self.exchange_by(fakes.detach(), draws)

    def exchange_by(self, fakes: Tensor, draws: Tensor) -> Tensor:
        """`exchange` with the decisions given: draws [N, 2] in [0, 1), below 0.5 swaps; the second picks the slot."""
        if self.images is None:
            self.images = torch.zeros((self.size, *fakes.shape[1:]), dtype=fakes.dtype, device=fakes.device)
        returned = []
        for fake, (coin, where) in zip(fakes.split(1), draws, strict=True):
            healthy = fake.isfinite().all()  # one bad step must not come back out of the pool
            full = self.count >= self.size
            swap = full & (coin < 0.5) & healthy
            slot = torch.where(full, (where * self.size).long(), self.count).reshape(1)
            stored = self.images.index_select(0, slot)
            returned.append(torch.where(swap, stored, fake))
            self.images.index_copy_(0, slot, torch.where(swap | (~full & healthy), fake, stored))
            self.count.add_(healthy).clamp_(max=self.size)
        return torch.cat(returned)

    def state_dict(self) -> dict[str, Any]:
        """The images, how many there are, and the state of the decisions."""
        return {"images": self.images, "count": self.count, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state_dict` was taken."""
        images = state["images"]
        self.images = None if images is None else images.to(self.count.device, copy=True)
        self.count.copy_(state["count"])
        self.generator.set_state(state["generator"].cpu())


class MixedSizePool:
    """The same pool for images whose sizes differ from step to step. Its decisions are read by the host."""

    def __init__(self, size: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.size = size
        self.generator = torch.Generator(device).manual_seed(seed)
        self.images: list[Tensor] = []  # each [1, C, H, W]

    def exchange(self, fakes: Tensor) -> Tensor:
        """As `ImagePool.exchange`, for a batch of one image (its return may differ in size from what came)."""
        if self.size == 0:
            return fakes.detach()
        draws = torch.rand(len(fakes), 2, generator=self.generator, device=fakes.device)
        return self.exchange_by(fakes.detach(), draws)

    def exchange_by(self, fakes: Tensor, draws: Tensor) -> Tensor:
        """As `ImagePool.exchange_by`."""
        returned = []
        for fake, (coin, where) in zip(fakes.split(1), draws.tolist(), strict=True):
            if not fake.isfinite().all():
                returned.append(fake)
            elif len(self.images) < self.size:
                self.images.append(fake.clone())
                returned.append(fake)
            elif coin < 0.5:
                slot = int(where * self.size)
                returned.append(self.images[slot])
                self.images[slot] = fake.clone()
            else:
                returned.append(fake)
        return torch.cat(returned)

    def state_dict(self) -> dict[str, Any]:
        """The images and the state of the decisions."""
        return {"images": list(self.images), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state_dict` was taken."""
        self.images = [image.to(self.generator.device, copy=True) for image in state["images"]]
        self.generator.set_state(state["generator"].cpu())
