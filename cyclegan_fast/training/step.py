"""One training step of CycleGAN: images of A and of B in, updated networks, translated images and losses out.

The two loops A -> B -> A and B -> A -> B share nothing but the weights, and a discriminator learns from fakes of
before the generators' update. So each direction takes all its gradients by itself, after the other or beside it; then
the generators' gradients are summed and both optimizers move. Three more exact rewritings save passes: a generator
translates its own domain and the identity batch together; a discriminator judges real and pooled fake images together;
and the generators' losses take no gradient of the discriminators' weights. docs/how_the_step_works.md tells why each is
exact. All of it stays on the device, so that a CUDA graph can hold it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.training.concurrency import choose_concurrency
from cyclegan_fast.training.image_pool import ImagePool, MixedSizePool
from cyclegan_fast.training.objective import discriminator_loss, generator_loss, gradient_penalty, l1_losses

Images = dict[str, Tensor]  # each [N, C, H, W] in [-1, 1]
Losses = dict[str, Tensor]  # scalars on the device
Gradients = list[Tensor | None]  # one for each weight, None where the loss does not depend on it

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOSSES = ("G_A", "G_B", "cycle_A", "cycle_B", "idt_A", "idt_B", "D_A", "D_B")  # in the order in which they are shown


@dataclass(frozen=True, kw_only=True)
class Direction:
    """One of the two loops, source -> target -> source: who takes part, and what its losses weigh."""

    source: str  # A or B
    target: str
    there: nn.Module  # the generator source -> target
    back: nn.Module  # the generator target -> source
    discriminator: nn.Module  # judges images of the target
    pool: ImagePool | MixedSizePool  # of earlier fakes of the target
    lambda_cycle: float
    lambda_identity: float


@dataclass(frozen=True)
class Share:
    """What one direction gives to a step, detached."""

    images: Images
    losses: Losses
    generators: Gradients  # of the weights of both generators
    discriminator: Gradients  # of the weights of its own discriminator


class CycleGANStep:
    """Holds what a step changes: the networks, their two optimizers, the two image pools and the loss scale.

    Args:
        networks: G_A, G_B, D_A and D_B, on their device.
        config: The objective, Adam, the mixed precision, and the micro-batches of a step.
    """

    def __init__(self, networks: nn.ModuleDict, config: TrainConfig) -> None:
        self.networks = networks
        self.objective = o = config.objective
        G_A, G_B, D_A, D_B = (networks[name] for name in ("G_A", "G_B", "D_A", "D_B"))
        self.device = next(G_A.parameters()).device
        self.amp_dtype = AMP_DTYPES.get(config.run.amp)
        self.optimizer_G = _adam([G_A, G_B], config, self.device)
        self.optimizer_D = _adam([D_A, D_B], config, self.device)
        self.weights_G = self.optimizer_G.param_groups[0]["params"]
        self.weights_D = self.optimizer_D.param_groups[0]["params"]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.run.amp == "fp16")
        pool = ImagePool if has_one_size(config.data) else MixedSizePool
        self.pool_A = pool(o.pool_size, 2 * config.run.seed, self.device)
        self.pool_B = pool(o.pool_size, 2 * config.run.seed + 1, self.device)
        self.A_to_B = Direction(
            source="A", target="B", there=G_A, back=G_B, discriminator=D_A, pool=self.pool_B,
            lambda_cycle=o.lambda_A, lambda_identity=o.lambda_identity * o.lambda_B,
        )  # fmt: skip
        self.B_to_A = Direction(
            source="B", target="A", there=G_B, back=G_A, discriminator=D_B, pool=self.pool_A,
            lambda_cycle=o.lambda_B, lambda_identity=o.lambda_identity * o.lambda_A,
        )  # fmt: skip
        self.micro_batches = config.optim.grad_accumulation
        # Batch norm couples the images of a batch, so only the others may share one.
        self.pairs = config.model.norm != "batch"
        self.lanes = choose_concurrency(config, self.device)

    def __call__(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on real_A [N, C_A, H, W] and real_B [N, C_B, H, W]; returns the images, detached, and the losses.

        N is that of all micro-batches together, and each loss is their mean.

        Raises:
            UserError: N is no multiple of the number of micro-batches.
        """
        if len(real_A) % self.micro_batches:
            raise UserError(f"{self.micro_batches} equal micro-batches cannot be made of {len(real_A)} images")
        for optimizer in (self.optimizer_G, self.optimizer_D):
            optimizer.zero_grad(set_to_none=True)
        scale = self.scaler.scale(torch.full((), 1 / self.micro_batches, dtype=real_A.dtype, device=self.device))
        from_A, from_B = self.lanes(real_A)(
            lambda: self.share_of(self.A_to_B, real_A, real_B, scale),
            lambda: self.share_of(self.B_to_A, real_B, real_A, scale),
        )
        found = from_A.losses | from_B.losses
        losses = {name: found[name] for name in LOSSES if name in found}
        self.update(self.optimizer_G, _sum(from_A.generators, from_B.generators), _total(losses, discriminators=False))
        if self.objective.lambda_gan:
            self.update(
                self.optimizer_D, from_A.discriminator + from_B.discriminator, _total(losses, discriminators=True)
            )
        self.scaler.update()
        return {"real_A": real_A, "real_B": real_B} | from_A.images | from_B.images, losses

    def share_of(self, d: Direction, real: Tensor, target: Tensor, scale: Tensor) -> Share:
        """One direction's images, losses and gradients.

        Args:
            d: The direction.
            real: Real images of its source, [N, C, H, W].
            target: Real images of its target, [N, C', H', W'].
            scale: What its gradients are multiplied by, a scalar: the loss scale over the number of micro-batches.
        """
        parts = zip(real.chunk(self.micro_batches), target.chunk(self.micro_batches), strict=True)
        return _mean(self.share_of_micro_batch(d, *part, scale) for part in parts)

    def share_of_micro_batch(self, d: Direction, real: Tensor, target: Tensor, scale: Tensor) -> Share:
        """There and back against the discriminator as it is, and what the discriminator learns from what came there."""
        images, losses, generators = self.there_and_back(d, real, target, scale)
        discriminator: Gradients = []
        if self.objective.lambda_gan:
            pooled = d.pool.exchange(images[f"fake_{d.target}"])
            losses[f"D_{d.source}"], discriminator = self.judge(d.discriminator, target, pooled, scale)
        return Share(images, losses, generators, discriminator)

    def there_and_back(
        self, d: Direction, real: Tensor, target: Tensor, scale: Tensor
    ) -> tuple[Images, Losses, Gradients]:
        """Translates there and back, and takes the generators' gradients of all losses of this direction."""
        o = self.objective
        losses: Losses = {}
        distances: dict[str, tuple[float, Tensor, Tensor]] = {}  # weight, image, what it should be
        with self.autocast():
            fake, identity = self.translate(d.there, real, target)
            images = {f"fake_{d.target}": fake}
            if o.lambda_gan:
                scores = full_precision(d.discriminator(fake))
                losses[f"G_{d.source}"] = generator_loss(o.gan_mode, o.lambda_gan, scores)
            if d.lambda_cycle:
                images[f"rec_{d.source}"] = back = full_precision(d.back(fake))
                distances[f"cycle_{d.source}"] = d.lambda_cycle, back, real
            if identity is not None:
                images[f"idt_{d.source}"] = identity
                distances[f"idt_{d.source}"] = d.lambda_identity, identity, target
            losses |= l1_losses(distances)
        return _detached(images), _detached(losses), _gradients(list(losses.values()), self.weights_G, scale)

    def translate(self, generator: nn.Module, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns generator(source) and, for the identity loss, generator(target): one pass when they can share it."""
        o = self.objective
        if not (o.lambda_identity and (o.lambda_A or o.lambda_B)):
            return full_precision(generator(source)), None
        if self.pairs and source.shape == target.shape:
            fake, identity = full_precision(generator(torch.cat([source, target]))).chunk(2)
            return fake, identity
        return full_precision(generator(source)), full_precision(generator(target))

    def judge(self, discriminator: nn.Module, real: Tensor, fake: Tensor, scale: Tensor) -> tuple[Tensor, Gradients]:
        """The discriminator's loss on real and pooled fake images, in one pass where possible, and its gradients."""
        with self.autocast():
            if self.pairs and real.shape == fake.shape:
                real_logits, fake_logits = discriminator(torch.cat([real, fake])).chunk(2)
            else:
                real_logits, fake_logits = discriminator(real), discriminator(fake)
            loss = discriminator_loss(self.objective.gan_mode, full_precision(real_logits), full_precision(fake_logits))
            if self.objective.gan_mode == "wgangp":
                alpha = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
                loss = loss + self.objective.lambda_gp * gradient_penalty(discriminator, real, fake, alpha)
        return loss.detach(), _gradients([loss], [w for w in discriminator.parameters() if w.requires_grad], scale)

    def update(self, optimizer: torch.optim.Optimizer, gradients: Gradients, loss: Tensor) -> None:
        """One move of Adam, left out on the device itself when the loss is not finite."""
        for weight, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
            weight.grad = gradient
        if self.scaler.is_enabled():
            self.scaler.step(optimizer)
            return
        optimizer.found_inf = (~loss.isfinite()).float()  # type: ignore[attr-defined]  # read by fused Adam
        optimizer.step()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Convolutions in 16 bit; norms accumulate, and losses are taken, in 32."""
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.amp_dtype)

    def set_learning_rate(self, lr: float) -> None:
        """Sets the rate of both optimizers, in place where a graph may hold it."""
        for optimizer in (self.optimizer_G, self.optimizer_D):
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr)
                else:
                    group["lr"] = lr

    def forget_unfinished(self) -> None:
        """Makes the step fit to run again after an exception broke it off (its capture, say)."""
        if self.scaler.is_enabled():
            self.scaler._per_optimizer_states.clear()  # as the end of `GradScaler.update` does

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights that the next step depends on."""
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
        for optimizer in (self.optimizer_G, self.optimizer_D):
            for group in optimizer.param_groups:
                group["lr"] = _rate(float(group["lr"]), self.device)  # back onto the device, from the CPU's copy


def full_precision(x: Tensor) -> Tensor:
    """16-bit values as float32; the others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _adam(nets: list[nn.Module], config: TrainConfig, device: torch.device) -> torch.optim.Adam:
    """One fused Adam over the weights that any kernel touches."""
    o = config.optim
    return torch.optim.Adam(
        [p for net in nets for p in net.parameters() if p.requires_grad],
        lr=_rate(o.lr, device),
        betas=(o.beta1, o.beta2),
        eps=o.eps,
        fused=True,
        capturable=device.type == "cuda",
    )


def _rate(lr: float, device: torch.device) -> Tensor | float:
    """A learning rate where the optimizer wants it: on CUDA a tensor on the device, which a graph can hold."""
    return torch.tensor(lr, device=device) if device.type == "cuda" else lr


def has_one_size(data: DataConfig) -> bool:
    """Whether every training image has the same size."""
    return data.preprocess in ("resize_and_crop", "crop", "scale_width_and_crop")


def _gradients(losses: list[Tensor], weights: list[nn.Parameter], scale: Tensor) -> Gradients:
    """scale * d(sum of the losses) / d(each weight), laid out as the weight, which the fused Adam relies on."""
    if not losses:
        return [None] * len(weights)
    found = torch.autograd.grad(torch.stack(losses).sum(), weights, scale, allow_unused=True)
    return [
        g if g is None or g.stride() == w.stride() else torch.empty_like(w).copy_(g)
        for g, w in zip(found, weights, strict=True)
    ]


def _sum(ones: Gradients, others: Gradients) -> Gradients:
    """The sum of two lists of gradients, in the memory of the first."""
    both = [(a, b) for a, b in zip(ones, others, strict=True) if a is not None and b is not None]
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [b if a is None else a for a, b in zip(ones, others, strict=True)]


def _mean(shares: Iterator[Share]) -> Share:
    """Micro-batches as one: images side by side, losses averaged, gradients (scaled already) summed as they come."""
    first = next(shares)
    images, losses = [first.images], [first.losses]
    generators, discriminator = first.generators, first.discriminator
    for share in shares:
        images.append(share.images)
        losses.append(share.losses)
        generators, discriminator = _sum(generators, share.generators), _sum(discriminator, share.discriminator)
    if len(losses) == 1:
        return first
    return Share(
        {name: torch.cat([of[name] for of in images]) for name in first.images},
        {name: torch.stack([of[name] for of in losses]).mean() for name in first.losses},
        generators,
        discriminator,
    )


def _total(losses: Losses, *, discriminators: bool) -> Tensor:
    """The sum of what the discriminators, or the generators, minimise."""
    return torch.stack([loss for name, loss in losses.items() if name.startswith("D_") == discriminators]).sum()


def _detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}
