"""Images with nothing in them: black frames, paper, sky. What is constant stays so, in every backend and precision.

Compiled code (.pt2), which takes a minute, is held to it by the gate: `check_parity` of all that tests build.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.config import ModelConfig, PixelFormat
from cyclegan_fast.engine import build_engine, load_engine
from cyclegan_fast.engine.centred import Centred, centred
from cyclegan_fast.engine.export import build, onnx
from cyclegan_fast.engine.generator import Generator, dump_safetensors
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_generator

MODEL = ModelConfig(generator="resnet_9blocks", ngf=8)
SIDE = 64
KINDS = [
    ("torch", ".safetensors", "fp32"),
    ("onnxruntime", ".onnx", "fp32"),
    ("onnxruntime", ".onnx", "fp16"),
    ("onnxruntime", ".onnx", "int8"),
    ("openvino", ".onnx", "fp32"),
    ("openvino", ".onnx", "bf16"),
    ("openvino", ".onnx", "int8"),
]
# How far a pixel may be from float64, where the network's own arithmetic decides and not the runtime's noise.
NEAR = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(5)
    built = build_generator(MODEL).eval()
    for name, value in built.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(value, -0.5, 0.5)
    return built


@pytest.fixture(scope="module")
def built(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("constant")
    weights = folder / "g.safetensors"
    weights.write_bytes(dump_safetensors(Generator(network, MODEL, "AtoB", PixelFormat(), PixelFormat())))
    files: dict[tuple[str, str], Path] = {(".safetensors", "fp32"): weights}

    def build(suffix: str, precision: str) -> Path:
        if (suffix, precision) not in files:
            out = folder / f"g_{precision}{suffix}"
            images = _photos(folder / "photos") if precision == "int8" else None
            files[suffix, precision] = build_engine(weights, out, precision=precision, images=images)
        return files[suffix, precision]

    return build


def _photos(folder: Path) -> Path:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    pixels = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def exact(network: torch.nn.Module, batch: Tensor) -> Tensor:
    """In float64, centred: even its rounding errors, 1e-16, are an image after seven instance norms."""
    in_double = copy.deepcopy(network).double()
    with ops.use_reference(), torch.inference_mode():
        return centred(in_double, in_double)(batch.double())


@pytest.mark.parametrize(("backend", "suffix", "precision"), KINDS)
def test_a_constant_image_stays_constant(network, built, backend: str, suffix: str, precision: str) -> None:
    pytest.importorskip(backend)
    with load_engine(built(suffix, precision), backend=backend, device="cpu", precision=precision) as engine:
        for level in (0, 1, 77, 128, 255):
            batch = torch.full((1, 3, SIDE, SIDE), level / 127.5 - 1.0)
            batch[:, 1] *= -0.5  # another value in each channel
            output = engine.run(batch).double()
            assert (output - exact(network, batch)).abs().max() <= NEAR[precision]
            assert output.amax((2, 3)).equal(output.amin((2, 3)))


@pytest.mark.parametrize(("backend", "suffix", "precision"), [kind for kind in KINDS if kind[0] != "torch"])
def test_a_half_constant_image_is_near_to_float64(network, built, backend: str, suffix: str, precision: str) -> None:
    pytest.importorskip(backend)
    batch = torch.full((1, 3, SIDE, SIDE), -1.0)
    batch[..., SIDE // 2 :] = torch.rand(1, 3, SIDE, SIDE // 2) * 2 - 1
    with load_engine(built(suffix, precision), backend=backend, device="cpu", precision=precision) as engine:
        error = (engine.run(batch).double() - exact(network, batch)).abs()
    assert error.max() <= {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.5, "int8": 1.0}[precision]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_noise_of_rounding_is_not_made_an_image_of(network, built, backend: str) -> None:
    """0.3 +- 1e-7: float32 holds three values there, and the network sees those three, not its own rounding."""
    pytest.importorskip(backend)
    batch = 0.3 + (torch.rand(1, 3, SIDE, SIDE) * 2 - 1) * 1e-7
    with load_engine(
        built(*((".pt2" if backend == "aoti" else ".onnx"), "fp32")), backend=backend, device="cpu"
    ) as engine:
        error = (engine.run(batch).double() - exact(network, batch)).abs()
    assert error.max() <= 1e-3


def test_the_gate_refuses_a_graph_that_makes_noise_of_a_constant_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(build, "to_onnx", onnx.to_onnx)  # not the fixture's, which keeps graphs
    monkeypatch.setattr(onnx, "centred", lambda compute, generator: compute)
    network = build_generator(MODEL)
    weights = tmp_path / "g.safetensors"
    weights.write_bytes(dump_safetensors(Generator(network, MODEL, "AtoB", PixelFormat(), PixelFormat())))
    with pytest.raises(UserError, match=r"differs from torch by max .* on images that are constant or half so"):
        build_engine(weights, tmp_path / "g.onnx")
    assert not (tmp_path / "g.onnx").exists()


@pytest.mark.parametrize("blocks", ["resnet_6blocks", "resnet_9blocks"])
def test_the_centred_network_computes_the_same(blocks: str) -> None:
    network = build_generator(ModelConfig(generator=blocks, ngf=4)).double().eval()
    batch = torch.rand(2, 3, 32, 36, dtype=torch.float64) * 2 - 1
    behind = centred(network, network)
    assert isinstance(behind, Centred)
    with torch.no_grad():
        torch.testing.assert_close(behind(batch), network(batch), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", [ModelConfig(generator="unet_128", ngf=4), ModelConfig(ngf=4, norm="batch")], ids=str)
def test_others_are_exported_as_they_are(model: ModelConfig) -> None:
    network = build_generator(model)
    assert centred(network, network) is network
