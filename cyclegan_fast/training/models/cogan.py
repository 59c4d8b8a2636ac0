"""The training step of CoGAN (Liu and Tuzel 2016): an image of each domain from one latent, by layers that are shared.

    z = max(n, 0), n ~ N(0, 1)    h = blocks(z)    fake_A = decoder_A(h)    fake_B = decoder_B(h)
    L_G = L(D_A(fake_B), 1) + L(D_B(fake_A), 1)
    L_D = 0.5 * [ L(D_A(B), 1) + L(D_A(fake_B), 0) ]                and the same of D_B, A and fake_A

G_A is encoder_A, the residual blocks and decoder_B; G_B is encoder_B, the same blocks and decoder_A. As in the paper,
the generators share their first layers, which make what both images show, and the discriminators their last ones: here
the residual blocks, and all but the first convolution. As the networks are convolutional, a latent is no vector: it
has the shape of an encoder's output, [N, 4 ngf, H / 4, W / 4], and its law, as a norm and a ReLU end an encoder.

To translate an image, the CycleGAN paper finds a latent that makes it, and makes the other image of that. Here the
encoders learn to find it, so that G_A(A) is a translation in one pass. This loss is not of either paper:

    L_E = mean|encoder_A(fake_A) - z| + mean|encoder_B(fake_B) - z|                 fakes without gradients

A rival of the paper's tables 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_fast.config import OptimConfig, TrainConfig
from cyclegan_fast.nn.conv import first_input
from cyclegan_fast.nn.generators import ResnetGenerator
from cyclegan_fast.ops.adam_inputs import AdamGroup
from cyclegan_fast.ops.layout import empty_in_layout_of, memory_format_of
from cyclegan_fast.training.adam import Adam, Gradients
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.objective import generator_loss, l1_losses
from cyclegan_fast.training.results import Images, Losses, StepResult, detached, frozen, gradients, mean_result


class CoGANStep(TrainingStep):
    """The step of CoGAN.

    Each network has a copy of the layers that it shares, so that checkpoints, averages and engines know of no sharing.
    Copies begin equal, and `SharingAdam` keeps them equal to the last bit.

    Args:
        networks: G_A, G_B, D_A and D_B, on their device; the second of each gets the shared layers of the first.
        config: The objective, Adam, the mixed precision, and the micro-batches of a step.
    """

    def __init__(self, networks: nn.ModuleDict, config: TrainConfig) -> None:
        tie(networks)
        super().__init__(networks, config)
        self.G_A: Any = networks["G_A"]  # nn.ModuleDict forgets what it holds
        self.G_B: Any = networks["G_B"]
        self.D_A, self.D_B = networks["D_A"], networks["D_B"]
        self.latent_channels = 4 * config.model.ngf
        shared = list(shared_layers(self.G_A, self.G_B))
        self.statistics = [buffer for layer, _ in shared for buffer in layer.buffers()]  # of batch norm
        self.copies = [buffer for _, copy in shared for buffer in copy.buffers()]

    def make_optimizer(self, networks: Sequence[nn.Module]) -> Adam:
        """Makes the optimizer of both generators or of both discriminators."""
        return SharingAdam(networks, self.lr, self.optim)

    def restart(self) -> None:
        """Goes on from weights that may be those of another model, whose networks share nothing."""
        tie(self.networks)
        super().restart()

    def __call__(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on real_A [N, C_A, H, W] and real_B [N, C_B, H, W]; see `TrainingStep.__call__`."""
        self.check_batch(real_A)
        self.refresh_working_weights()
        scale = self.scaler.scale(self.share)
        parts = zip(real_A.chunk(self.micro_batches), real_B.chunk(self.micro_batches), strict=True)
        result = mean_result(self.run_micro_batch(*part, scale) for part in parts)
        self.copy_statistics()
        self.update_weights(
            result.losses, generators=[result.generator_gradients], discriminators=result.discriminator_gradients
        )
        return {"real_A": real_A, "real_B": real_B} | result.images, result.losses

    def _reduce(self, *arguments: Any) -> None:
        super()._reduce(*arguments)
        self.copy_statistics()  # means over ranks may differ in the last bit from place to place

    def copy_statistics(self) -> None:
        """Makes the running statistics of shared layers those of the first generator, which alone runs them."""
        if self.copies:
            torch._foreach_copy_(self.copies, self.statistics)

    def run_micro_batch(self, A: Tensor, B: Tensor, scale: Tensor) -> StepResult:
        """Computes images, losses, and the gradients of all networks."""
        fakes, of_generators, of_G = self.generator_pass(self.draw_latents(A), scale)
        of_discriminators, of_D = self.both_discriminators(A, B, fakes, scale)
        return StepResult(fakes, of_generators | of_discriminators, of_G, of_D)

    def draw_latents(self, like: Tensor) -> Tensor:
        """Returns latents of as many images as there are in [N, C, H, W], [N, 4 ngf, H / 4, W / 4]."""
        n, _, height, width = like.shape
        return empty_in_layout_of(like, [n, self.latent_channels, height // 4, width // 4]).normal_().relu_()

    def generator_pass(self, z: Tensor, scale: Tensor) -> tuple[Images, Losses, Gradients]:
        """Makes an image of each domain of every latent; takes the gradients that let them convince, and be encoded.

        Args:
            z: Latents, [N, 4 ngf, H / 4, W / 4].
            scale: What the gradients are multiplied by, a scalar.
        """
        o = self.objective
        with self.autocast():
            bordered = first_input(z, pad=1)
            features = self.G_A.transform(bordered, bordered[:, :, 1:-1, 1:-1])
            fake_A, fake_B = self.G_B.decode(features), self.G_A.decode(features)
            with frozen(self.leaves[self.D_A] + self.leaves[self.D_B]):
                logits = self.D_A(fake_B), self.D_B(fake_A)
            encoded_A, encoded_B = _encoded(self.G_A, fake_A), _encoded(self.G_B, fake_B)
            distances = l1_losses([(1.0, encoded_A, z), (1.0, encoded_B, z)])
        losses = {
            "G_A": generator_loss(o.gan_mode, o.lambda_gan, logits[0]),
            "G_B": generator_loss(o.gan_mode, o.lambda_gan, logits[1]),
        }
        found = gradients([*losses.values(), distances], self.generator_leaves, scale)
        losses |= dict(zip(("latent_A", "latent_B"), distances, strict=True))
        return detached({"fake_A": fake_A, "fake_B": fake_B}), detached(losses), found

    def both_discriminators(self, A: Tensor, B: Tensor, fakes: Images, scale: Tensor) -> tuple[Losses, Gradients]:
        """Computes the losses of both discriminators on real images and pooled fakes, and their gradients."""
        losses: Losses = {}
        found: Gradients = []
        for name, network, real, domain in (("D_A", self.D_A, B, "B"), ("D_B", self.D_B, A, "A")):
            pooled = self.pools[f"pool_{domain}"].exchange(fakes[f"fake_{domain}"])
            losses[name], of_network = self.discriminator_pass(network, real, pooled, scale)
            found += of_network
        return losses, found


class SharingAdam(Adam):
    """Adam of two networks that share layers: both copies of a weight are moved by the sum of the gradients of both.

    It adds them where the means over all ranks are known: these may differ in the last bit from place to place.

    Args:
        networks: Two generators or two discriminators.
        lr: As that of `Adam`.
        optim: The settings.
    """

    def __init__(self, networks: Sequence[nn.Module], lr: Tensor, optim: OptimConfig) -> None:
        super().__init__(networks, lr, optim)
        place = {id(weight): i for i, weight in enumerate(self.weights)}
        self.copies: dict[int, int] = {}  # of a weight, by its place: the place of its copy
        for layer, copy in shared_layers(*networks):
            for pair in zip(layer.parameters(), copy.parameters(), strict=True):
                if pair[0].requires_grad:
                    first, second = (place[id(weight)] for weight in pair)
                    self.copies |= {first: second, second: first}

    def group(self, losses: list[Tensor], gradients: Gradients, others: Gradients | None = None) -> AdamGroup:
        """As `Adam.group`, of one list of gradients; one copy of a weight may have none."""
        assert others is None, "the second gradient of a weight is that of its copy"
        of_copies = [gradients[self.copies[i]] if i in self.copies else None for i in range(len(gradients))]
        return super().group(losses, gradients, of_copies)


def shared_layers(first: nn.Module, second: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yields each layer that two generators, or two discriminators, share, and its copy."""
    for (name, layer), copy in zip(first.named_children(), second.children(), strict=True):
        if name == "blocks" if isinstance(first, ResnetGenerator) else name != "first":
            yield layer, copy


def tie(networks: nn.ModuleDict) -> None:
    """Makes the shared layers of G_B and D_B those of G_A and D_A."""
    for first, second in (("G_A", "G_B"), ("D_A", "D_B")):
        for layer, copy in shared_layers(networks[first], networks[second]):
            copy.load_state_dict(layer.state_dict())


def _encoded(generator: Any, images: Tensor) -> Tensor:
    """What a generator makes of images [N, C, H, W], which get no gradients of it, before its residual blocks."""
    h, inside = generator.encode(images.detach())
    encoded: Tensor = inside.contiguous(memory_format=memory_format_of(h))
    return encoded
