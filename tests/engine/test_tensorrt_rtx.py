"""Real TensorRT builds our graphs: TensorRT for RTX has the parser and the compiler, and needs no GPU to build for one.

It shows that each graph is taken, with all its types and for every profile. Loading what was built needs a GPU.
"""

from __future__ import annotations

import pytest
import torch

from cyclegan_fast.config import ModelConfig, PixelFormat
from cyclegan_fast.engine import Shapes
from cyclegan_fast.engine.backends.tensorrt_api import make_log
from cyclegan_fast.engine.export.onnx import to_onnx
from cyclegan_fast.engine.export.onnx_precision import typed_onnx
from cyclegan_fast.engine.export.tensorrt_build import add_profiles, parse, split_profiles
from cyclegan_fast.engine.generator import Generator
from cyclegan_fast.nn import build_networks

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)

SHAPES = Shapes((1, 32, 32), (4, 64, 64), (40, 96, 64))
MODELS = {"resnet": ModelConfig(generator="resnet_2blocks", ngf=8), "unet": ModelConfig(generator="unet_32", ngf=8)}
TARGETS = {"fp8": "SM120"}  # the first with convolutions in fp8 that it builds for; else SM80


@pytest.fixture(scope="module", params=MODELS)
def graph(request: pytest.FixtureRequest) -> bytes:
    model = MODELS[request.param]
    network = build_networks(model)["G_A"].eval().requires_grad_(False)
    return to_onnx(Generator(network, model, "AtoB", PixelFormat(), PixelFormat()))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_a_real_engine_is_built(graph: bytes, precision: str) -> None:
    images = (torch.rand(1, 3, 64, 64) * 2 - 1 for _ in range(2))
    typed = typed_onnx(graph, precision, images, for_tensorrt=True)
    log = make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)  # strongly typed, as all of TensorRT for RTX
    parse(trt, network, typed, log)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    target = getattr(trt.ComputeCapability, TARGETS.get(precision, "SM80"))
    assert config.set_compute_capability(target, 0)
    add_profiles(builder, config, network, SHAPES, channels=3)
    assert config.num_optimization_profiles == len(split_profiles(SHAPES)) == 4
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.last
    assert plan.nbytes > 10_000
    assert [network.get_input(0).dtype, network.get_output(0).dtype] == [trt.DataType.FLOAT] * 2
    assert _types_of_convolutions(network) >= _WANTED[precision]


# Of the inputs of convolutions; where they are quantised, what their inputs are dequantised to.
_WANTED = {
    "fp32": {trt.DataType.FLOAT},
    "fp16": {trt.DataType.HALF},
    "bf16": {trt.DataType.BF16},
    "int8": {trt.DataType.FLOAT},
    "fp8": {trt.DataType.FLOAT},
}


def _types_of_convolutions(network: object) -> set[object]:
    layers = (network.get_layer(i) for i in range(network.num_layers))  # type: ignore[attr-defined]
    return {layer.get_input(0).dtype for layer in layers if layer.type == trt.LayerType.CONVOLUTION}


def test_a_refusal_is_a_sentence(graph: bytes) -> None:
    from cyclegan_fast.errors import UserError

    log = make_log(trt)
    network = trt.Builder(log).create_network(0)
    with pytest.raises(UserError, match=r"^TensorRT 1\.\d+\.\S+ does not take the graph: \S"):
        parse(trt, network, graph[: len(graph) // 2], log)


def test_bf16_for_tensorrt_computes_what_bf16_does(graph: bytes) -> None:
    """Its transposed convolutions in float32: as near to float32 as the graph that has them in bf16, or nearer."""
    openvino = pytest.importorskip("openvino")

    def run(content: bytes) -> torch.Tensor:
        compiled = openvino.compile_model(
            openvino.Core().read_model(content, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        return torch.from_numpy(compiled(image.numpy())[0].copy())

    image = torch.rand(1, 3, 64, 64) * 2 - 1
    exact = run(graph)
    errors = [
        (run(typed_onnx(graph, "bf16", for_tensorrt=for_tensorrt)) - exact).norm() / exact.norm()
        for for_tensorrt in (False, True)
    ]
    assert 0 < errors[1] <= 1.1 * errors[0] < 0.1
