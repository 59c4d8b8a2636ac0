"""The engine that runs a TensorRT plan (.engine) on the GPU that it was built for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.device import resolve_device
from cyclegan_fast.engine.backends.cuda_graphs import Call, GraphPerShape
from cyclegan_fast.engine.backends.external_runtime import image_channels
from cyclegan_fast.engine.backends.sidecar import check_precision, engine_fields, how_to_rebuild, read_required_sidecar
from cyclegan_fast.engine.engine import Engine, Precision, Shapes
from cyclegan_fast.engine.export.tensorrt_build import import_tensorrt, make_log, profile_of
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import Direction

_LANES = 2  # batches at work at a time, with contexts of their own: further threads wait


class TensorRtBackend(Engine):
    """Runs a plan with one input and one output, both float32 [N, C, H, W].

    For each shape there is an execution context, captured into a CUDA graph once it comes again. Its scratch memory is
    what this shape needs, not what the largest would.

    Args:
        content: The file's bytes.
        metadata: What its sidecar says.
        name: Where it came from.
        device: auto, cuda or cuda:<index>.

    Raises:
        UserError: TensorRT or the GPU is missing, TensorRT does not take the file, or it holds something else.
    """

    def __init__(self, content: bytes, metadata: dict[str, Any], *, name: str, device: str = "auto") -> None:
        self._trt, where = import_tensorrt(), _resolve(device, name)
        self._log = make_log(self._trt)
        with torch.cuda.device(where):
            self._runtime = self._trt.Runtime(self._log)  # must live as long as the plan
            self._plan = self._runtime.deserialize_cuda_engine(content)
        if self._plan is None:
            raise UserError(f"{name} cannot be loaded by TensorRT {self._trt.__version__}: {self._log.last}")
        self._input, self._output, channels = _ends(self._trt, self._plan, name)
        self._profiles = _profiles(self._plan, self._input)
        fields = engine_fields(metadata, channels, name)
        super().__init__(name=name, device=str(where), precision=metadata["precision"], **fields)
        self._graphs = GraphPerShape(self._prepare, where, lanes=_LANES)

    @torch.inference_mode()
    def _compute(self, batch: Tensor) -> Tensor:
        return self._graphs.run(batch)

    @torch.inference_mode()
    def _warm(self, batch: Tensor) -> None:
        self._graphs.warm(batch)

    def _prepare(self, taken: Tensor) -> Call:
        """A context for one shape; see `GraphPerShape`."""
        n, _, height, width = taken.shape
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._plan.create_execution_context(strategy)
        profile = profile_of((n, height, width), self._profiles)
        self._check(
            context is not None
            and context.set_optimization_profile_async(profile, _stream(taken))
            and context.set_input_shape(self._input, tuple(taken.shape)),
            taken,
        )
        size = context.update_device_memory_size_for_shapes()  # bytes

        def call() -> Tensor:
            # Both come from torch's pool for graphs: the scratch of one shape is that of the others, too.
            made = taken.new_empty((n, self.out_channels, height, width))
            scratch = torch.empty(max(size, 1), dtype=torch.uint8, device=taken.device)
            context.set_device_memory(scratch.data_ptr(), size)
            self._check(
                context.set_tensor_address(self._input, taken.data_ptr())
                and context.set_tensor_address(self._output, made.data_ptr())
                and context.execute_async_v3(_stream(taken)),
                taken,
            )
            return made

        return call

    def _check(self, done: bool, taken: Tensor) -> None:
        if not done:
            raise UserError(f"{self.name} failed on a batch of shape {list(taken.shape)}: {self._log.last}")

    def _release(self) -> None:
        self._graphs.close()
        del self._graphs, self._plan, self._runtime


def load_tensorrt(path: Path, direction: Direction | None, device: str, precision: Precision | None) -> TensorRtBackend:
    """Loads an .engine file; what its sidecar says is checked before TensorRT reads any of it.

    Raises:
        UserError: The sidecar is missing or differs from the file, the file holds the other direction or precision, or
            it was built for another GPU or by another TensorRT.
    """
    content = path.read_bytes()
    metadata = read_required_sidecar(path, content, direction)
    check_precision(precision, metadata, path)
    _check_machine(metadata, _resolve(device, path.name), path)
    return TensorRtBackend(content, metadata, name=path.name, device=device)


def tensorrt_facts(device: torch.device) -> dict[str, Any]:
    """Where a plan built on this machine runs; for its sidecar."""
    return {
        "device": "cuda",
        "tensorrt": str(import_tensorrt().__version__),
        "gpu": torch.cuda.get_device_name(device),
        "compute_capability": list(torch.cuda.get_device_capability(device)),
    }


def _check_machine(metadata: dict[str, Any], device: torch.device, path: Path) -> None:
    """Refuses a plan of another kind of machine: TensorRT may crash on one, or be wrong.

    Raises:
        UserError: With what differs, and the command that builds it anew.
    """
    made, here = metadata["compiled"], tensorrt_facts(device)
    for key, what in (("gpu", ""), ("compute_capability", "compute capability "), ("tensorrt", "TensorRT ")):
        if made.get(key) != here[key]:
            raise UserError(
                f"{path} was built for {what}{made.get(key)}, and here is {what}{here[key]}; "
                f"{how_to_rebuild(path, metadata)}"
            )


def _resolve(device: str, name: str) -> torch.device:
    if device.startswith("cpu") or not torch.cuda.is_available():
        why = "not on the CPU" if device.startswith("cpu") else "and torch sees none here"
        raise UserError(f"{name} runs on an NVIDIA GPU, {why}: export an .onnx file for this machine")
    where = resolve_device("cuda" if device == "auto" else device)
    return where if where.index is not None else torch.device("cuda", torch.cuda.current_device())


def _ends(trt: Any, plan: Any, name: str) -> tuple[str, str, tuple[int, int]]:
    """Names of the input and the output, and the channels of both."""
    names = [plan.get_tensor_name(i) for i in range(plan.num_io_tensors)]
    names.sort(key=lambda end: plan.get_tensor_mode(end) != trt.TensorIOMode.INPUT)  # the input first
    ends = []
    for end in names:
        shape = tuple(plan.get_tensor_shape(end))
        fixed = shape[1] if len(shape) > 1 and shape[1] > 0 else None
        ends.append((plan.get_tensor_dtype(end) == trt.DataType.FLOAT, len(shape), fixed))
    channels = image_channels(ends, name)
    return names[0], names[1], channels


def _profiles(plan: Any, name: str) -> list[Shapes]:
    """The batches (images, height, width) that each profile serves."""
    found = []
    for i in range(plan.num_optimization_profiles):
        ends = (tuple(end) for end in plan.get_tensor_profile_shape(name, i))
        found.append(Shapes(*((n, height, width) for n, _, height, width in ends)))
    return found


def _stream(taken: Tensor) -> int:
    return torch.cuda.current_stream(taken.device).cuda_stream
