"""What the training steps of all models share: networks, averages, optimizers, precision, and the updates.

A step of a model computes gradients, each in its own way, and gives them to `TrainingStep.update_weights`, the one
place where gradients meet Adam. All of it stays on the device, so that a CUDA graph can hold it.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.models import model_of
from cyclegan_fast.nn.working_weights import gradient_leaves, make_working_weights
from cyclegan_fast.ops.adam import adam_step
from cyclegan_fast.training.adam import Adam, Gradients, LossScaler
from cyclegan_fast.training.ema import AveragedGenerators
from cyclegan_fast.training.image_pool import ImagePool, MixedSizePool
from cyclegan_fast.training.objective import discriminator_loss, gradient_penalty
from cyclegan_fast.training.reduction import GradientReduction
from cyclegan_fast.training.results import Images, Losses, gradients, largest

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
GENERATOR_PARTS = 3  # of the generators' gradients: the first travel over a network while the last are computed


class TrainingStep(ABC):
    """Holds what a step changes: networks, averaged generators, two optimizers, image pools and the loss scale.

    Args:
        networks: Those of the model, on their device.
        config: The objective, Adam, the mixed precision, and the micro-batches of a step.
    """

    def __init__(self, networks: nn.ModuleDict, config: TrainConfig) -> None:
        self.networks, self.model = networks, model_of(config)
        self.objective, self.optim = config.objective, config.optim
        generators = {name: networks[name] for name in self.model.generators}
        discriminators = [networks[name] for name in self.model.discriminators]
        weight = next(networks.parameters())
        self.device = weight.device
        self.averaged = AveragedGenerators(generators, config.optim.ema) if config.optim.ema else None
        self.amp_dtype = AMP_DTYPES.get(config.run.amp)
        make_working_weights(networks, self.amp_dtype if reads_working_weights(config, self.device) else None)
        self.leaves = {network: gradient_leaves(network) for network in networks.values()}
        self.generator_leaves = [leaf for network in generators.values() for leaf in self.leaves[network]]
        self.lr = torch.full((), config.optim.lr, dtype=torch.float64, device=self.device)  # where a graph may hold it
        self.optimizer_G = self.make_optimizer(list(generators.values()))
        self.optimizer_D = self.make_optimizer(discriminators)
        self.scaler = LossScaler(self.device, enabled=config.run.amp == "fp16")
        # In fp16 a step overflows now and then, which is no anomaly.
        self.detects_anomalies = config.run.detect_anomaly and config.run.amp != "fp16"
        self.pools = self.make_pools(config)
        self.micro_batches = config.optim.grad_accumulation
        self.share = weight.new_full((), 1 / self.micro_batches)  # of the gradients that is a micro-batch's
        # Batch norm couples the images of a batch, so that two batches may share a pass only without it.
        self.pairs = config.model.norm != "batch"
        self.reduction: GradientReduction | None = None  # over the ranks that train together
        self.running_statistics = [b for b in networks.buffers() if b.is_floating_point()]  # of batch norm

    @abstractmethod
    def __call__(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on real_A [N, C_A, H, W] and real_B [N, C_B, H, W]; returns the images, detached, and the losses.

        N counts the images of all micro-batches together, and each loss is their mean.

        Raises:
            UserError: N is no multiple of the number of micro-batches.
        """

    def make_optimizer(self, networks: Sequence[nn.Module]) -> Adam:
        """Makes the optimizer of all generators or of all discriminators."""
        return Adam(networks, self.lr, self.optim)

    def make_pools(self, config: TrainConfig) -> dict[str, ImagePool | MixedSizePool]:
        """Makes the pools of fakes, by their names; each decides by a seed of its own."""
        kind = ImagePool if config.data.has_one_size else MixedSizePool
        seed, size = 2 * config.run.seed, config.objective.pool_size
        return {name: kind(size, seed + i, self.device) for i, name in enumerate(self.pool_names())}

    def pool_names(self) -> Sequence[str]:
        """One pool for each discriminator, named by what it scores."""
        return [f"pool_{scored}" for scored in sorted(self.model.discriminators.values())]

    def check_batch(self, images: Tensor) -> None:
        """Checks that a batch is as many equal micro-batches as a step has.

        Raises:
            UserError: It is not.
        """
        if len(images) % self.micro_batches:
            raise UserError(f"{self.micro_batches} equal micro-batches cannot be made of {len(images)} images")

    def discriminator_pass(
        self, discriminator: nn.Module, real: Tensor, fake: Tensor, scale: Tensor
    ) -> tuple[Tensor, Gradients]:
        """Returns the discriminator's loss on real and pooled fake images [N, C, H, W], and its gradients.

        Both batches share one pass where possible.
        """
        with self.autocast():
            if self.pairs and real.shape == fake.shape:
                real_logits, fake_logits = discriminator([real, fake])
            else:
                real_logits, fake_logits = discriminator(real), discriminator(fake)
            loss = discriminator_loss(self.objective.gan_mode, real_logits, fake_logits)
            if self.objective.gan_mode == "wgangp":
                alpha = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
                loss = loss + self.objective.lambda_gp * gradient_penalty(discriminator, real, fake, alpha)
        return loss.detach(), gradients([loss], self.leaves[discriminator], scale)

    def update_weights(
        self,
        losses: Losses,
        *,
        generators: Sequence[Gradients] = (),
        discriminators: Gradients | None = None,
        checked: Sequence[Gradients] = (),
    ) -> None:
        """Updates the generators by the sum of their gradients, the discriminators, and the loss scale.

        Either update is skipped, on the device itself, when one of its losses or gradients is not finite; with anomaly
        detection both are, but for a discriminator's that pix2pix has made before. Where ranks train together, losses
        and gradients become their means first, in `losses` and in the lists themselves.

        Args:
            losses: Those that the gradients are of, and those of updates before that these depend on.
            generators: One or two lists of gradients of the weights of all generators; none leaves these as they are.
            discriminators: Gradients of the weights of all discriminators; None leaves these as they are.
            checked: Gradients of an update before, which are to be finite, too, with anomaly detection.
        """
        if self.reduction is not None:
            self._reduce(self.reduction, losses, generators, discriminators)
        of_D = [loss for name, loss in losses.items() if name.startswith("D_")]
        of_G = [loss for name, loss in losses.items() if not name.startswith("D_")]
        if self.detects_anomalies:
            found = [*generators, *checked] + ([] if discriminators is None else [discriminators])
            of_D = of_G = [*losses.values(), largest(found).to(next(iter(losses.values())))]
        updates = []
        if generators:
            updates.append(self.optimizer_G.group(of_G, *generators))
        if discriminators is not None:
            updates.append(self.optimizer_D.group(of_D, discriminators))
        o = self.optim
        adam_step(updates, lr=self.lr, betas=(o.beta1, o.beta2), eps=o.eps, loss_scale=self.scaler.state)
        if self.averaged is not None and generators:
            self.averaged.update(self.optimizer_G.steps)

    @property
    def generator_parts(self) -> list[list[int]]:
        """The places of the generators' gradients, in parts that ranks reduce one after the other; else in one part."""
        count = 1 if self.reduction is None else GENERATOR_PARTS
        return _cut_evenly([self.leaves[self.networks[name]] for name in self.model.generators], count)

    def begin_reducing_generators(self, part: Sequence[int], generators: Sequence[Gradients]) -> None:
        """Begins to reduce the sums of a part of the generators' gradients; their means are then in the first list.

        Args:
            part: The places of the gradients.
            generators: One or two lists of gradients of the weights of all generators.
        """
        if self.reduction is None:
            return
        weights = [self.optimizer_G.weights[i] for i in part]
        found = self.reduction.begin(weights, *([one[i] for i in part] for one in generators))
        for i, gradient in zip(part, found, strict=True):
            generators[0][i] = gradient
            for others in generators[1:]:
                others[i] = None

    def begin_reducing(self, reduction: GradientReduction, network: nn.Module, found: Gradients) -> Gradients:
        """Begins to reduce the gradients of a discriminator, and returns where their means will be; not twice."""
        return reduction.begin([w for w in network.parameters() if w.requires_grad], found)

    def _reduce(
        self,
        reduction: GradientReduction,
        losses: Losses,
        generators: Sequence[Gradients],
        discriminators: Gradients | None,
    ) -> None:
        """Replaces gradients and losses by their means over all ranks; those of generators are then in the first list.

        The arguments are those of `update_weights`.
        """
        if discriminators is not None:  # first, as where they have begun before: all ranks reduce in one order
            begin = 0
            for network in (self.networks[name] for name in self.model.discriminators):
                end = begin + len(self.leaves[network])
                discriminators[begin:end] = self.begin_reducing(reduction, network, discriminators[begin:end])
                begin = end
        if generators:
            for part in self.generator_parts:
                self.begin_reducing_generators(part, generators)
        losses |= reduction.mean_of(losses)
        reduction.wait()
        if generators:
            reduction.average(self.running_statistics)

    def refresh_working_weights(self) -> None:
        """Rounds those anew whose weights something else than a step has changed."""
        for working in self.optimizer_G.working + self.optimizer_D.working:
            if working is not None:
                working.read()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context in which convolutions run in 16 bit; norms and losses accumulate in 32."""
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.amp_dtype)

    def updates_made(self) -> dict[str, Tensor]:
        """Returns how many updates each optimizer has made, scalars on the device, by the networks that it trains."""
        updates = {"the generators": self.optimizer_G.steps}
        return updates | ({"the discriminators": self.optimizer_D.steps} if self.objective.lambda_gan else {})

    @property
    def inference_networks(self) -> dict[str, nn.Module]:
        """The networks as a checkpoint holds them: the generators averaged, where --ema asks for it."""
        return dict(self.networks.items()) | (self.averaged.networks if self.averaged is not None else {})

    @property
    def raw_networks(self) -> dict[str, nn.Module]:
        """The generators that `inference_networks` has averages of; none without --ema."""
        return {} if self.averaged is None else self.averaged.trained

    def restart(self) -> None:
        """Goes on from the weights that the networks have been given."""
        if self.averaged is not None:
            self.averaged.restart()

    def set_learning_rate(self, lr: float) -> None:
        """Sets the rate of both optimizers."""
        self.lr.fill_(lr)

    @property
    def _parts(self) -> dict[str, Any]:
        parts = {"optimizer_G": self.optimizer_G, "optimizer_D": self.optimizer_D, "scaler": self.scaler}
        return {**parts, **self.pools}

    def state_dict(self) -> dict[str, Any]:
        """Returns everything but the weights that the next step depends on."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state_dict` was taken."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        if self.averaged is not None:
            self.averaged.updates.copy_(self.optimizer_G.steps)


def reads_working_weights(config: TrainConfig, device: torch.device) -> bool:
    """Whether convolutions read working weights: on CUDA alone, as ours on the CPU read float32 under autocast too.

    Not compiled ones: a compiler fuses the rounding itself.
    """
    return device.type == "cuda" and not config.run.compile


def _cut_evenly(networks: Sequence[Sequence[Tensor]], count: int) -> list[list[int]]:
    """Cuts the weights of networks into parts of about one size, each with a piece of every network.

    Returns:
        The places of each part's weights in the list of all networks' weights.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    place = 0
    for weights in networks:
        total, before = sum(weight.numel() for weight in weights), 0
        for weight in weights:
            parts[before * count // total].append(place)
            before += weight.numel()
            place += 1
    return parts
