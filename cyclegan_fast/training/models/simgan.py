"""The training step of SimGAN (Shrivastava et al. 2017): outputs that look like the target, and stay near the input.

    L_G = L(D_A(fake_B), 1) + lambda_self * mean|fake_B - A|            fake_B = G_A(A); B -> A likewise, by itself

A rival of the paper's tables 2 and 3, on the networks, image pools and discriminators of CycleGAN.
"""

from __future__ import annotations

from torch import Tensor

from cyclegan_fast.training.adam import Gradients
from cyclegan_fast.training.objective import generator_loss, l1_losses
from cyclegan_fast.training.results import Images, Losses, detached, frozen, gradients
from cyclegan_fast.training.step import Cycle, CycleGANStep


class SimGANStep(CycleGANStep):
    """The step of CycleGAN without cycles: a distance between output and input takes the place of the way back."""

    def generator_pass(
        self, cycle: Cycle, real: Tensor, target: Tensor, scale: Tensor
    ) -> tuple[Images, Losses, Gradients]:
        """Translates, and takes the gradients of a generator that should convince and change little."""
        o = self.objective
        losses: Losses = {}
        with self.autocast():
            fake = cycle.generator(real)
            if o.lambda_gan:
                with frozen(self.leaves[cycle.discriminator]):
                    logits = cycle.discriminator(fake)
                losses[f"G_{cycle.source}"] = generator_loss(o.gan_mode, o.lambda_gan, logits)
            if o.lambda_self:
                distance = l1_losses([(o.lambda_self, *self.compared(fake, real))])
                losses[f"self_{cycle.source}"] = distance.squeeze(0)
        found = gradients(list(losses.values()), self.generator_leaves, scale)
        return detached({f"fake_{cycle.target}": fake}), detached(losses), found

    def compared(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what is compared of a translation and its input, [N, C, H, W] both: the images themselves."""
        return fake, real
