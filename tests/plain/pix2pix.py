"""A training step of pix2pix (Isola et al. 2017), restated with plain torch modules; nothing is the package's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.plain.step import PlainPool, plain_gan_loss


class PlainPix2Pix:
    def __init__(
        self,
        G: nn.Module,
        D: nn.Module,
        *,
        mode: str = "vanilla",
        pool_size: int = 0,
        pool_seed: int = 0,
        lambda_L1: float = 100.0,
        eps: float = 1e-8,
    ) -> None:
        self.G, self.D, self.mode, self.lambda_L1 = G, D, mode, lambda_L1
        self.pool = PlainPool(pool_size, pool_seed) if pool_size else None
        adam = {"lr": 2e-4, "betas": (0.5, 0.999), "eps": eps}
        self.optimizer_G = torch.optim.Adam(G.parameters(), **adam)
        self.optimizer_D = torch.optim.Adam(D.parameters(), **adam)

    def step(self, A: Tensor, B: Tensor) -> dict[str, Tensor]:
        fake = self.G(A)
        fake_pair = torch.cat([A, fake.detach()], 1)
        if self.pool is not None:
            fake_pair = self.pool.query(fake_pair)
        on_fake = plain_gan_loss(self.mode, self.D(fake_pair), False, True)
        on_real = plain_gan_loss(self.mode, self.D(torch.cat([A, B], 1)), True, True)
        loss_D = 0.5 * (on_fake + on_real)
        self.optimizer_D.zero_grad()
        loss_D.backward()
        self.optimizer_D.step()
        losses = {
            "G_A": plain_gan_loss(self.mode, self.D(torch.cat([A, fake], 1)), True, False),
            "L1_A": self.lambda_L1 * (fake - B).abs().mean(),
        }
        self.optimizer_G.zero_grad()
        gradients_D = [p.grad.clone() for p in self.D.parameters() if p.grad is not None]
        sum(losses.values()).backward()
        for p, gradient in zip([p for p in self.D.parameters() if p.grad is not None], gradients_D, strict=True):
            p.grad = gradient  # the generator's losses are no reason to move the discriminator
        self.optimizer_G.step()
        return {name: loss.detach() for name, loss in (losses | {"D_A": loss_D}).items()}
