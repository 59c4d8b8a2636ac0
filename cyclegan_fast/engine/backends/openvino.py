"""The engine that runs an ONNX file in OpenVINO, on the CPU."""

from __future__ import annotations

import queue
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.engine.backends.external_runtime import first_line, fixed_sizes, image_channels
from cyclegan_fast.engine.backends.sidecar import engine_fields
from cyclegan_fast.engine.engine import Engine, Precision
from cyclegan_fast.errors import UserError

_REQUESTS = 2  # batches at work at a time: further threads wait


class OpenVinoBackend(Engine):
    """Runs an ONNX graph with one input and one output, both float32 [N, C, H, W].

    Args:
        content: The ONNX file's bytes.
        metadata: What its sidecar says, or an empty dictionary.
        name: Where it came from.
        precision: By default the file's own; an fp32 graph may run in bf16 where the processor has it, which OpenVINO
            alone would do by itself. Where it has none, OpenVINO computes fp16 and bf16 graphs in float32.

    Raises:
        UserError: OpenVINO is missing, the processor cannot compute in that precision, or the graph is of another kind.
    """

    def __init__(
        self, content: bytes, metadata: dict[str, Any], *, name: str, precision: Precision | None = None
    ) -> None:
        openvino, stored = _openvino(), metadata.get("precision", "fp32")
        precision, core = precision or stored, openvino.Core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        _check_precision(precision, stored, has_bf16, name)
        try:
            model = core.read_model(content, b"")
            channels = _channels(model, name)
            computing = "bf16" if precision == "bf16" and has_bf16 else "f32"
            hint = {"INFERENCE_PRECISION_HINT": computing, "PERFORMANCE_HINT": "LATENCY"}
            compiled = core.compile_model(model, "CPU", hint)
        except RuntimeError as error:
            raise UserError(f"{name} cannot be loaded by OpenVINO: {first_line(error)}") from error
        fields = engine_fields(metadata, channels, name)
        if not metadata:
            sides = model.inputs[0].partial_shape
            fields |= fixed_sizes(*(sides[i].get_length() if sides[i].is_static else None for i in (0, 2, 3)))
        super().__init__(name=name, device="cpu", precision=precision, **fields)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(_REQUESTS):
            self._requests.put(compiled.create_infer_request())

    def _compute(self, batch: Tensor) -> Tensor:
        request = self._requests.get()
        try:
            request.infer([batch.float().cpu().contiguous().numpy()])
            return torch.from_numpy(request.get_output_tensor().data.copy())
        except RuntimeError as error:
            raise UserError(
                f"{self.name} failed on a batch of shape {list(batch.shape)}: {first_line(error)}"
            ) from error
        finally:
            self._requests.put(request)

    def _release(self) -> None:
        del self._requests


def _check_precision(precision: str, stored: str, has_bf16: bool, name: str) -> None:
    if precision == stored:
        return
    if (stored, precision) != ("fp32", "bf16"):
        raise UserError(f"{name} computes in {stored}; OpenVINO cannot make {precision} of it: export that")
    if not has_bf16:
        raise UserError("this processor does not compute in bf16: use fp32, or export int8")


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UserError("the backend openvino needs OpenVINO: pip install 'cyclegan-fast[openvino]'") from error
    return openvino


def _channels(model: Any, name: str) -> tuple[int, int]:
    ends = []
    for end in (*model.inputs, *model.outputs):
        shape = end.partial_shape
        rank = len(shape) if shape.rank.is_static else 0
        channels = shape[1].get_length() if rank > 1 and shape[1].is_static else None
        ends.append((end.get_element_type().get_type_name() == "f32", rank, channels))
    return image_channels(ends, name)
