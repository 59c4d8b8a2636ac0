"""The training step of BiGAN (Donahue et al. 2017) and ALI (Dumoulin et al. 2017), between two sets of images.

    L_D = 0.5 * [ L(D_A([G_B(B), B]), 1) + L(D_A([A, G_A(A)]), 0) ]     [a, b] joins the channels of two images
    L_G = L(D_A([A, G_A(A)]), 1) + L(D_A([G_B(B), B]), 0)

One discriminator tells pairs of an image of A and its translation from pairs of an image of B and its; where it cannot,
each generator is the inverse of the other one. As in the paper, an image takes the place of the latent vector of the
original method. A rival of the paper's tables 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.objective import generator_loss
from cyclegan_fast.training.results import Images, Losses, StepResult, detached, frozen, gradients, join, mean_result


class BiGANStep(TrainingStep):
    """The step of BiGAN.

    Args:
        networks: G_A, G_B, and D_A for the channels of A and B together, on their device.
        config: The objective, Adam, the mixed precision, and the micro-batches of a step.
    """

    def __init__(self, networks: nn.ModuleDict, config: TrainConfig) -> None:
        super().__init__(networks, config)
        self.discriminator = networks["D_A"]

    def pool_names(self) -> Sequence[str]:
        """One pool for pairs with an image of A, and one for those with an image of B."""
        return "pool_A", "pool_B"

    def __call__(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on real_A [N, C_A, H, W] and real_B [N, C_B, H, W]; see `TrainingStep.__call__`."""
        self.check_batch(real_A)
        self.refresh_working_weights()
        scale = self.scaler.scale(self.share)
        parts = zip(real_A.chunk(self.micro_batches), real_B.chunk(self.micro_batches), strict=True)
        result = mean_result(self.run_micro_batch(*part, scale) for part in parts)
        self.update_weights(
            result.losses, generators=[result.generator_gradients], discriminators=result.discriminator_gradients
        )
        return {"real_A": real_A, "real_B": real_B} | result.images, result.losses

    def run_micro_batch(self, A: Tensor, B: Tensor, scale: Tensor) -> StepResult:
        """Computes images, losses, and the gradients of the generators and of the discriminator."""
        o = self.objective
        with self.autocast():
            fake_B, fake_A = self.networks["G_A"](A), self.networks["G_B"](B)
            from_A, from_B = join(A, fake_B), join(fake_A, B)
            with frozen(self.leaves[self.discriminator]):
                logits = self.discriminator(from_A), self.discriminator(from_B)
            losses = {
                "G_A": generator_loss(o.gan_mode, o.lambda_gan, logits[0]),
                "G_B": generator_loss(o.gan_mode, o.lambda_gan, logits[1], real=False),
            }
        of_G = gradients(list(losses.values()), self.generator_leaves, scale)
        with torch.no_grad():
            pooled_A, pooled_B = self.pools["pool_A"].exchange(from_A), self.pools["pool_B"].exchange(from_B)
        loss, of_D = self.discriminator_pass(self.discriminator, pooled_B, pooled_A, scale)
        images = detached({"fake_A": fake_A, "fake_B": fake_B})
        return StepResult(images, {**detached(losses), "D_A": loss}, of_G, of_D)
