"""One weight gradient for both passes of a generator; `cyclegan_fast.ops.joint_passes` says how."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.models import model_of
from cyclegan_fast.ops.joint_passes import JointPasses
from cyclegan_fast.training.concurrency import Runner

# Of images of one domain: 4 of 256 px (a prediction). More fill a GPU in each pass by itself, and all activations of
# both generators, with their gradients, would be in memory at once.
MAX_PIXELS = 2**18


def joins_passes(config: TrainConfig, device: torch.device) -> bool:
    """Whether both passes of a generator share one weight gradient: on CUDA, where a norm writes all that it needs.

    Not one cycle after the other: there the memory of the first is to be free before the second.
    """
    o, run = config.objective, config.run
    return (
        device.type == "cuda"
        and run.side_by_side != "off"
        and config.model.norm == "instance"
        and bool(o.lambda_A and o.lambda_B and "cycle_A" in model_of(config).losses)
        and config.optim.grad_accumulation == 1
        and config.data.has_one_size
        and not (run.compile or run.activation_checkpointing)
    )


class JointGradients:
    """The passes of each generator, and the weight gradients that they leave out.

    Args:
        generators: G_A and G_B, in the order of their gradients; none where each pass computes its own.
    """

    def __init__(self, generators: Sequence[nn.Module]) -> None:
        self.passes = {generator: JointPasses() for generator in generators}

    @contextlib.contextmanager
    def both_passes(self, real_A: Tensor, real_B: Tensor, images: int, autocast: Callable[[], Any]) -> Iterator[None]:
        """Holds what the passes of a step write into, made before the cycles may run on a stream each.

        Args:
            real_A: A batch, [N, C_A, H, W].
            real_B: A batch, [N, C_B, H', W'].
            images: How many a generator translates in both passes.
            autocast: Returns the context of a pass.
        """
        if real_A.shape[2:] != real_B.shape[2:] or real_A[:, 0].numel() > MAX_PIXELS:
            yield
            return
        with contextlib.ExitStack() as stack:
            for (generator, passes), real in zip(self.passes.items(), (real_A, real_B), strict=False):
                passes.learn(lambda generator=generator, real=real: _try_out(generator, real, autocast))  # type: ignore[misc]
                stack.enter_context(passes.allocated(images))
            yield

    def one_pass(self, generator: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Returns the context of one pass of a generator."""
        passes = self.passes.get(generator)
        return passes.next_pass() if passes else contextlib.nullcontext()

    def complete(
        self, gradients: list[Tensor | None], leaves: Sequence[Tensor], part: Sequence[int], run_both: Runner
    ) -> None:
        """Computes a part of the gradients that both passes left out, and puts each into its place in `gradients`.

        Args:
            gradients: Of the weights of both generators, of one cycle.
            leaves: These weights, as the forward passes read them.
            part: The places of those that are computed.
            run_both: Runs the two generators' tasks.
        """
        if not self.passes:
            return
        of_A, of_B = self.passes.values()
        weights = [leaves[i] for i in part]
        found = run_both(lambda: of_A.weight_gradients(weights), lambda: of_B.weight_gradients(weights))
        for i, *both in zip(part, *found, strict=True):
            gradients[i] = next((gradient for gradient in both if gradient is not None), gradients[i])


def _try_out(generator: nn.Module, real: Tensor, autocast: Callable[[], Any]) -> None:
    """Translates as in training but for dropout, which would draw random numbers."""
    training = generator.training
    generator.eval()
    try:
        with autocast():
            generator(real)
    finally:
        generator.train(training)
