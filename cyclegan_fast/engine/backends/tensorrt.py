"""The engine that runs a TensorRT plan (.engine) on the GPU that it was built for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.device import resolve_device
from cyclegan_fast.engine.backends.cuda_graphs import Call, GraphPerShape
from cyclegan_fast.engine.backends.sidecar import how_to_rebuild, read_required_sidecar
from cyclegan_fast.engine.backends.tensorrt_api import import_tensorrt, make_log, profile_of
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.info import Precision
from cyclegan_fast.engine.metadata import Metadata, check_precision, engine_info
from cyclegan_fast.engine.shapes import Shapes
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import Direction

_STREAMS = 2  # batches that run at a time, each with execution contexts of its own: further threads wait


class TensorRtBackend(Engine):
    """Runs a plan with one input and one output, both float32 [N, C, H, W].

    For each shape there is an execution context, captured into a CUDA graph once it comes again. Its scratch memory is
    what this shape needs, not what the largest would.

    Args:
        content: The file's bytes.
        metadata: Of its sidecar.
        name: Where it came from.
        device: auto, cuda or cuda:<index>.

    Raises:
        UserError: TensorRT or the GPU is missing, TensorRT does not take the file, or it holds something else.
    """

    def __init__(self, content: bytes, metadata: Metadata, *, name: str, device: str = "auto") -> None:
        self._trt, where = import_tensorrt(), _resolve(device, name)
        self._log = make_log(self._trt)
        with torch.cuda.device(where):
            self._runtime = self._trt.Runtime(self._log)  # must live as long as the plan
            self._plan = self._runtime.deserialize_cuda_engine(content)
        if self._plan is None:
            raise UserError(f"{name} cannot be loaded by TensorRT {self._trt.__version__}: {self._log.last}")
        self._input, self._output = _ports(self._trt, self._plan, name)
        self._profiles = _profiles(self._plan, self._input)
        super().__init__(engine_info(metadata, name=name, device=str(where)))
        self._graphs = GraphPerShape(self._prepare, where, streams=_STREAMS)

    @torch.inference_mode()
    def _compute(self, batch: Tensor) -> Tensor:
        return self._graphs.run(batch)

    @torch.inference_mode()
    def _warm(self, batch: Tensor) -> None:
        self._graphs.warm(batch)

    def _prepare(self, input: Tensor) -> Call:
        """A context for one shape; see `GraphPerShape`."""
        n, _, height, width = input.shape
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._plan.create_execution_context(strategy)
        profile = profile_of((n, height, width), self._profiles)
        self._check(
            context is not None
            and context.set_optimization_profile_async(profile, _stream(input))
            and context.set_input_shape(self._input, tuple(input.shape)),
            input,
        )
        size = context.update_device_memory_size_for_shapes()  # bytes

        def call() -> Tensor:
            # Both come from torch's pool for graphs: the scratch of one shape is that of the others, too.
            output = input.new_empty((n, self.out_channels, height, width))
            scratch = torch.empty(max(size, 1), dtype=torch.uint8, device=input.device)
            context.set_device_memory(scratch.data_ptr(), size)
            self._check(
                context.set_tensor_address(self._input, input.data_ptr())
                and context.set_tensor_address(self._output, output.data_ptr())
                and context.execute_async_v3(_stream(input)),
                input,
            )
            return output

        return call

    def _check(self, done: bool, input: Tensor) -> None:
        if not done:
            raise UserError(f"{self.name} failed on a batch of shape {list(input.shape)}: {self._log.last}")

    def _release(self) -> None:
        self._graphs.close()
        del self._graphs, self._plan, self._runtime


def load_tensorrt(
    path: Path, direction: Direction | None, device: str, precision: Precision | None, _threads: int | None = None
) -> TensorRtBackend:
    """Loads an .engine file; its sidecar is checked before TensorRT reads any of it. It computes on no CPU threads.

    Raises:
        UserError: The sidecar is missing or differs from the file, the file holds the other direction or precision, or
            it was built for another GPU or by another TensorRT.
    """
    content = path.read_bytes()
    metadata = read_required_sidecar(path, content, direction)
    check_precision(precision, metadata["precision"], path)
    _check_machine(metadata, _resolve(device, path.name), path)
    return TensorRtBackend(content, metadata, name=path.name, device=device)


def tensorrt_facts(device: torch.device) -> Metadata:
    """Where a plan built on this machine runs; for its sidecar."""
    return {
        "device": "cuda",
        "tensorrt": str(import_tensorrt().__version__),
        "gpu": torch.cuda.get_device_name(device),
        "compute_capability": list(torch.cuda.get_device_capability(device)),
    }


def _check_machine(metadata: Metadata, device: torch.device, path: Path) -> None:
    """Refuses a plan of another kind of machine: TensorRT may crash on one, or be wrong.

    Raises:
        UserError: With what differs, and the command that builds it anew.
    """
    built, here = metadata["compiled"], tensorrt_facts(device)
    for key, what in (("gpu", ""), ("compute_capability", "compute capability "), ("tensorrt", "TensorRT ")):
        if built.get(key) != here[key]:
            raise UserError(
                f"{path} was built for {what}{built.get(key)}, and here is {what}{here[key]}; "
                f"{how_to_rebuild(path, metadata)}"
            )


def _resolve(device: str, name: str) -> torch.device:
    if device.startswith("cpu") or not torch.cuda.is_available():
        why = "not on the CPU" if device.startswith("cpu") else "and torch sees none here"
        raise UserError(f"{name} runs on an NVIDIA GPU, {why}: export an .onnx file for this machine")
    where = resolve_device("cuda" if device == "auto" else device)
    return where if where.index is not None else torch.device("cuda", torch.cuda.current_device())


def _ports(trt: Any, plan: Any, name: str) -> tuple[str, str]:
    """Names of the input and the output.

    Raises:
        UserError: There are others, too, or they are no float32 images.
    """
    names = [plan.get_tensor_name(i) for i in range(plan.num_io_tensors)]
    names.sort(key=lambda port: plan.get_tensor_mode(port) != trt.TensorIOMode.INPUT)  # the input first
    images = [len(plan.get_tensor_shape(n)) == 4 and plan.get_tensor_dtype(n) == trt.DataType.FLOAT for n in names]
    if images != [True, True]:
        raise UserError(f"{name} is no generator: its plan must have one float32 input and output [N, C, H, W]")
    return names[0], names[1]


def _profiles(plan: Any, name: str) -> list[Shapes]:
    """The batches (images, height, width) that each profile serves."""
    found = []
    for i in range(plan.num_optimization_profiles):
        ends = (tuple(end) for end in plan.get_tensor_profile_shape(name, i))
        found.append(Shapes(*((n, height, width) for n, _, height, width in ends)))
    return found


def _stream(input: Tensor) -> int:
    return torch.cuda.current_stream(input.device).cuda_stream
