"""The engine that runs an ONNX file in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.engine.backends.external_runtime import first_line
from cyclegan_fast.engine.backends.onnx_file import OnnxFile
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.threads import threads_on
from cyclegan_fast.errors import UserError
from cyclegan_fast.telemetry import telemetry_disabled

_ERRORS = 3  # ONNX Runtime's severity of messages that it prints


class OnnxBackend(Engine):
    """Runs an ONNX file with one image in and one out.

    Args:
        file: What to run.
        device: auto, cpu, cuda or cuda:<index>; auto is CUDA where ONNX Runtime and torch both have it.
        threads: CPU threads that a call computes on; by default those of `default_threads`.

    Raises:
        UserError: ONNX Runtime or its provider for the device is missing, or it does not take the file.
    """

    forks_on_one_thread = True

    def __init__(self, file: OnnxFile, *, device: str = "auto", threads: int | None = None) -> None:
        where = resolve_onnx_device(device)
        if file.precision == "bf16" and where.type == "cpu":
            raise UserError(f"{file.name} computes in bf16, which ONNX Runtime cannot on the CPU: use backend openvino")
        self._file = file
        info = file.info(str(where), threads_on(where.type, threads))
        self._session = _open_session(file, where, info.threads)
        super().__init__(info)

    def _compute(self, batch: Tensor) -> Tensor:
        on_device = self._file.metadata and batch.is_cuda and self.device.startswith("cuda")
        run = self._run_on_device if on_device else self._run_on_host
        try:
            return run(batch)
        except Exception as error:  # ONNX Runtime raises types of its own
            raise self._file.failure(batch, error) from error

    def _run_on_host(self, batch: Tensor) -> Tensor:
        (result,) = self._session.run(None, {self._file.input.name: self._file.input.from_batch(batch)})
        return self._file.output.to_batch(result)

    def _run_on_device(self, batch: Tensor) -> Tensor:
        """Reads and writes torch's own memory, of graphs of which we know type, layout and size: our own."""
        import numpy as np

        batch = batch.to(self.device, torch.float32).contiguous()
        result = batch.new_empty((batch.shape[0], self.out_channels, *batch.shape[2:]))
        binding, index = self._session.io_binding(), batch.device.index
        binding.bind_input(self._file.input.name, "cuda", index, np.float32, list(batch.shape), batch.data_ptr())
        binding.bind_output(self._file.output.name, "cuda", index, np.float32, list(result.shape), result.data_ptr())
        torch.cuda.current_stream(batch.device).synchronize()  # ONNX Runtime has a stream of its own
        self._session.run_with_iobinding(binding)
        return result

    def _release(self) -> None:
        del self._session


def _open_session(file: OnnxFile, device: torch.device, threads: int | None) -> Any:
    """A session on exactly the provider of `device`: ONNX Runtime itself would fall back to the CPU in silence."""
    ort = _onnxruntime()
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise UserError(f"ONNX Runtime has no {provider} here: install onnxruntime-gpu, or choose the device cpu")
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS
    if threads is not None:  # by default it takes every core that it sees, whatever OMP_NUM_THREADS is
        options.intra_op_num_threads = threads
    if file.precision == "fp8":  # further optimisations drop a ReLU before a QuantizeLinear of 8-bit floats
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    chosen = (provider, {"device_id": device.index or 0}) if device.type == "cuda" else provider
    model = str(file.model) if isinstance(file.model, Path) else file.model
    try:
        session = ort.InferenceSession(model, options, providers=[chosen])
    except Exception as error:  # ONNX Runtime raises types of its own
        raise UserError(f"{file.name} cannot be loaded by ONNX Runtime: {first_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise UserError(
            f"{file.name}: {provider} did not start (are CUDA and cuDNN installed?): fix it, or choose the device cpu"
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
        with telemetry_disabled():
            import onnxruntime
    except ImportError as error:
        raise UserError("an .onnx file needs ONNX Runtime: pip install 'cyclegan-fast[onnx]'") from error
    return onnxruntime
