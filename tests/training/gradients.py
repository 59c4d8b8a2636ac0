"""What a training step gives its optimizers."""

from __future__ import annotations

from torch import Tensor, nn

from cyclegan_fast.training.step import CycleGANStep, CycleResult, Losses


def recorded_gradients(step: CycleGANStep) -> dict[nn.Parameter, Tensor]:
    """Returns a dictionary that holds, after each step, the gradient of every weight that a loss reaches."""
    found: dict[nn.Parameter, Tensor] = {}
    update_weights = step.update_weights

    def recording(from_A: CycleResult, from_B: CycleResult, losses: Losses) -> None:
        found.clear()
        for weight, *parts in zip(
            step.optimizer_G.weights, from_A.generator_gradients, from_B.generator_gradients, strict=True
        ):
            if gradients := [part for part in parts if part is not None]:
                found[weight] = sum(gradients[1:], gradients[0].clone())
        both = from_A.discriminator_gradients + from_B.discriminator_gradients
        found.update({w: g.clone() for w, g in zip(step.optimizer_D.weights, both, strict=bool(both)) if g is not None})
        update_weights(from_A, from_B, losses)

    step.update_weights = recording  # type: ignore[method-assign]
    return found
