"""The engine that runs an ONNX file in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.engine.backends.external_runtime import first_line, fixed_sizes, image_channels
from cyclegan_fast.engine.backends.sidecar import engine_fields
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.errors import UserError


class OnnxBackend(Engine):
    """Runs an ONNX graph with one input and one output, both float32 [N, C, H, W].

    Args:
        content: The ONNX file's bytes.
        metadata: What its sidecar says, or an empty dictionary.
        name: Where it came from.
        device: auto, cpu, cuda or cuda:<index>; auto is CUDA where ONNX Runtime and torch both have it.

    Raises:
        UserError: ONNX Runtime or its provider for the device is missing, or the graph is of another kind.
    """

    def __init__(self, content: bytes, metadata: dict[str, Any], *, name: str, device: str = "auto") -> None:
        where = resolve_onnx_device(device)
        if metadata.get("precision") == "bf16" and where.type == "cpu":
            raise UserError(f"{name} computes in bf16, which ONNX Runtime cannot on the CPU: take the backend openvino")
        self._session = _open_session(content, where, name, plainly=metadata.get("precision") == "fp8")
        fields = engine_fields(metadata, _channels(self._session, name), name)
        if not metadata:
            sides = self._session.get_inputs()[0].shape
            fields |= fixed_sizes(*(sides[i] if isinstance(sides[i], int) else None for i in (0, 2, 3)))
        super().__init__(name=name, device=str(where), precision=metadata.get("precision", "fp32"), **fields)
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name

    def _compute(self, batch: Tensor) -> Tensor:
        run = self._run_on_cuda if batch.is_cuda and self.device.startswith("cuda") else self._run_on_host
        try:
            return run(batch.float().contiguous())
        except Exception as error:  # ONNX Runtime raises types of its own
            raise UserError(
                f"{self.name} failed on a batch of shape {list(batch.shape)}: {first_line(error)}"
            ) from error

    def _run_on_host(self, batch: Tensor) -> Tensor:
        (made,) = self._session.run(None, {self._input: batch.cpu().numpy()})
        return torch.from_numpy(made)

    def _run_on_cuda(self, batch: Tensor) -> Tensor:
        """Reads and writes torch's own memory, so that nothing goes through the host."""
        import numpy as np

        batch = batch.to(self.device)
        made = batch.new_empty((batch.shape[0], self.out_channels, *batch.shape[2:]))
        binding, index = self._session.io_binding(), batch.device.index
        binding.bind_input(self._input, "cuda", index, np.float32, list(batch.shape), batch.data_ptr())
        binding.bind_output(self._output, "cuda", index, np.float32, list(made.shape), made.data_ptr())
        torch.cuda.current_stream(batch.device).synchronize()  # ONNX Runtime has a stream of its own
        self._session.run_with_iobinding(binding)
        return made

    def _release(self) -> None:
        del self._session


def _open_session(content: bytes, device: torch.device, name: str, *, plainly: bool) -> Any:
    """A session on exactly the provider of `device`: ONNX Runtime itself would fall back to the CPU in silence.

    `plainly` leaves out its further optimisations, which drop a ReLU before a QuantizeLinear of 8-bit floats.
    """
    ort = _onnxruntime()
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise UserError(f"ONNX Runtime has no {provider} here: install onnxruntime-gpu, or say --device cpu")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    if plainly:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    chosen = (provider, {"device_id": device.index or 0}) if device.type == "cuda" else provider
    try:
        session = ort.InferenceSession(content, options, providers=[chosen])
    except Exception as error:  # ONNX Runtime raises types of its own
        raise UserError(f"{name} cannot be loaded by ONNX Runtime: {first_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise UserError(
            f"{name}: {provider} did not start (are CUDA and cuDNN installed?): mend it, or say --device cpu"
        )
    return session


def resolve_onnx_device(device: str) -> torch.device:
    """As for torch, but ONNX Runtime may reach a CUDA device that a CPU build of torch does not see."""
    if device == "auto":
        both = torch.cuda.is_available() and "CUDAExecutionProvider" in _onnxruntime().get_available_providers()
        return torch.device("cuda" if both else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError:
        where = torch.device("meta")
    if where.type not in ("cpu", "cuda"):
        raise UserError(f"device must be auto, cpu, cuda or cuda:<index>, got {device!r}")
    return where


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("an .onnx file needs ONNX Runtime: pip install 'cyclegan-fast[onnx]'") from error
    return onnxruntime


def _channels(session: Any, name: str) -> tuple[int, int]:
    ends = []
    for end in (*session.get_inputs(), *session.get_outputs()):
        channels = end.shape[1] if len(end.shape) > 1 else None
        ends.append((end.type == "tensor(float)", len(end.shape), channels if isinstance(channels, int) else None))
    return image_channels(ends, name)
