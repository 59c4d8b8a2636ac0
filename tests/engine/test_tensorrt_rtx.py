"""Real engines, built by TensorRT for RTX: it has TensorRT's parser and a compiler, and needs no GPU to build for one.

It shows that each graph is taken, with all its types and for every profile, and what was compiled. Loading what was
built needs a GPU: tests/engine/test_tensorrt_rtx_engines.py does that with a double, which is compared here with the
real package.
"""

from __future__ import annotations

import enum
import functools
import inspect
import json
import re
from pathlib import Path

import onnx
import pytest
import torch

from cyclegan_fast.config import ModelConfig, PixelFormat
from cyclegan_fast.engine import Shapes, build_engine
from cyclegan_fast.engine.backends.sidecar import sidecar_of
from cyclegan_fast.engine.backends.tensorrt_api import make_log
from cyclegan_fast.engine.export.layers import Layer, is_convolution, layers_of, read_layers
from cyclegan_fast.engine.export.onnx import to_onnx
from cyclegan_fast.engine.export.onnx_precision import typed_onnx
from cyclegan_fast.engine.export.tensorrt_build import parse, split_profiles
from cyclegan_fast.engine.export.tensorrt_rtx_build import build_rtx_plan, choose_capabilities
from cyclegan_fast.engine.generator import Generator
from cyclegan_fast.engine.info import Precision
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_networks
from tests.engine import tensorrt_rtx_double as double

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)

SHAPES = Shapes((1, 32, 32), (4, 64, 64), (40, 96, 64))
MODELS = {"resnet": ModelConfig(generator="resnet_2blocks", ngf=8), "unet": ModelConfig(generator="unet_32", ngf=8)}


@pytest.fixture(scope="module", params=MODELS)
def graph(request: pytest.FixtureRequest) -> bytes:
    return exported(MODELS[request.param])


@functools.cache
def exported(model: ModelConfig) -> bytes:
    network = build_networks(model)["G_A"].eval().requires_grad_(False)
    return to_onnx(Generator(network, model, "AtoB", PixelFormat(), PixelFormat()))


def typed(graph: bytes, precision: Precision) -> bytes:
    images = (torch.rand(1, 3, 64, 64) * 2 - 1 for _ in range(2))
    return typed_onnx(graph, precision, images, for_tensorrt=True)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_a_real_engine_computes_in_its_precision_for_every_profile(graph: bytes, precision: Precision) -> None:
    content = typed(graph, precision)
    plan, report = build_rtx_plan(content, SHAPES, 3, choose_capabilities(precision), inspect=True)
    assert len(plan) > 10_000
    layers = read_layers(report, content)
    nodes = onnx.load_from_string(content).graph.node
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    inner = convolutions[1:-1] if precision in ("int8", "fp8") else convolutions  # both ends stay in float32
    profiles = range(len(split_profiles(SHAPES)))
    assert sorted({layer.profile for layer in layers}) == list(profiles) == [0, 1, 2, 3]
    for profile in profiles:
        for node in convolutions:
            (layer,) = (each for each in layers if node in each.nodes and each.profile == profile and computes(each))
            wanted = precision if node in inner else "fp32"
            assert (layer.inputs[0], layer.weights[0]) == (wanted, wanted), layer
        norms = [node.name for node in nodes if node.op_type == "InstanceNormalization"]
        for node in norms:
            parts = [layer for layer in layers if layer.profile == profile and node in layer.nodes]
            assert parts and all(computes_in_float32(layer) for layer in parts), parts


def computes(layer: Layer) -> bool:
    return is_convolution(layer) and "Conv" in layer.operators


def computes_in_float32(layer: Layer) -> bool:
    """Of a norm: its weights are float32, and so is what it reads and writes, but for casts that are part of it."""
    others = {*layer.inputs, *layer.outputs} - {"fp32", "Int32"}  # Int32: sizes
    casts = {"Cast", "QuantizeLinear", "DequantizeLinear"}
    return set(layer.weights) <= {"fp32"} and (not others or not casts.isdisjoint(layer.operators))


@pytest.mark.parametrize(
    ("precision", "oldest", "below"),
    [
        ("fp32", "7.5", None),
        ("fp16", "7.5", None),
        ("int8", "8.0", "7.5"),
        ("bf16", "8.0", "7.5"),
        ("fp8", "8.9", "8.6"),
    ],
)
def test_which_gpus_compute_in_what_is_the_librarys_rule(precision: Precision, oldest: str, below: str | None) -> None:
    content, shapes = typed(exported(MODELS["unet"]), precision), Shapes((1, 32, 32), (1, 32, 32), (1, 32, 32))
    assert choose_capabilities(precision, [oldest]) == (oldest,)
    assert precision in types_of_convolutions(content, shapes, oldest)
    if below is not None:
        with pytest.raises(UserError, match=f"capability {below} do not compute in {precision}"):
            choose_capabilities(precision, [below])
        if precision == "int8":  # which is built, and computes in float32 there
            assert types_of_convolutions(content, shapes, below) == {"fp32"}
            return
        with pytest.raises(UserError, match=r"could not build the engine: .*Cannot compile for target"):
            build_rtx_plan(content, shapes, 3, [below])


