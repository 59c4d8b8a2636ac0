"""Feature networks of every kind of file: what they get, what they return, and what is no such file."""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.evaluation import features as module
from cyclegan_fast.evaluation.features import WEIGHTS_NAME, FeatureNetwork, load_features

CPU = torch.device("cpu")


class Small(nn.Module):
    """Three features: the mean of each channel. It takes sides that are multiples of 8 alone."""

    def __init__(self, channels: int = 3, *, pooled: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.pooled = pooled

    def forward(self, images: Tensor) -> Tensor:
        images = images * self.scale[:, None, None]
        parts = images.reshape(images.shape[0], images.shape[1], 8, images.shape[2] // 8, images.shape[3]).mean(dim=3)
        return parts.mean(dim=(2, 3)) if self.pooled else parts


def write(kind: str, path: Path, network: nn.Module, shape: tuple[int, ...] = (1, 3, 32, 32)) -> Path:
    """Writes a network whose input has this shape; in ONNX one image is any number."""
    example = (torch.rand(shape),)
    path = path / f"network{kind}"
    if kind == ".onnx":
        onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        float32 = onnx.TensorProto.FLOAT
        mean = onnx.helper.make_node("GlobalAveragePool", ["images"], ["features"])
        stated = ["n" if shape[0] == 1 else shape[0], *shape[1:]]
        entry = onnx.helper.make_tensor_value_info("images", float32, stated)
        result = onnx.helper.make_tensor_value_info("features", float32, [*stated[:2], *[1] * (len(shape) - 2)])
        graph = onnx.helper.make_graph([mean], "means", [entry], [result])
        opset = [onnx.helper.make_opsetid("", 17)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    elif kind == ".pt2":
        torch.export.save(torch.export.export(network, example), path)
    else:
        torch.jit.trace(network, example).save(str(path))
    return path


@pytest.mark.parametrize("kind", [".onnx", ".pt2", ".pt"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_file_gets_images_of_its_size_from_0_to_1(tmp_path: Path, kind: str) -> None:
    path = write(kind, tmp_path, Small().eval())
    network = load_features(str(path), CPU, size=32 if kind == ".pt" else None)
    assert network.size == 32 and network.channels == 3
    images = [torch.rand(3, 32, 32), torch.rand(3, 45, 70), torch.rand(1, 32, 32)]
    found = network.extract(images)
    assert found.dtype == torch.float64 and found.shape == (3, 3)
    torch.testing.assert_close(found[0], images[0].double().mean(dim=(1, 2)), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], images[1].double().mean(dim=(1, 2)), rtol=0, atol=0.02)  # resized
    torch.testing.assert_close(found[2], images[2].double().mean(dim=(1, 2)).expand(3), rtol=0, atol=1e-6)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert network.protocol == f"features of network{kind} (SHA-256 {digest[:8]}) at 32x32 (bicubic)"
    with pytest.raises(UserError, match="takes 3 channels, and the images have 5"):
        network.extract([torch.rand(5, 32, 32)])
    if kind != ".pt":
        with pytest.raises(UserError, match=r"--features-size 40: .* takes images of 32x32 alone"):
            load_features(str(path), CPU, size=40)
        five = load_features(str(write(kind, tmp_path, Small(5).eval(), (1, 5, 32, 32))), CPU)
        assert five.channels == 5 and five.extract([torch.rand(5, 20, 20)]).shape == (1, 5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_of_onnx_runs_on_the_cpu_where_onnx_runtime_has_no_cuda(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = write(".onnx", tmp_path, Small().eval())
    if "CUDAExecutionProvider" in pytest.importorskip("onnxruntime").get_available_providers():
        pytest.skip("here it has")
    run, _ = module._load_onnx(path, torch.device("cuda"))
    assert run(torch.ones(1, 3, 32, 32)).flatten().tolist() == [1, 1, 1]
    assert caplog.messages == [f"--features {path} runs on the CPU, as this ONNX Runtime cannot use CUDA"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_size_that_the_network_does_not_take_is_one_sentence(tmp_path: Path) -> None:
    path = write(".pt", tmp_path, Small().eval())
    with pytest.raises(UserError, match=r"does not take an input of 1x3x36x36 \(.*\): name the side") as error:
        load_features(str(path), CPU, size=36)
    assert "\n" not in str(error.value) and "TorchScript interpreter" not in str(error.value)
    assert load_features(str(path), CPU).size == 224


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_size_that_is_assumed_is_said_to_be(tmp_path: Path) -> None:
    """And the reason is that of the network, not the first line of TorchScript, which is the same for all."""
    torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))).save(str(tmp_path / "n.pt"))
    with pytest.raises(UserError) as error:
        load_features(str(tmp_path / "n.pt"), CPU)
    assert str(error.value) == (
        "--features n.pt does not take an input of 1x3x224x224 (RuntimeError: mat1 and mat2 shapes cannot be "
        "multiplied (1x150528 and 3072x5)): its file states no size, so name the side that it takes with "
        "--features-size"
    )


@pytest.mark.parametrize("kind", [".onnx", ".pt2"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_that_takes_no_single_square_image_is_one_sentence(tmp_path: Path, kind: str) -> None:
    """And is not told to change a size that it states itself."""
    for shape in ((1, 3, 32, 48), (4, 3, 32, 32)):
        path = write(kind, tmp_path, nn.Flatten(), shape)
        stated = "x".join(map(str, shape)).replace("1x", "[1?]x")
        with pytest.raises(
            UserError, match=rf"^--features .*network{kind} takes inputs of {stated} alone, .*"
        ) as error:
            load_features(str(path), CPU)
        assert str(error.value).endswith("resized to a square: export the network for [1, C, S, S]")
    path = write(kind, tmp_path, nn.Flatten(), (1, 3, 32))
    with pytest.raises(UserError, match=rf"network{kind}: its input has 3 dimensions; expected \[1, C, S, S\]"):
        load_features(str(path), CPU)


def test_a_network_that_fails_at_the_size_that_it_states_is_not_told_to_name_another() -> None:
    def fail(images: Tensor) -> Tensor:
        raise ValueError("no")

    for fixed in (True, False):
        with pytest.raises(UserError) as error:
            FeatureNetwork("x", fail, 16, fixed_size=fixed).extract([torch.rand(3, 16, 16)])
        end = "" if fixed else ": name the side that it takes with --features-size"
        assert str(error.value) == f"--features x does not take an input of 1x3x16x16 (no){end}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_networks_of_one_name_are_told_apart(tmp_path: Path) -> None:
    protocols = set()
    for scale in (1.0, 2.0):
        network = Small().eval()
        network.scale.data.fill_(scale)
        protocols.add(load_features(str(write(".pt2", tmp_path, network)), CPU).protocol)
    assert len(protocols) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_beside_an_onnx_file_tell_it_apart_too(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    float32, found = onnx.TensorProto.FLOAT, []
    for value in (1.0, 2.0, 1.0):
        weight = onnx.numpy_helper.from_array(np.full((3, 3, 1, 1), value, np.float32), "weight")
        nodes = [
            onnx.helper.make_node("Conv", ["images", "weight"], ["mixed"]),
            onnx.helper.make_node("GlobalAveragePool", ["mixed"], ["features"]),
        ]
        entry = onnx.helper.make_tensor_value_info("images", float32, ["n", 3, 32, 32])
        result = onnx.helper.make_tensor_value_info("features", float32, ["n", 3, 1, 1])
        model = onnx.helper.make_model(
            onnx.helper.make_graph(nodes, "g", [entry], [result], [weight]),
            opset_imports=[onnx.helper.make_opsetid("", 17)],
            ir_version=9,
        )
        (tmp_path / "weights.bin").unlink(missing_ok=True)
        onnx.save_model(
            model, tmp_path / "f.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
        )
        found.append((load_features(str(tmp_path / "f.onnx"), CPU).digest, (tmp_path / "f.onnx").read_bytes()))
    assert found[0] == found[2] and found[0][1] == found[1][1] and found[0][0] != found[1][0]
    both = b"".join((tmp_path / name).read_bytes() for name in ("f.onnx", "weights.bin"))
    assert found[2][0] == hashlib.sha256(both).hexdigest()[:8]


def test_its_speed_is_that_of_the_second_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, costs = [100.0], iter([7.0, 0.25])
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    def run(images: Tensor) -> Tensor:
        clock[0] += next(costs)
        return images.mean(dim=(2, 3))

    monkeypatch.setattr(module, "_load_file", lambda *_: FeatureNetwork("x", run, 16))
    assert load_features("x.pt2", CPU).seconds == 0.25


def test_features_of_an_image_with_nan_are_nan() -> None:
    """Also where the network rounds its input to 8 bits, as Inception does."""
    network = FeatureNetwork("x", lambda images: (images * 255).to(torch.uint8).float().mean(dim=(2, 3)), 16)
    images = torch.full((2, 3, 16, 16), 0.2)
    images[0, 1, 5, 5] = torch.nan
    assert network.extract(images).isnan().all(dim=1).tolist() == [True, False]


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError, Exception])  # the last: as of ONNX Runtime
def test_a_full_memory_is_no_fault_of_the_network(kind: type[Exception]) -> None:
    def full(images: torch.Tensor) -> torch.Tensor:
        raise kind("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        FeatureNetwork("x", full, 16).extract([torch.rand(3, 16, 16)])


def test_features_of_places_are_averaged_and_other_results_refused() -> None:
    image = [torch.rand(3, 16, 16)]
    four = FeatureNetwork("x", lambda images: (images[:, :, :4, :4],), 16).extract(image)
    torch.testing.assert_close(four[0], image[0][:, :4, :4].double().mean(dim=(1, 2)))
    for result, reason in ((image[0], r"shape \[3, 16, 16\]"), ({}, "a dict"), ([], "a list")):
        with pytest.raises(UserError, match=f"--features x returns {reason}; expected"):
            FeatureNetwork("x", lambda images, result=result: result, 16).extract(image)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".pt"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_no_feature_network(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    with pytest.raises(MissingFileError, match="there is no such file"):
        load_features(str(path), CPU)
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="can be loaded"):
        load_features(str(path), CPU)
    with pytest.raises(UserError, match="expected inception or a file that ends in one of"):
        load_features("incepton", CPU)


def test_inception_gets_bytes_and_gives_its_last_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in of torch-fidelity's network, as `test_inception_is_that_of_torch_fidelity` needs the real one."""
    built, seen = [], []

    class FeatureExtractorInceptionV3(nn.Module):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__()
            built.append((arguments, options))

        def forward(self, images: Tensor) -> tuple[Tensor]:
            seen.append(images)
            return (torch.ones(len(images), 2048),)

    name = "torch_fidelity.feature_extractor_inceptionv3"
    stand_in = SimpleNamespace(FeatureExtractorInceptionV3=FeatureExtractorInceptionV3)
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(module, "_digest", lambda _: "6726825d")
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / WEIGHTS_NAME
    path.touch()
    network = load_features("inception", CPU)
    assert built == [(("inception", ["2048"]), {"feature_extractor_weights_path": str(path)})]
    pixels = torch.randint(256, (3, 20, 33), dtype=torch.uint8)
    assert network.extract([pixels / 255, pixels[:1] / 255]).shape == (2, 2048)
    assert seen[-2].dtype == torch.uint8 and torch.equal(seen[-2], pixels[None])  # of its own size
    assert torch.equal(seen[-1], pixels[None, :1].expand(-1, 3, -1, -1))
    assert network.protocol == "features of inception"
    with pytest.raises(UserError, match="--features-size 64: inception resizes images by itself"):
        load_features("inception", CPU, 64)


def test_a_torchvision_of_another_torch_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which raises what is no ImportError."""
    package = tmp_path / "torch_fidelity"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / WEIGHTS_NAME).touch()
    with pytest.raises(UserError, match=r"needs the torchvision of torch .*\(operator torchvision::nms does not exist"):
        load_features("inception", CPU)


def test_inception_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        MissingFileError, match="weights are missing, and nothing is downloaded silently: put http"
    ) as error:
        load_features("inception", CPU)
    assert str(tmp_path / "checkpoints") in str(error.value)


@pytest.mark.slow
def test_inception_is_that_of_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of our own, as those of the paper are not here."""
    pytest.importorskip("torchvision")
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    original = fidelity.FeatureExtractorInceptionV3("inception", ["2048"]).eval()
    monkeypatch.undo()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(original.state_dict(), tmp_path / "checkpoints" / WEIGHTS_NAME)
    with pytest.raises(UserError, match="its SHA-256 does not start with 6726825d; fetch it again"):
        load_features("inception", CPU)
    monkeypatch.setattr(module, "_digest", lambda _: "6726825d")
    network = load_features("inception", CPU)
    pixels = torch.randint(256, (2, 3, 40, 48), dtype=torch.uint8)
    found = network.extract([image / 255 for image in pixels])
    assert found.shape == (2, 2048)
    torch.testing.assert_close(found, original(pixels)[0].double(), rtol=1e-4, atol=1e-5)
