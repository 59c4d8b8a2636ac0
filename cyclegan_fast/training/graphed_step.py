"""The whole training step as one CUDA graph: both phases, both optimizers, the pools."""

from __future__ import annotations

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.training.step import CycleGANStep, Images, Losses

WARM_UP_STEPS = 3  # cuDNN chooses its algorithms and Adam makes its state before anything can be captured


class GraphedStep:
    """Behaves as the step that it wraps, for batches of one shape.

    The first calls run eagerly on a side stream; they are real training steps. Then the step is captured, and every
    further call copies its batch into the graph's static inputs and replays it. The images and losses that it
    returns are the graph's own and are overwritten by the next call.
    """

    def __init__(self, step: CycleGANStep) -> None:
        if step.device.type != "cuda":
            raise UserError("--cuda-graphs needs a CUDA device; leave it out, or say --cuda-graphs=auto")
        self.step = step
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(step.device)

    def __call__(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on real_A [N, C_A, H, W] and real_B [N, C_B, H, W]."""
        if self.graph is None:
            self.calls += 1
            if self.calls <= WARM_UP_STEPS:
                return self._run_eagerly(real_A, real_B)
            self._capture(real_A, real_B)
        self._check_shape(real_A, real_B)
        self.real_A.copy_(real_A)
        self.real_B.copy_(real_B)
        assert self.graph is not None
        self.graph.replay()
        return self.images, self.losses

    def _run_eagerly(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            out = self.step(real_A, real_B)
        torch.cuda.current_stream().wait_stream(self.stream)
        return out

    def _capture(self, real_A: Tensor, real_B: Tensor) -> None:
        self.real_A, self.real_B = real_A.clone(), real_B.clone()
        for optimizer in (self.step.optimizer_G, self.step.optimizer_D):
            optimizer.zero_grad(set_to_none=True)  # the graph allocates its own gradients
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the loader's thread may go on pinning memory meanwhile.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.images, self.losses = self.step(self.real_A, self.real_B)
        except RuntimeError as error:
            raise UserError(f"the step could not be captured as a CUDA graph: {error}") from error
        self.graph = graph

    def _check_shape(self, real_A: Tensor, real_B: Tensor) -> None:
        for name, static, given in (("A", self.real_A, real_A), ("B", self.real_B, real_B)):
            if static.shape != given.shape:
                raise UserError(
                    f"the CUDA graph was captured for images of {name} of shape {list(static.shape)}, got "
                    f"{list(given.shape)}; use a --preprocess mode that crops, or leave out --cuda-graphs"
                )