def types_of_convolutions(content: bytes, shapes: Shapes, capability: str) -> set[str]:
    _, report = build_rtx_plan(content, shapes, 3, [capability], inspect=True)
    return {layer.weights[0] for layer in read_layers(report, content) if computes(layer)}


def test_it_builds_for_ampere_and_newer_unless_told_otherwise() -> None:
    assert choose_capabilities("fp16") == choose_capabilities("bf16") == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert choose_capabilities("fp8") == ("8.9", "12.0", "12.1")
    assert choose_capabilities("fp16", ["12.0", "7.5", "12.0"]) == ("7.5", "12.0")
    for unknown in ("9.0", "10.0", "sm_86"):
        with pytest.raises(UserError, match=rf"builds for compute capability 7\.5, 8\.0, .*, not for .*{unknown}: "):
            choose_capabilities("fp16", ["8.6", unknown])
    with pytest.raises(UserError, match=r"capability 7\.5 do not compute in bf16, which needs 8\.0 or newer"):
        choose_capabilities("bf16", ["7.5", "8.6"])
    with pytest.raises(UserError, match="not for no compute capability"):
        choose_capabilities("fp16", [])


def test_a_refusal_is_a_sentence(graph: bytes) -> None:
    with pytest.raises(UserError, match=r"^TensorRT for RTX 1\.\d+\.\S+ does not take the graph: \S"):
        build_rtx_plan(graph[: len(graph) // 2], SHAPES, 3, ["8.6"])
    with pytest.raises(UserError, match="reports no layers"):
        read_layers("", graph)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_export_builds_one_where_there_is_no_gpu(runs: dict[str, Path], tmp_path: Path, run_command_here) -> None:
    from cyclegan_fast.export import main

    out = tmp_path / "g.engine"
    words = ("--checkpoint", runs["colour"], "--direction", "AtoB", "--out", out, "--precision", "fp16")
    ended = run_command_here(main, *words, "--tensorrt", "rtx", "--compute-capabilities", "8.6", "12.0", "--inspect")
    assert ended.status == 0 and "fp16; from torch its ONNX graph differs by at most" in ended.out
    assert "the ONNX graph that it was built from is compared with torch" in ended.out + ended.err
    metadata = json.loads(sidecar_of(out).read_text())
    assert metadata["compiled"] == {
        "device": "cuda",
        "flavour": "rtx",
        "tensorrt_rtx": trt.__version__,
        "compute_capabilities": ["8.6", "12.0"],
    }
    assert metadata["compared"] == "graph" and metadata["parity"]["psnr"] > 46
    table = layers_of(out).read_text()
    assert f"{layers_of(out)}: the compiled layers\n" in ended.out
    assert "| 0 | 1x8x8 to 1x1024x1024 | 8 fp16 |" in table and table.count("| correlation | Conv") == 3 * 6
    plain = build_engine(runs["colour"], tmp_path / "plain.engine", precision="fp16", tensorrt="rtx")
    assert not layers_of(plain).exists()


def test_the_double_has_no_name_that_the_real_package_has_not() -> None:
    for name, kind in double.CLASSES.items():
        own = {member for base in kind.__mro__[:-1] for member in members(base) if not member.startswith("_")}
        assert own <= set(dir(getattr(trt, name))), (name, own - set(dir(getattr(trt, name))))


def members(kind: type) -> set[str]:
    if issubclass(kind, enum.Enum):
        return set(kind.__members__)
    return set(vars(kind)) if kind.__module__.startswith("tests.") else set()


def test_the_doubles_methods_take_the_parameters_of_the_real_ones() -> None:
    compared = 0
    for name, kind in double.CLASSES.items():
        for method, function in inspect.getmembers(kind, inspect.isfunction):
            if method.startswith("_") or not function.__module__.startswith("tests."):
                continue
            real = getattr(getattr(trt, name), method).__doc__ or ""
            signatures = re.findall(rf"{method}\(self: [\w.]+(?:, )?(.*?)\) ->", real)
            parameters = [re.findall(r"(\w+): ", signature) for signature in signatures]
            own = list(inspect.signature(function).parameters)[1:]
            assert not signatures or any(own == each[: len(own)] for each in parameters), (name, method, own, real)
            compared += bool(signatures)
    assert compared > 30


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


def test_a_network_is_strongly_typed_for_the_parser(graph: bytes) -> None:
    log = make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(trt, network, typed(graph, "fp16"), log)
    assert [network.get_input(0).dtype, network.get_output(0).dtype] == [trt.DataType.FLOAT] * 2
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
