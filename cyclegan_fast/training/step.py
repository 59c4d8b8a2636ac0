"""One training step of CycleGAN: images of A and of B in, updated networks, translated images and losses out.

The step reads as the paper does, with three exact rewritings that save passes: a generator translates its own domain
and the identity batch together; a critic judges real and pooled fake images together; and in the generators' phase no
gradient is computed for the critics' weights. All of it stays on the device, so that a CUDA graph can hold it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.training.image_pool import ImagePool, MixedSizePool
from cyclegan_fast.training.objective import critic_loss, generator_losses, gradient_penalty, l1_losses

Images = dict[str, Tensor]  # each [N, C, H, W] in [-1, 1]
Losses = dict[str, Tensor]  # scalars on the device

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class CycleGANStep:
    """Holds what a step changes: the networks, their two optimizers, the two image pools and the loss scale.

    Args:
        networks: G_A, G_B, D_A and D_B, on their device.
        config: The objective, Adam and the mixed precision.
    """

    def __init__(self, networks: nn.ModuleDict, config: TrainConfig) -> None:
        self.networks = networks
        self.G_A, self.G_B, self.D_A, self.D_B = (networks[name] for name in ("G_A", "G_B", "D_A", "D_B"))
        self.objective = config.objective
        self.device = next(self.G_A.parameters()).device
        self.amp_dtype = AMP_DTYPES.get(config.run.amp)
        self.optimizer_G = _adam([self.G_A, self.G_B], config, self.device)
        self.optimizer_D = _adam([self.D_A, self.D_B], config, self.device)
        self.weights_G = self.optimizer_G.param_groups[0]["params"]
        self.weights_D = self.optimizer_D.param_groups[0]["params"]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.run.amp == "fp16")
        pool = ImagePool if has_one_size(config.data) else MixedSizePool
        self.pool_A = pool(self.objective.pool_size, 2 * config.run.seed, self.device)
        self.pool_B = pool(self.objective.pool_size, 2 * config.run.seed + 1, self.device)
        # Batch norm couples the images of a batch, so only the others may share one.
        self.pairs = config.model.norm != "batch"

    def __call__(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on real_A [N, C_A, H, W] and real_B [N, C_B, H, W]; returns the images, detached, and the losses."""
        images, losses = self.generator_phase(real_A, real_B)
        if self.objective.lambda_gan:
            losses |= self.critic_phase(images)
        self.scaler.update()
        return images, losses

    def generator_phase(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Translates there and back, and moves both generators against the critics as they are."""
        o = self.objective
        images = {"real_A": real_A, "real_B": real_B}
        losses: Losses = {}
        distances: dict[str, tuple[float, Tensor, Tensor]] = {}  # weight, image, what it should be
        with self.autocast():
            fake_B, idt_A = self.translate(self.G_A, real_A, real_B)
            fake_A, idt_B = self.translate(self.G_B, real_B, real_A)
            images |= {"fake_B": fake_B, "fake_A": fake_A}
            if o.lambda_gan:
                logits = [full_precision(self.D_A(fake_B)), full_precision(self.D_B(fake_A))]
                losses["G_A"], losses["G_B"] = generator_losses(o.gan_mode, o.lambda_gan, logits)
            if o.lambda_A:
                images["rec_A"] = full_precision(self.G_B(fake_B))
                distances["cycle_A"] = o.lambda_A, images["rec_A"], real_A
            if o.lambda_B:
                images["rec_B"] = full_precision(self.G_A(fake_A))
                distances["cycle_B"] = o.lambda_B, images["rec_B"], real_B
            if idt_A is not None and idt_B is not None:
                images |= {"idt_A": idt_A, "idt_B": idt_B}
                distances["idt_A"] = o.lambda_identity * o.lambda_B, idt_A, real_B
                distances["idt_B"] = o.lambda_identity * o.lambda_A, idt_B, real_A
            losses |= l1_losses(distances)
        total = torch.stack(list(losses.values())).sum()
        self.update(self.optimizer_G, self.weights_G, total)
        return _detached(images), _detached(losses)

    def critic_phase(self, images: Images) -> Losses:
        """Moves both critics: real images up, fakes from the pools down (fakes of before the generators moved)."""
        losses: Losses = {}
        with self.autocast():
            losses["D_A"] = self.judge(self.D_A, images["real_B"], self.pool_B.exchange(images["fake_B"]))
            losses["D_B"] = self.judge(self.D_B, images["real_A"], self.pool_A.exchange(images["fake_A"]))
        self.update(self.optimizer_D, self.weights_D, losses["D_A"] + losses["D_B"])
        return _detached(losses)

    def translate(self, generator: nn.Module, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns generator(source) and, for the identity loss, generator(target): one pass when they can share it."""
        o = self.objective
        if not (o.lambda_identity and (o.lambda_A or o.lambda_B)):
            return full_precision(generator(source)), None
        if self.pairs and source.shape == target.shape:
            fake, identity = full_precision(generator(torch.cat([source, target]))).chunk(2)
            return fake, identity
        return full_precision(generator(source)), full_precision(generator(target))

    def judge(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """The critic's loss on real and pooled fake images, in one pass when they can share it."""
        if self.pairs and real.shape == fake.shape:
            real_logits, fake_logits = critic(torch.cat([real, fake])).chunk(2)
        else:
            real_logits, fake_logits = critic(real), critic(fake)
        loss = critic_loss(self.objective.gan_mode, full_precision(real_logits), full_precision(fake_logits))
        if self.objective.gan_mode == "wgangp":
            alpha = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
            loss = loss + self.objective.lambda_gp * gradient_penalty(critic, real, fake, alpha)
        return loss

    def update(self, optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], loss: Tensor) -> None:
        """One move of Adam, left out on the device itself when the loss is not finite."""
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward(inputs=weights)
        if self.scaler.is_enabled():
            self.scaler.step(optimizer)
            return
        optimizer.found_inf = (~loss.detach().isfinite()).float()  # type: ignore[attr-defined]  # read by fused Adam
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


def _detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}
