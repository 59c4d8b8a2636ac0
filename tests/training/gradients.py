"""What a training step gives its optimizers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cyclegan_fast.training.adam import Gradients
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.results import Losses


def recorded_gradients(step: TrainingStep) -> dict[nn.Parameter, Tensor]:
    """Returns a dictionary that holds, after each step, the gradient of every weight that a loss reaches."""
    found: dict[nn.Parameter, Tensor] = {}
    update_weights = step.update_weights

    def recording(
        losses: Losses,
        *,
        generators: Sequence[Gradients] = (),
        discriminators: Gradients | None = None,
        checked: Sequence[Gradients] = (),
    ) -> None:
        trained = step.optimizer_G.weights * bool(generators) + step.optimizer_D.weights * (discriminators is not None)
        for weight in trained:
            found.pop(weight, None)
        for weight, *parts in zip(step.optimizer_G.weights, *generators, strict=True) if generators else ():
            if gradients := [part for part in parts if part is not None]:
                found[weight] = sum(gradients[1:], gradients[0].clone())
        if discriminators is not None:
            both = zip(step.optimizer_D.weights, discriminators, strict=True)
            found.update({w: g.clone() for w, g in both if g is not None})
        update_weights(losses, generators=generators, discriminators=discriminators, checked=checked)

    step.update_weights = recording  # type: ignore[method-assign]
    return found
