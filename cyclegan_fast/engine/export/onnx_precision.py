"""ONNX graphs whose convolutions compute in fp16, bf16, int8 or fp8, by the graph's own types.

Images go in and come out as float32, and every instance norm computes in float32. fp16 and bf16 are casts between them.
int8 is pairs of QuantizeLinear and DequantizeLinear around the convolutions, which ONNX Runtime, OpenVINO and TensorRT
fuse: symmetric, weights by channel, activations on ranges that a set of real images shows. The first and the last
convolution stay in float32: they are a hundredth of the arithmetic, and their error would be seen in every pixel.
fp8 is the same pairs with floats of 8 bits (E4M3), for GPUs that have them.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.engine.info import Precision
from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import suppressed_output
from cyclegan_fast.telemetry import telemetry_disabled

_BF16_OPSET = 22  # the first whose convolutions take bfloat16
_FP8_OPSET = 19  # the first whose QuantizeLinear makes 8-bit floats
_INT8_MAX, _FP8_MAX = 127.0, 448.0
_NORM = "InstanceNormalization"


def typed_onnx(
    content: bytes, precision: Precision, calibration: Iterable[Tensor] = (), *, for_tensorrt: bool = False
) -> bytes:
    """Converts a float32 graph of `to_onnx` to another precision.

    Args:
        content: The ONNX file's bytes.
        precision: What its convolutions shall compute in.
        calibration: For int8 and fp8: batches as the network takes them, float32 [N, C, H, W] in [-1, 1], of real
            images.
        for_tensorrt: As TensorRT takes graphs: the biases of int8 in float32 (ONNX Runtime is slower with those), and
            the transposed convolutions of bf16, for which it has no kernels.

    Raises:
        UserError: int8 or fp8 without images, or a package is missing.
    """
    if precision == "fp32":
        return content
    if precision == "int8":
        return _quantise(content, iter(calibration), float_bias=for_tensorrt)
    if precision == "fp8":
        return _to_fp8(_quantise(content, iter(calibration), float_bias=True), content)
    if precision == "fp16":
        return _cast(content, torch.float16, {_NORM})
    return _cast(content, torch.bfloat16, {_NORM, "ConvTranspose"} if for_tensorrt else {_NORM})


def _cast(content: bytes, dtype: torch.dtype, in_float: set[str]) -> bytes:
    """All weights and activations to `dtype`, except of the kinds of node `in_float` and at both ends."""
    import onnx
    from onnx import TensorProto

    half = TensorProto.FLOAT16 if dtype == torch.float16 else TensorProto.BFLOAT16
    model = onnx.load_from_string(content)
    graph = model.graph
    del graph.value_info[:]  # which declares every tensor float32
    # What stands before the first convolution and its border centres the image, in float32.
    start = next(i for i, node in enumerate(graph.node) if node.op_type in ("Pad", "Conv"))
    stay = {name for node in graph.node if node.op_type in in_float for name in node.input[1:]}
    stay |= {name for node in graph.node[:start] for name in node.input}
    _round_weights(graph, dtype, half, stay)
    nodes = [*graph.node[:start], *_with_casts(graph.node[start:], graph.output[0].name, half, in_float)]
    del graph.node[:]
    graph.node.extend(nodes)
    if half == TensorProto.BFLOAT16:
        _raise_opset(model, _BF16_OPSET)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _round_weights(graph: Any, dtype: torch.dtype, half: int, stay: set[str]) -> None:
    """Rounds the float32 weights of a graph, but for those that `stay` names."""
    from onnx import TensorProto, helper, numpy_helper

    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in stay:
            bits = torch.from_numpy(numpy_helper.to_array(tensor).copy()).to(dtype).view(torch.int16)
            tensor.CopyFrom(helper.make_tensor(tensor.name, half, tensor.dims, bits.numpy().tobytes(), raw=True))


def _with_casts(computing: Sequence[Any], output: str, half: int, in_float: set[str]) -> list[Any]:
    """The nodes of a graph with those that convert between float32 and `half` among them.

    Args:
        computing: The nodes in order; the first one reads the float32 input.
        output: The name of the graph's output.
        half: The type of ONNX.
        in_float: The kinds of node that compute in float32.
    """
    from onnx import TensorProto, helper

    nodes: list[Any] = []

    def cast(source: str, target: str, to: int) -> None:
        nodes.append(helper.make_node("Cast", [source], [target], name=f"cast_to_{target}", to=to))

    input = computing[0].input[0]
    read_in_half = {name for node in computing if node.op_type not in in_float for name in node.input}
    made_in_float: set[str] = set()
    cast(input, f"{input}_half", half)
    for node in computing:
        node.input[:] = [f"{name}_half" if name == input else name for name in node.input]
        (result,) = node.output
        if node.op_type in in_float:
            source = f"{node.input[0]}_float"
            if source not in made_in_float:
                cast(node.input[0], source, TensorProto.FLOAT)
            node.input[0], node.output[0] = source, f"{result}_float"
            made_in_float.add(node.output[0])
            nodes.append(node)
            if result in read_in_half:
                cast(f"{result}_float", result, half)
        elif result == output:
            node.output[0] = f"{output}_half"
            nodes.append(node)
            cast(f"{output}_half", output, TensorProto.FLOAT)
        else:
            nodes.append(node)
    return nodes


def _quantise(content: bytes, calibration: Iterator[Tensor], *, float_bias: bool) -> bytes:
    first = next(calibration, None)
    if first is None:
        raise UserError(
            "int8 and fp8 are calibrated on images: name a folder with some of the domain, such as testA, as images"
        )
    import onnx

    try:
        with telemetry_disabled():
            from onnxruntime import quantization
    except ImportError as error:
        raise UserError("int8 is made by ONNX Runtime: pip install 'cyclegan-fast[onnx]'") from error

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        left = itertools.chain([first], calibration)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {name: batch.numpy()}

    graph = onnx.load_from_string(content).graph
    name = graph.input[0].name
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    with (
        tempfile.TemporaryDirectory() as folder,
        suppressed_output(""),
    ):  # the quantiser advises through the root logger
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(content)
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[convolutions[0], convolutions[-1]],
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": not float_bias},
        )
        return target.read_bytes()


def _to_fp8(content: bytes, plain: bytes) -> bytes:
    """The pairs of an int8 graph with the ranges they have, in 8-bit floats (E4M3); `plain` has the exact weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(content)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weights = {tensor.name: tensor for tensor in onnx.load_from_string(plain).graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]

    for name in {node.input[1] for node in pairs}:
        smaller = numpy_helper.to_array(tensors[name]) * np.float32(_INT8_MAX / _FP8_MAX)
        tensors[name].CopyFrom(numpy_helper.from_array(smaller, name))
    for name in {node.input[2] for node in pairs}:
        dims = tensors[name].dims
        zeros = bytes(math.prod(dims))
        tensors[name].CopyFrom(helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, dims, zeros, raw=True))
    for node in pairs:
        if (stored := tensors.get(node.input[0])) is not None:  # weights, [O, I, h, w], with a scale for each of O
            scale = torch.from_numpy(numpy_helper.to_array(tensors[node.input[1]]).copy())
            exact = torch.from_numpy(numpy_helper.to_array(weights[stored.name.removesuffix("_quantized")]).copy())
            levels = (exact / scale.view(-1, *[1] * (exact.dim() - 1))).clamp(-_FP8_MAX, _FP8_MAX)
            raw = levels.to(torch.float8_e4m3fn).view(torch.uint8).numpy().tobytes()
            stored.CopyFrom(helper.make_tensor(stored.name, TensorProto.FLOAT8E4M3FN, stored.dims, raw, raw=True))
    del graph.value_info[:]
    _raise_opset(model, _FP8_OPSET)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _raise_opset(model: Any, minimum: int) -> None:
    for opset in model.opset_import:
        opset.version = max(opset.version, minimum) if opset.domain in ("", "ai.onnx") else opset.version
