"""The engine that runs an ONNX file in OpenVINO, on the CPU."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

from torch import Tensor

from cyclegan_fast.engine.backends.external_runtime import first_line
from cyclegan_fast.engine.backends.onnx_file import OnnxFile
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.info import Precision
from cyclegan_fast.engine.threads import threads_on
from cyclegan_fast.errors import UserError
from cyclegan_fast.telemetry import telemetry_disabled

_REQUESTS = 2  # batches that run at a time: further threads wait


class OpenVinoBackend(Engine):
    """Runs an ONNX file with one image in and one out.

    Args:
        file: What to run.
        precision: By default the file's own; an fp32 graph may run in bf16 where the processor has it, which OpenVINO
            alone would do by itself. Where it has none, OpenVINO computes fp16 and bf16 graphs in float32.
        threads: That a call computes on; by default those of `default_threads`.

    Raises:
        UserError: OpenVINO is missing, the processor cannot compute in that precision, or it does not take the file.
    """

    def __init__(self, file: OnnxFile, *, precision: Precision | None = None, threads: int | None = None) -> None:
        precision, core = precision or file.precision, _openvino().Core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        _check_precision(precision, file, has_bf16)
        info = file.info("cpu", threads_on("cpu", threads), precision)
        self._hint = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" and has_bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(info.threads),
        }
        self._file, self._core = file, core
        try:
            self._model = (
                core.read_model(file.model) if isinstance(file.model, Path) else core.read_model(file.model, b"")
            )
            compiled = self._compile()
        except RuntimeError as error:
            raise UserError(f"{file.name} cannot be loaded by OpenVINO: {first_line(error)}") from error
        super().__init__(info)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(_REQUESTS):
            self._requests.put(compiled.create_infer_request())

    def _compute(self, batch: Tensor) -> Tensor:
        request = self._requests.get()
        try:
            return self._infer(request, batch)
        except Exception:  # of this batch, or of an earlier one: a shape that fails breaks its compiled model for good
            request = self._compile().create_infer_request()
            try:
                return self._infer(request, batch)
            except Exception as error:
                request = self._compile().create_infer_request()
                raise self._file.failure(batch, error) from error
        finally:
            self._requests.put(request)

    def _infer(self, request: Any, batch: Tensor) -> Tensor:
        # Not `infer`: on one thread a shape that the graph cannot take ends the process there, at a later batch.
        request.start_async([self._file.input.from_batch(batch)])
        request.wait()
        result = request.get_output_tensor().data.copy()
        if not result.size:  # `infer` gave that, and no error, for such a shape
            raise RuntimeError("OpenVINO returned no pixels")
        return self._file.output.to_batch(result)

    def _compile(self) -> Any:
        return self._core.compile_model(self._model, "CPU", self._hint)

    def _release(self) -> None:
        del self._requests, self._model


def _check_precision(precision: str, file: OnnxFile, has_bf16: bool) -> None:
    if precision == file.precision:
        return
    if (file.precision, precision) != ("fp32", "bf16"):
        raise UserError(f"{file.name} computes in {file.precision}; OpenVINO cannot run it in {precision}: export that")
    if not has_bf16:
        raise UserError("this processor does not compute in bf16: use fp32, or export int8")


def _openvino() -> Any:
    try:
        with telemetry_disabled():
            import openvino
    except ImportError as error:
        raise UserError("the backend openvino needs OpenVINO: pip install 'cyclegan-fast[openvino]'") from error
    return openvino
