"""The training step of pix2pix (Isola et al. 2017): pairs of images in, an updated translator A -> B out.

    fake_B = G_A(A)
    L_D = 0.5 * [ L(D_A([A, B]), 1) + L(D_A([A, fake_B]), 0) ]          first; [a, b] joins the channels of a pair
    L_G = L(D_A([A, fake_B]), 1) + 100 * mean|fake_B - B|               then, against the updated discriminator

As in the authors' code, the discriminator's update comes first and the generator learns from it as it is afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.training.adam import Gradients
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.objective import generator_loss, l1_losses
from cyclegan_fast.training.results import Images, Losses, add_gradients, detached, frozen, gradients, join, mean_losses

Pair = tuple[Tensor, Tensor]  # images of A and their partners of B, [N, C, H, W] each


class Pix2PixStep(TrainingStep):
    """The step of pix2pix.

    With several micro-batches each is translated twice, once for either update: the activations of all would take the
    memory that micro-batches save. Dropout then draws anew.

    Args:
        networks: G_A, and D_A for the channels of A and B together, on their device.
        config: The objective, Adam, the mixed precision, and the micro-batches of a step.
    """

    def __init__(self, networks: nn.ModuleDict, config: TrainConfig) -> None:
        super().__init__(networks, config)
        self.generator, self.discriminator = networks["G_A"], networks["D_A"]
        (self.pool,) = self.pools.values()

    def __call__(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on real_A [N, C_A, H, W] and their partners real_B [N, C_B, H, W]; see `TrainingStep.__call__`."""
        self.check_batch(real_A)
        self.refresh_working_weights()
        pairs = list(zip(real_A.chunk(self.micro_batches), real_B.chunk(self.micro_batches), strict=True))
        translated = [self.translate(pairs[0][0])] if len(pairs) == 1 else []
        losses: Losses = {}
        of_D: list[Gradients] = []
        if self.objective.lambda_gan:
            losses, gradients_D = self.discriminator_phase(pairs, translated)
            self.update_weights(losses, discriminators=gradients_D)
            of_D.append(gradients_D)
        fakes, of_generator, gradients_G = self.generator_phase(pairs, translated)
        losses = of_generator | losses
        self.update_weights(losses, generators=[gradients_G], checked=of_D)
        return {"real_A": real_A, "real_B": real_B, "fake_B": fakes}, losses

    def translate(self, source: Tensor) -> Tensor:
        """Returns the translation of a micro-batch, [N, C_B, H, W]."""
        with self.autocast():
            fake: Tensor = self.generator(source)
        return fake

    def discriminator_phase(self, pairs: list[Pair], translated: list[Tensor]) -> tuple[Losses, Gradients]:
        """Computes the discriminator's loss and gradients.

        Args:
            pairs: The micro-batches.
            translated: What the generator makes of them; none where it is to be made for this alone.
        """
        scale = self.scaler.scale(self.share)
        losses: list[Losses] = []
        total: Gradients | None = None
        for i, (source, target) in enumerate(pairs):
            with torch.no_grad():
                fake = translated[i] if translated else self.translate(source)
                pooled = self.pool.exchange(join(source, fake))
            loss, found = self.discriminator_pass(self.discriminator, join(source, target), pooled, scale)
            losses.append({"D_A": loss})
            total = found if total is None else add_gradients(total, found)
        assert total is not None
        return mean_losses(losses), total

    def generator_phase(self, pairs: list[Pair], translated: list[Tensor]) -> tuple[Tensor, Losses, Gradients]:
        """Computes the translations, the generator's losses and its gradients; arguments as above."""
        scale = self.scaler.scale(self.share)
        fakes: list[Tensor] = []
        losses: list[Losses] = []
        total: Gradients | None = None
        for i, (source, target) in enumerate(pairs):
            fake = translated[i] if translated else self.translate(source)
            of_pair = self.generator_losses(source, target, fake)
            found = gradients(list(of_pair.values()), self.generator_leaves, scale)
            fakes.append(fake.detach())
            losses.append(detached(of_pair))
            total = found if total is None else add_gradients(total, found)
        assert total is not None
        return torch.cat(fakes) if len(fakes) > 1 else fakes[0], mean_losses(losses), total

    def generator_losses(self, source: Tensor, target: Tensor, fake: Tensor) -> Losses:
        """Returns what the generator minimises, by name."""
        o = self.objective
        losses: Losses = {}
        with self.autocast():
            if o.lambda_gan:
                with frozen(self.leaves[self.discriminator]):
                    logits = self.discriminator(join(source, fake))
                losses["G_A"] = generator_loss(o.gan_mode, o.lambda_gan, logits)
            if o.lambda_L1:
                losses["L1_A"] = l1_losses([(o.lambda_L1, fake, target)]).squeeze(0)
        return losses
