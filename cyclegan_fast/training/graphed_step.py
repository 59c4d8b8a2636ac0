"""The whole training step as CUDA graphs, one for each shape of batch: all gradients, both optimizers, the pools."""

from __future__ import annotations

import gc
import logging
from collections import Counter

import torch
from torch import Tensor

from cyclegan_fast.cuda_capture import captured
from cyclegan_fast.errors import UserError
from cyclegan_fast.memory import is_out_of_memory
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.results import Images, Losses

log = logging.getLogger(__name__)

WARM_UP_STEPS = 3  # cuDNN chooses its algorithms before anything can be captured
MAX_GRAPHS = 4  # shapes of batch that get a graph: each keeps its inputs, its images and its kernels

Shapes = tuple[torch.Size, torch.Size]  # of a batch of A and of B


class GraphedStep:
    """Behaves as the step that it wraps.

    The first calls with a batch of some shape run eagerly on a side stream; they are real training steps. Then the
    step is captured for that shape, and every further call copies its batch into the graph's static inputs and replays
    it. The images and losses that it returns belong to the graph and hold until the next call. Weights, moments, pools,
    learning rate and loss scale live outside the graphs, so that replays and eager steps may take turns.

    Args:
        step: The step, on CUDA.
        required: Where False, steps that cannot be captured run eagerly, and a warning gives the reason.

    Raises:
        UserError: The step is not on CUDA; and, from a call where graphs are required, there are too many shapes, or
            the capture fails.
    """

    def __init__(self, step: TrainingStep, *, required: bool = True) -> None:
        if step.device.type != "cuda":
            raise UserError("--cuda-graphs=on needs a CUDA device; leave it out")
        self.step, self.required = step, required
        self.uncaptured: set[Shapes] = set()  # that run eagerly for good
        self.graphs: dict[Shapes, CapturedStep] = {}
        self.eager_steps: Counter[Shapes] = Counter()
        self.stream = torch.cuda.Stream(step.device)
        self.memory = torch.cuda.graph_pool_handle()  # no graph keeps anything in it that another one reads

    def __call__(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on real_A [N, C_A, H, W] and real_B [N, C_B, H, W]."""
        with torch.cuda.device(self.step.device):  # the current stream, and a capture's, are this device's
            return self._train(real_A, real_B)

    def _train(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        shapes = real_A.shape, real_B.shape
        if shapes not in self.uncaptured and shapes not in self.graphs:
            self._come_nearer_to_a_graph(shapes, real_A, real_B)
        if shapes in self.graphs:
            return self.graphs[shapes].replay(real_A, real_B)
        return self._run_eagerly(real_A, real_B)

    def _come_nearer_to_a_graph(self, shapes: Shapes, real_A: Tensor, real_B: Tensor) -> None:
        """Counts the eager steps with batches of these shapes, and captures the step after the last of them."""
        if shapes not in self.eager_steps and len(self.eager_steps) == MAX_GRAPHS:
            last = " and ".join(str(list(shape)) for shape in shapes)
            self._do_without(shapes, f"batches of more than {MAX_GRAPHS} shapes came, the last {last}")
        elif self.eager_steps[shapes] < WARM_UP_STEPS:
            self.eager_steps[shapes] += 1
        elif fault := self._capture(shapes, real_A, real_B):
            gc.collect()  # the frames of an exception hold what the capture made
            self._do_without(shapes, f"the step could not be captured: {fault}")

    def _capture(self, shapes: Shapes, real_A: Tensor, real_B: Tensor) -> str:
        """Captures the step for batches of these shapes; returns why that failed, or an empty string.

        Raises:
            RuntimeError: The memory does not suffice, and graphs are required.
        """
        try:
            self.graphs[shapes] = CapturedStep(self, real_A, real_B)
        except RuntimeError as error:
            self.memory = torch.cuda.graph_pool_handle()
            if self.required and is_out_of_memory(error):
                raise
            return str(error).strip().partition("\n")[0]  # below it is torch's advice to its developers
        return ""

    def _do_without(self, shapes: Shapes, reason: str) -> None:
        """Lets steps with batches of these shapes run eagerly from here on.

        Raises:
            UserError: Graphs are required.
        """
        if self.required:
            raise UserError(f"--cuda-graphs: {reason}; leave it out")
        log.warning("cuda graphs: not for all steps, which take longer so: %s", reason)
        self.uncaptured.add(shapes)

    def _run_eagerly(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            out = self.step(real_A, real_B)
        current.wait_stream(self.stream)
        return out


class CapturedStep:
    """The step as one graph, with static inputs, images and losses."""

    def __init__(self, owner: GraphedStep, real_A: Tensor, real_B: Tensor) -> None:
        self.step = step = owner.step
        self.inputs = real_A.clone(), real_B.clone()
        self.graph = torch.cuda.CUDAGraph()
        with captured(self.graph, pool=owner.memory, stream=owner.stream):
            self.images, self.losses = step(*self.inputs)

    def replay(self, real_A: Tensor, real_B: Tensor) -> tuple[Images, Losses]:
        """Trains on a batch of the captured shape; the copies wait for the last replay, as all on this stream do."""
        for static, batch in zip(self.inputs, (real_A, real_B), strict=True):
            static.copy_(batch)
        self.step.refresh_working_weights()
        self.graph.replay()
        return self.images, self.losses
