"""One training step of CycleGAN: images of A and of B in, updated networks, translated images and losses out.

The cycles A -> B -> A and B -> A -> B share nothing but the weights, and a discriminator learns from fakes made before
the generators' update. So each cycle computes all its gradients by itself, after the other one or beside it; then Adam
updates the generators by the sum of both, and the discriminators. Three more exact rewritings save passes: a generator
translates its own domain and the identity batch together; a discriminator scores real and pooled fake images together;
and the generators' losses take no gradient of the discriminators' weights. docs/how_the_step_works.md says why each is
exact. All of it stays on the device, so that a CUDA graph can hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.training.adam import Gradients
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.concurrency import choose_concurrency, runs_in_order
from cyclegan_fast.training.image_pool import ImagePool, MixedSizePool
from cyclegan_fast.training.joint_gradients import JointGradients, joins_passes
from cyclegan_fast.training.objective import generator_loss, l1_losses
from cyclegan_fast.training.results import Images, Losses, StepResult, detached, frozen, gradients, mean_result


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


class CycleGANStep(TrainingStep):
    """The step of CycleGAN: both cycles, then one update of all networks.

    Args:
        networks: G_A, G_B, D_A and D_B, on their device.
        config: The objective, Adam, the mixed precision, and the micro-batches of a step.
    """

    def __init__(self, networks: nn.ModuleDict, config: TrainConfig) -> None:
        super().__init__(networks, config)
        self.cycle_A, self.cycle_B = self._cycles()
        self.choose_runner = choose_concurrency(config, self.device)
        joined = [networks["G_A"], networks["G_B"]] if joins_passes(config, self.device) else []
        self.joint = JointGradients(joined)

    def _cycles(self) -> tuple[Cycle, Cycle]:
        """The cycle that starts in A and the one that starts in B."""
        o = self.objective
        G_A, G_B, D_A, D_B = (self.networks[name] for name in ("G_A", "G_B", "D_A", "D_B"))
        return (
            Cycle(
                source="A", target="B", generator=G_A, inverse_generator=G_B, discriminator=D_A,
                pool=self.pools["pool_B"], lambda_cycle=o.lambda_A, lambda_identity=o.lambda_identity * o.lambda_B,
            ),
            Cycle(
                source="B", target="A", generator=G_B, inverse_generator=G_A, discriminator=D_B,
                pool=self.pools["pool_A"], lambda_cycle=o.lambda_B, lambda_identity=o.lambda_identity * o.lambda_A,
            ),
        )  # fmt: skip

    def __call__(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on real_A [N, C_A, H, W] and real_B [N, C_B, H, W]; returns the images, detached, and the losses.

        N counts the images of all micro-batches together, and each loss is their mean.

        Raises:
            UserError: N is no multiple of the number of micro-batches.
        """
        self.check_batch(real_A)
        scale = self.scaler.scale(self.share)
        self.refresh_working_weights()  # here, as the cycles may run on a stream each
        run_both = self.choose_runner(real_A)
        images = len(real_A) * (3 if self.objective.lambda_identity else 2)  # that a generator translates
        with self.joint.both_passes(real_A, real_B, images, self.autocast):
            from_A, from_B = run_both(
                lambda: self.run_cycle(self.cycle_A, real_A, real_B, scale, reduces=runs_in_order(run_both)),
                lambda: self.run_cycle(self.cycle_B, real_B, real_A, scale, reduces=runs_in_order(run_both)),
            )
            generators = [from_A.generator_gradients, from_B.generator_gradients]
            for part in self.generator_parts:
                self.joint.complete(generators[0], self.generator_leaves, part, run_both)
                if runs_in_order(run_both):  # else after the discriminators' gradients: all ranks keep one order
                    self.begin_reducing_generators(part, generators)
        found = from_A.losses | from_B.losses
        losses = {name: found[name] for name in self.model.losses if name in found}
        of_D = from_A.discriminator_gradients + from_B.discriminator_gradients
        self.update_weights(
            losses,
            generators=generators,
            discriminators=of_D if self.objective.lambda_gan else None,
        )
        return {"real_A": real_A, "real_B": real_B} | from_A.images | from_B.images, losses

    def run_cycle(
        self, cycle: Cycle, real: Tensor, target: Tensor, scale: Tensor, *, reduces: bool = False
    ) -> StepResult:
        """Computes one cycle's images, losses and gradients.

        Args:
            cycle: The cycle.
            real: Real images of its source, [N, C, H, W].
            target: Real images of its target, [N, C', H', W'].
            scale: What its gradients are multiplied by, a scalar: the loss scale over the number of micro-batches.
            reduces: Where ranks train together, begin to reduce its discriminator's gradients.
        """
        parts = zip(real.chunk(self.micro_batches), target.chunk(self.micro_batches), strict=True)
        result = mean_result(self.run_micro_batch(cycle, *part, scale) for part in parts)
        if reduces and self.reduction is not None and self.objective.lambda_gan:
            found = result.discriminator_gradients
            found[:] = self.begin_reducing(self.reduction, cycle.discriminator, found)
        return result

    def run_micro_batch(self, cycle: Cycle, real: Tensor, target: Tensor, scale: Tensor) -> StepResult:
        """Computes the generators' gradients against the discriminator as it is, then the discriminator's own."""
        images, losses, generator_gradients = self.generator_pass(cycle, real, target, scale)
        discriminator_gradients: Gradients = []
        if self.objective.lambda_gan:
            pooled = cycle.pool.exchange(images[f"fake_{cycle.target}"])
            loss, discriminator_gradients = self.discriminator_pass(cycle.discriminator, target, pooled, scale)
            losses[f"D_{cycle.source}"] = loss
        return StepResult(images, losses, generator_gradients, discriminator_gradients)

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
                with frozen(self.leaves[cycle.discriminator]):
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
        return detached(images), detached(losses), gradients(minimised, self.generator_leaves, scale)

    def translate(self, generator: nn.Module, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns generator(source) and, for the identity loss, generator(target): in one pass where possible."""
        o = self.objective
        if not (o.lambda_identity and (o.lambda_A or o.lambda_B)):
            return generator(source), None
        if self.pairs and source.shape == target.shape:
            fake, identity = generator([source, target])
            return fake, identity
        return generator(source), generator(target)
