"""The engine that runs a plan (.engine) of TensorRT or of TensorRT for RTX on a GPU that it was built for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.device import resolve_device
from cyclegan_fast.engine.backends.cuda_graphs import Call, GraphPerShape
from cyclegan_fast.engine.backends.sidecar import how_to_rebuild, read_required_sidecar, sidecar_of
from cyclegan_fast.engine.backends.tensorrt_api import (
    FLAVOURS,
    RTX,
    STANDARD,
    Flavour,
    import_tensorrt,
    make_log,
    profile_of,
)
from cyclegan_fast.engine.backends.tensorrt_rtx import RuntimeCache, cache_of, capability_of, supported_capabilities
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.info import Precision
from cyclegan_fast.engine.metadata import Metadata, check_precision, engine_info
from cyclegan_fast.engine.shapes import Shapes
from cyclegan_fast.errors import UserError
from cyclegan_fast.metrics import Direction

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
        path: The file, if there is one: TensorRT for RTX caches the kernels that it compiles beside it.

    Raises:
        UserError: TensorRT or the GPU is missing, TensorRT does not take the file, or it holds something else.
    """

    def __init__(
        self, content: bytes, metadata: Metadata, *, name: str, device: str = "auto", path: Path | None = None
    ) -> None:
        flavour = _flavour(metadata, name)
        self._trt, where = import_tensorrt(flavour), _resolve(device, name)
        self._log = make_log(self._trt)
        self._cache: RuntimeCache | None = None
        with torch.cuda.device(where):
            self._runtime = self._trt.Runtime(self._log)  # must live as long as the plan
            self._plan = self._runtime.deserialize_cuda_engine(content)
            if self._plan is None:
                raise UserError(f"{name} cannot be loaded by {flavour.title} {self._trt.__version__}: {self._log.last}")
            if flavour is RTX:
                gpu = torch.cuda.get_device_name(where)
                file = None if path is None else cache_of(path, gpu)
                self._cache = RuntimeCache(self._trt, self._plan, content, gpu, file)
        self._input, self._output = _ports(self._trt, self._plan, name)
        self._profiles = _profiles(self._plan, self._input)
        super().__init__(engine_info(metadata, name=name, device=str(where)))
        self._graphs = GraphPerShape(self._prepare, where, streams=_STREAMS)

    @torch.inference_mode()
    def _compute(self, batch: Tensor) -> Tensor:
        result = self._graphs.run(batch)
        if self._cache is not None:
            self._cache.save()
        return result

    @torch.inference_mode()
    def _warm(self, batch: Tensor) -> None:
        self._graphs.warm(batch)

    def _prepare(self, input: Tensor) -> Call:
        """A context for one shape; see `GraphPerShape`."""
        n, _, height, width = input.shape
        if self._cache is not None:
            context = self._cache.create_context()
        else:
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
        if self._cache is not None:
            self._cache.save()
        del self._graphs, self._cache, self._plan, self._runtime


def load_tensorrt(
    path: Path, direction: Direction | None, device: str, precision: Precision | None, _threads: int | None = None
) -> TensorRtBackend:
    """Loads an .engine file; its sidecar is checked before TensorRT reads any of it. It computes on no CPU threads.

    Raises:
        UserError: The sidecar is missing or differs from the file, the file holds the other direction or precision, it
            was built for another GPU or by another version, or the library that built it is missing.
    """
    content = path.read_bytes()
    metadata = read_required_sidecar(path, content, direction)
    check_precision(precision, metadata["precision"], path)
    _check_machine(metadata, _resolve(device, path.name), path)
    return TensorRtBackend(content, metadata, name=path.name, device=device, path=path.absolute())


def tensorrt_facts(device: torch.device) -> Metadata:
    """Where a plan that TensorRT built on this machine runs; for its sidecar."""
    return {
        "device": "cuda",
        "flavour": STANDARD.name,
        "tensorrt": str(import_tensorrt().__version__),
        "gpu": torch.cuda.get_device_name(device),
        "compute_capability": list(torch.cuda.get_device_capability(device)),
    }


def _flavour(metadata: Metadata, name: Path | str) -> Flavour:
    """What built the plan; files of 0.1 are TensorRT's.

    Raises:
        UserError: It is none that this version knows.
    """
    found = metadata["compiled"].get("flavour", STANDARD.name)
    if found not in FLAVOURS:
        raise UserError(f"{name} was built by a TensorRT of flavour {found!r}: a newer cyclegan_fast may load it")
    return FLAVOURS[found]


def _check_machine(metadata: Metadata, device: torch.device, path: Path) -> None:
    """Refuses a plan of another kind of machine: TensorRT may crash on one, or be wrong.

    Raises:
        UserError: With what differs, and the command that builds it anew.
    """
    if _flavour(metadata, path) is RTX:
        _check_rtx_machine(metadata, device, path)
        return
    built, here = metadata["compiled"], tensorrt_facts(device)
    for key, what in (("gpu", ""), ("compute_capability", "compute capability "), ("tensorrt", "TensorRT ")):
        if built.get(key) != here[key]:
            raise UserError(
                f"{path} was built for {what}{built.get(key)}, and here is {what}{here[key]}; "
                f"{how_to_rebuild(path, metadata)}"
            )


def _check_rtx_machine(metadata: Metadata, device: torch.device, path: Path) -> None:
    """The same of a plan of TensorRT for RTX, which runs in the release that built it, on the GPUs that it names."""
    trt, built = import_tensorrt(RTX), metadata["compiled"]
    if built.get(RTX.package) != trt.__version__:
        raise UserError(
            f"{path} was built by {RTX.title} {built.get(RTX.package)}, and here is {trt.__version__}, which does not "
            f"read it; {how_to_rebuild(path, metadata)}"
        )
    listed = built.get("compute_capabilities")
    if not isinstance(listed, list):
        raise UserError(f"{sidecar_of(path)} is damaged; {how_to_rebuild(path, metadata)}")
    gpu, capability = torch.cuda.get_device_name(device), capability_of(device)
    if capability in listed:
        return
    reason = f"{path} was built for compute capability {', '.join(listed)}, and {gpu} has"
    if capability in supported_capabilities(trt):
        again = metadata | {"compiled": built | {"compute_capabilities": [capability]}}
        raise UserError(f"{reason} {capability}; {how_to_rebuild(path, again)}")
    raise UserError(
        f"{reason} {capability}, for which {RTX.title} does not build: take TensorRT, and "
        f"{how_to_rebuild(path, metadata | {'compiled': {}})}"
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
