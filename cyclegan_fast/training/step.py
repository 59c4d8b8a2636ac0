"""One training step of CycleGAN: images of A and of B in, updated networks, translated images and losses out.

The cycles A -> B -> A and B -> A -> B share nothing but the weights, and a discriminator learns from fakes made before
the generators' update. So each cycle computes all its gradients by itself, after the other one or beside it; then Adam
updates the generators by the sum of both, and the discriminators. Three more exact rewritings save passes: a generator
translates its own domain and the identity batch together; a discriminator scores real and pooled fake images together;
and the generators' losses take no gradient of the discriminators' weights. docs/how_the_step_works.md says why each is
exact. All of it stays on the device, so that a CUDA graph can hold it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn.working_weights import gradient_leaves, make_working_weights
from cyclegan_fast.ops.adam import adam_step
from cyclegan_fast.training.adam import Adam, Gradients, LossScaler
from cyclegan_fast.training.concurrency import choose_concurrency, runs_in_order
from cyclegan_fast.training.ema import AveragedGenerators
from cyclegan_fast.training.image_pool import ImagePool, MixedSizePool
from cyclegan_fast.training.joint_gradients import JointGradients, joins_passes
from cyclegan_fast.training.objective import discriminator_loss, generator_loss, gradient_penalty, l1_losses
from cyclegan_fast.training.reduction import GradientReduction

Images = dict[str, Tensor]  # each [N, C, H, W] in [-1, 1]
Losses = dict[str, Tensor]  # scalars on the device

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOSSES = ("G_A", "G_B", "cycle_A", "cycle_B", "idt_A", "idt_B", "D_A", "D_B")  # in the order in which they are shown


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """One of the two cycles, source -> target -> source: its networks, its pool, and the weights of its losses."""

    source: str  # A or B
    target: str
    generator: nn.Module  # source -> target
    inverse_generator: nn.Module  # target -> source
    discriminator: nn.Module  # scores images of the target
    pool: ImagePool | MixedSizePool  # earlier fakes of the target
    lambda_cycle: float
    lambda_identity: float


@dataclass(frozen=True)
class CycleResult:
    """What one cycle contributes to a step, detached."""

    images: Images
    losses: Losses
    generator_gradients: Gradients  # of the weights of both generators
    discriminator_gradients: Gradients  # of the weights of its own discriminator


class CycleGANStep:
    """Holds what a step changes: networks, averaged generators, two optimizers, two image pools and the loss scale.

    Args:
        networks: G_A, G_B, D_A and D_B, on their device.
        config: The objective, Adam, the mixed precision, and the micro-batches of a step.
    """

    def __init__(self, networks: nn.ModuleDict, config: TrainConfig) -> None:
        self.networks = networks
        self.objective, self.optim = config.objective, config.optim
        G_A, G_B, D_A, D_B = (networks[name] for name in ("G_A", "G_B", "D_A", "D_B"))
        self.device = next(G_A.parameters()).device
        self.averaged = AveragedGenerators({"G_A": G_A, "G_B": G_B}, config.optim.ema) if config.optim.ema else None
        self.amp_dtype = AMP_DTYPES.get(config.run.amp)
        make_working_weights(networks, self.amp_dtype if reads_working_weights(config, self.device) else None)
        self.leaves = {network: gradient_leaves(network) for network in networks.values()}
        self.lr = torch.full((), config.optim.lr, dtype=torch.float64, device=self.device)  # where a graph may hold it
        self.optimizer_G = Adam([G_A, G_B], self.lr, config.optim)
        self.optimizer_D = Adam([D_A, D_B], self.lr, config.optim)
        self.scaler = LossScaler(self.device, enabled=config.run.amp == "fp16")
        # In fp16 a step overflows now and then, which is no anomaly.
        self.detects_anomalies = config.run.detect_anomaly and config.run.amp != "fp16"
        self.pool_A, self.pool_B = _image_pools(config, self.device)
        self.cycle_A, self.cycle_B = self._cycles()
        self.micro_batches = config.optim.grad_accumulation
        weight = next(G_A.parameters())
        self.share = weight.new_full((), 1 / self.micro_batches)  # of the gradients that is a micro-batch's
        # Batch norm couples the images of a batch, so that two batches may share a pass only without it.
        self.pairs = config.model.norm != "batch"
        self.choose_runner = choose_concurrency(config, self.device)
        self.joint = JointGradients([G_A, G_B] if joins_passes(config, self.device) else [])
        self.reduction: GradientReduction | None = None  # over the ranks that train together
        self.running_statistics = [b for b in networks.buffers() if b.is_floating_point()]  # of batch norm

    def _cycles(self) -> tuple[Cycle, Cycle]:
        """The cycle that starts in A and the one that starts in B."""
        o = self.objective
        G_A, G_B, D_A, D_B = (self.networks[name] for name in ("G_A", "G_B", "D_A", "D_B"))
        return (
            Cycle(
                source="A", target="B", generator=G_A, inverse_generator=G_B, discriminator=D_A, pool=self.pool_B,
                lambda_cycle=o.lambda_A, lambda_identity=o.lambda_identity * o.lambda_B,
            ),
            Cycle(
                source="B", target="A", generator=G_B, inverse_generator=G_A, discriminator=D_B, pool=self.pool_A,
                lambda_cycle=o.lambda_B, lambda_identity=o.lambda_identity * o.lambda_A,
            ),
        )  # fmt: skip

    def __call__(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on real_A [N, C_A, H, W] and real_B [N, C_B, H, W]; returns the images, detached, and the losses.

        N counts the images of all micro-batches together, and each loss is their mean.

        Raises:
            UserError: N is no multiple of the number of micro-batches.
        """
        if len(real_A) % self.micro_batches:
            raise UserError(f"{self.micro_batches} equal micro-batches cannot be made of {len(real_A)} images")
        scale = self.scaler.scale(self.share)
        self.refresh_working_weights()  # here, as the cycles may run on a stream each
        run_both = self.choose_runner(real_A)
        images = len(real_A) * (3 if self.objective.lambda_identity else 2)  # that a generator translates
        with self.joint.both_passes(real_A, real_B, images, self.autocast):
            from_A, from_B = run_both(
                lambda: self.run_cycle(self.cycle_A, real_A, real_B, scale, reduces=runs_in_order(run_both)),
                lambda: self.run_cycle(self.cycle_B, real_B, real_A, scale, reduces=runs_in_order(run_both)),
            )
            self.joint.complete(from_A.generator_gradients, self.leaves, run_both)
        found = from_A.losses | from_B.losses
        losses = {name: found[name] for name in LOSSES if name in found}
        self.update_weights(from_A, from_B, losses)
        return {"real_A": real_A, "real_B": real_B} | from_A.images | from_B.images, losses

    def run_cycle(
        self, cycle: Cycle, real: Tensor, target: Tensor, scale: Tensor, *, reduces: bool = False
    ) -> CycleResult:
        """Computes one cycle's images, losses and gradients.

        Args:
            cycle: The cycle.
            real: Real images of its source, [N, C, H, W].
            target: Real images of its target, [N, C', H', W'].
            scale: What its gradients are multiplied by, a scalar: the loss scale over the number of micro-batches.
            reduces: Where ranks train together, begin to reduce its discriminator's gradients.
        """
        parts = zip(real.chunk(self.micro_batches), target.chunk(self.micro_batches), strict=True)
        result = _mean(self.run_micro_batch(cycle, *part, scale) for part in parts)
        if reduces and self.reduction is not None:
            self._begin_reducing(self.reduction, cycle, result)
        return result

    def run_micro_batch(self, cycle: Cycle, real: Tensor, target: Tensor, scale: Tensor) -> CycleResult:
        """Computes the generators' gradients against the discriminator as it is, then the discriminator's own."""
        images, losses, generator_gradients = self.generator_pass(cycle, real, target, scale)
        discriminator_gradients: Gradients = []
        if self.objective.lambda_gan:
            pooled = cycle.pool.exchange(images[f"fake_{cycle.target}"])
            loss, discriminator_gradients = self.discriminator_pass(cycle.discriminator, target, pooled, scale)
            losses[f"D_{cycle.source}"] = loss
        return CycleResult(images, losses, generator_gradients, discriminator_gradients)

    def generator_pass(
        self, cycle: Cycle, real: Tensor, target: Tensor, scale: Tensor
    ) -> tuple[Images, Losses, Gradients]:
        """Translates and reconstructs, and takes the generators' gradients of all losses of this cycle."""
        o = self.objective
        losses: Losses = {}
        distances: dict[str, tuple[float, Tensor, Tensor]] = {}  # weight, image, what it should be
        minimised: list[Tensor] = []  # all losses again, those of one operator as one tensor
        with self.autocast():
            with self.joint.one_pass(cycle.generator):
                fake, identity = self.translate(cycle.generator, real, target)
            images = {f"fake_{cycle.target}": fake}
            if o.lambda_gan:
                with _frozen(self.leaves[cycle.discriminator]):
                    logits = cycle.discriminator(fake)
                losses[f"G_{cycle.source}"] = generator_loss(o.gan_mode, o.lambda_gan, logits)
                minimised = list(losses.values())
            if cycle.lambda_cycle:
                with self.joint.one_pass(cycle.inverse_generator):
                    reconstruction = cycle.inverse_generator(fake)
                images[f"rec_{cycle.source}"] = reconstruction
                distances[f"cycle_{cycle.source}"] = cycle.lambda_cycle, reconstruction, real
            if identity is not None:
                images[f"idt_{cycle.source}"] = identity
                distances[f"idt_{cycle.source}"] = cycle.lambda_identity, identity, target
            if distances:
                minimised.append(l1_losses(distances.values()))
                losses |= dict(zip(distances, minimised[-1].detach(), strict=True))
        leaves = self.leaves[self.networks["G_A"]] + self.leaves[self.networks["G_B"]]
        return _detached(images), _detached(losses), _gradients(minimised, leaves, scale)

    def translate(self, generator: nn.Module, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns generator(source) and, for the identity loss, generator(target): in one pass where possible."""
        o = self.objective
        if not (o.lambda_identity and (o.lambda_A or o.lambda_B)):
            return generator(source), None
        if self.pairs and source.shape == target.shape:
            fake, identity = generator([source, target])
            return fake, identity
        return generator(source), generator(target)

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
        return loss.detach(), _gradients([loss], self.leaves[discriminator], scale)

    def update_weights(self, from_A: CycleResult, from_B: CycleResult, losses: Losses) -> None:
        """Updates the generators by the sum of both cycles' gradients, the discriminators, and the loss scale.

        Either update is skipped, on the device itself, when one of its losses or gradients is not finite; with anomaly
        detection both are, so that all weights stay as they were before the step. Where ranks train together, losses
        and gradients become their means first, in `losses` and in the lists themselves.
        """
        if self.reduction is not None:
            self._reduce(self.reduction, from_A, from_B, losses)
        of_D = [loss for name, loss in losses.items() if name.startswith("D_")]
        of_G = [loss for name, loss in losses.items() if not name.startswith("D_")]
        if self.detects_anomalies:
            of_D = of_G = [*losses.values(), _largest_gradient(from_A, from_B).to(of_G[0])]
        updates = [self.optimizer_G.group(of_G, from_A.generator_gradients, from_B.generator_gradients)]
        if self.objective.lambda_gan:
            gradients = from_A.discriminator_gradients + from_B.discriminator_gradients
            updates.append(self.optimizer_D.group(of_D, gradients))
        o = self.optim
        adam_step(updates, lr=self.lr, betas=(o.beta1, o.beta2), eps=o.eps, loss_scale=self.scaler.state)
        if self.averaged is not None:
            self.averaged.update(self.optimizer_G.steps)

    def _reduce(self, reduction: GradientReduction, from_A: CycleResult, from_B: CycleResult, losses: Losses) -> None:
        """Replaces gradients and losses by their means over all ranks; the generators' gradients are then in A's."""
        both = from_A.generator_gradients, from_B.generator_gradients
        both[0][:] = reduction.begin(self.optimizer_G.weights, *both)
        both[1][:] = [None] * len(both[1])
        for cycle, result in ((self.cycle_A, from_A), (self.cycle_B, from_B)):
            self._begin_reducing(reduction, cycle, result)
        losses |= reduction.mean_of(losses)
        reduction.wait()
        reduction.average(self.running_statistics)

    def _begin_reducing(self, reduction: GradientReduction, cycle: Cycle, result: CycleResult) -> None:
        """Begins to reduce the gradients of a cycle's discriminator; not twice."""
        if gradients := result.discriminator_gradients:
            weights = [w for w in cycle.discriminator.parameters() if w.requires_grad]
            gradients[:] = reduction.begin(weights, gradients)

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

    def set_learning_rate(self, lr: float) -> None:
        """Sets the rate of both optimizers."""
        self.lr.fill_(lr)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything but the weights that the next step depends on."""
        return {
            "optimizer_G": self.optimizer_G.state_dict(),
            "optimizer_D": self.optimizer_D.state_dict(),
            "scaler": self.scaler.state_dict(),
            "pool_A": self.pool_A.state_dict(),
            "pool_B": self.pool_B.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state_dict` was taken."""
        for name in ("optimizer_G", "optimizer_D", "scaler", "pool_A", "pool_B"):
            getattr(self, name).load_state_dict(state[name])
        if self.averaged is not None:
            self.averaged.updates.copy_(self.optimizer_G.steps)


def full_precision(x: Tensor) -> Tensor:
    """Returns 16-bit values as float32, others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


@contextlib.contextmanager
def _frozen(weights: list[Tensor]) -> Iterator[None]:
    """What is computed inside has no gradients of these weights: an operator would compute them, needed or not."""
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_()


def _image_pools(config: TrainConfig, device: torch.device) -> list[ImagePool | MixedSizePool]:
    """Makes the pools of fakes of A and of B, which decide by seeds of their own."""
    kind = ImagePool if config.data.has_one_size else MixedSizePool
    return [kind(config.objective.pool_size, 2 * config.run.seed + i, device) for i in range(2)]


def reads_working_weights(config: TrainConfig, device: torch.device) -> bool:
    """Whether convolutions read working weights: on CUDA alone, as ours on the CPU read float32 under autocast too.

    Not compiled ones: a compiler fuses the rounding itself.
    """
    return device.type == "cuda" and not config.run.compile


def _gradients(losses: list[Tensor], weights: list[Tensor], scale: Tensor) -> Gradients:
    """scale * d(sum of all losses) / d(each weight), laid out as the weight, which Adam relies on."""
    if not losses:
        return [None] * len(weights)
    found = torch.autograd.grad(losses, weights, [scale.expand_as(loss) for loss in losses], allow_unused=True)
    assert any(g is not None for g in found), "the forward pass read other tensors than those of the gradients"
    return [
        g if g is None or g.stride() == w.stride() else torch.empty_like(w).copy_(g)
        for g, w in zip(found, weights, strict=True)
    ]


def _sum(first: Gradients, second: Gradients) -> Gradients:
    """The sum of two lists of gradients, in float32 where they are in 16 bits, else in the memory of the first."""
    totals = [None if a is None else full_precision(a) for a in first]
    both = [(a, b) for a, b in zip(totals, second, strict=True) if a is not None and b is not None]
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [b if a is None else a for a, b in zip(totals, second, strict=True)]


def _largest_gradient(*results: CycleResult) -> Tensor:
    """The largest magnitude in all gradients, a scalar; NaN where one of them is."""
    found = [g for result in results for g in result.generator_gradients + result.discriminator_gradients]
    norms = torch._foreach_norm([g for g in found if g is not None], float("inf"))
    return torch.stack([full_precision(norm) for norm in norms]).max()


def _mean(results: Iterator[CycleResult]) -> CycleResult:
    """Joins micro-batches: images concatenated, losses averaged, gradients (already scaled) summed as they come."""
    first = next(results)
    images, losses = [first.images], [first.losses]
    generator, discriminator = first.generator_gradients, first.discriminator_gradients
    for result in results:
        images.append(result.images)
        losses.append(result.losses)
        generator = _sum(generator, result.generator_gradients)
        discriminator = _sum(discriminator, result.discriminator_gradients)
    if len(losses) == 1:
        return first
    return CycleResult(
        {name: torch.cat([part[name] for part in images]) for name in first.images},
        {name: torch.stack([part[name] for part in losses]).mean() for name in first.losses},
        generator,
        discriminator,
    )


def _detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}
