"""A whole training step, restated from the recipe with plain torch modules: what the package's step must equal.

Nothing here is paired, fused or shared with the package; images pass one at a time, pools are lists.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def splitmix64(seed: int) -> Iterator[int]:
    """The generator of Steele, Lea and Flood, as it is printed: a state that is stepped."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        yield z ^ (z >> 31)


class PlainPool:
    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.random, self.swaps = size, splitmix64(seed), 0
        self.images: list[Tensor] = []

    def query(self, batch: Tensor) -> Tensor:
        out = []
        for image, bits in zip(batch, self.random, strict=False):
            if len(self.images) < self.size:
                self.images.append(image.clone())
                out.append(image)
            elif bits >= 2**63:  # the coin: the highest bit
                slot = (bits % 2**32) * self.size // 2**32
                out.append(self.images[slot].clone())
                self.images[slot] = image.clone()
                self.swaps += 1
            else:
                out.append(image)
        return torch.stack(out)


def plain_gan_loss(mode: str, logits: Tensor, real: bool, for_discriminator: bool) -> Tensor:
    if mode == "lsgan":
        return ((logits - (1.0 if real else 0.0)) ** 2).mean()
    if mode == "vanilla":
        probability = torch.sigmoid(logits)
        return -torch.log(probability if real else 1 - probability).mean()
    if mode == "hinge" and for_discriminator:
        return torch.clamp(1 - logits if real else 1 + logits, min=0).mean()
    return -logits.mean() if real else logits.mean()


class PlainCycleGAN:
    def __init__(
        self,
        G_A: nn.Module,
        G_B: nn.Module,
        D_A: nn.Module,
        D_B: nn.Module,
        *,
        mode: str = "lsgan",
        pool_size: int = 50,
        pool_seeds: tuple[int, int] = (0, 1),
        lr: float = 2e-4,
        eps: float = 1e-8,
        weight: tuple[float, float, float] = (10.0, 10.0, 0.5),
    ) -> None:
        self.G_A, self.G_B, self.D_A, self.D_B = G_A, G_B, D_A, D_B
        self.mode, self.weight = mode, weight
        self.pool_A, self.pool_B = (PlainPool(pool_size, seed) for seed in pool_seeds)
        adam = {"lr": lr, "betas": (0.5, 0.999), "eps": eps}
        self.optimizer_G = torch.optim.Adam(itertools.chain(G_A.parameters(), G_B.parameters()), **adam)
        self.optimizer_D = torch.optim.Adam(itertools.chain(D_A.parameters(), D_B.parameters()), **adam)

    def step(self, A: Tensor, B: Tensor) -> dict[str, Tensor]:
        lambda_A, lambda_B, lambda_identity = self.weight
        for p in itertools.chain(self.D_A.parameters(), self.D_B.parameters()):
            p.requires_grad_(False)
        fake_B = self.G_A(A)
        rec_A = self.G_B(fake_B)
        fake_A = self.G_B(B)
        rec_B = self.G_A(fake_A)
        losses = {
            "G_A": plain_gan_loss(self.mode, self.D_A(fake_B), True, False),
            "G_B": plain_gan_loss(self.mode, self.D_B(fake_A), True, False),
            "cycle_A": lambda_A * (rec_A - A).abs().mean(),
            "cycle_B": lambda_B * (rec_B - B).abs().mean(),
        }
        if lambda_identity:
            losses["idt_A"] = lambda_identity * lambda_B * (self.G_A(B) - B).abs().mean()
            losses["idt_B"] = lambda_identity * lambda_A * (self.G_B(A) - A).abs().mean()
        self.optimizer_G.zero_grad()
        sum(losses.values()).backward()
        self.optimizer_G.step()

        for p in itertools.chain(self.D_A.parameters(), self.D_B.parameters()):
            p.requires_grad_(True)
        self.optimizer_D.zero_grad()
        pooled_B = self.pool_B.query(fake_B.detach())
        losses["D_A"] = self.discriminator(self.D_A, B, pooled_B)
        pooled_A = self.pool_A.query(fake_A.detach())
        losses["D_B"] = self.discriminator(self.D_B, A, pooled_A)
        (losses["D_A"] + losses["D_B"]).backward()
        self.optimizer_D.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def discriminator(self, D: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        on_real = plain_gan_loss(self.mode, D(real), True, True)
        on_fake = plain_gan_loss(self.mode, D(fake), False, True)
        loss = 0.5 * (on_real + on_fake)
        if self.mode == "wgangp":
            alpha = torch.rand(len(real), 1, 1, 1, dtype=real.dtype)
            mixed = (alpha * real + (1 - alpha) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(D(mixed).sum(), mixed, create_graph=True)
            loss = loss + 10.0 * ((slope.flatten(1) ** 2).sum(1).sqrt() - 1).pow(2).mean()
        return loss


def plain_learning_rate(epoch: int, lr: float = 2e-4) -> float:
    return lr * (1 - max(0, epoch - 100) / 101)
