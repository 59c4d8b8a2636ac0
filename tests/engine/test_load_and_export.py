"""Engines from everything that holds a generator compute the same; what is damaged or does not match is refused."""

import dataclasses
import json
import os
import random
import shutil

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch

import cyclegan_fast
from cyclegan_fast.checkpoint import load_generators, save_checkpoint, save_reference
from cyclegan_fast.config import DataConfig, ModelConfig, TrainConfig
from cyclegan_fast.engine import OnnxBackend, build_engine, infer, load_engine, load_generator
from cyclegan_fast.engine.backends.onnx_file import parse_onnx
from cyclegan_fast.engine.export import build
from cyclegan_fast.engine.export.parity import check_parity
from cyclegan_fast.engine.info import PRECISIONS
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_networks

ODD_SIZES = [(16, 16), (9, 23), (33, 50), (8, 8)]


def random_images(channels, sizes=ODD_SIZES):
    return [torch.rand(channels, *size) * 2 - 1 for size in sizes]


def assert_same_results(first, second, atol):
    images = random_images(first.in_channels)
    made, expected = infer(first, images), infer(second, images)
    for a, b in zip(made, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)
        assert b.std() > 0.05, "the network says nothing: the comparison would be empty"


def test_the_front_door(runs):
    engine = cyclegan_fast.load_engine(runs["colour"], device="cpu")
    x = np.random.default_rng(0).integers(0, 256, (17, 22, 3), dtype=np.uint8)
    made = cyclegan_fast.infer(engine, x)
    generators, _ = load_generators(runs["colour"])
    plane = torch.from_numpy(x).permute(2, 0, 1)[None].float() / 127.5 - 1
    padded = torch.nn.functional.pad(plane, (0, 2, 0, 3), mode="reflect")
    expected = ((generators["G_A"](padded)[0, :, :17, :22] + 1) * 127.5).round().clamp(0, 255)
    assert np.abs(made.astype(int) - expected.permute(1, 2, 0).numpy()).max() <= 1
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cyclegan_fast.nothing


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
@pytest.mark.parametrize("model", ["colour", "grey_to_colour"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_travel_exactly(tmp_path, runs, model, direction, suffix):
    out = build_engine(runs[model], tmp_path / f"g{suffix}", direction=direction)
    there = load_engine(runs[model], direction=direction, device="cpu")
    here = load_engine(out, direction=direction, device="cpu")
    assert (here.in_channels, here.out_channels, here.direction) == (there.in_channels, there.out_channels, direction)
    assert_same_results(here, there, 0.0)
    again = build_engine(out, tmp_path / "again.safetensors", direction=direction)
    assert_same_results(load_engine(again, device="cpu"), there, 0.0)


@pytest.mark.parametrize("name", ["colour", "unet", "colour_BtoA"])
def test_onnx_equals_torch_on_odd_sizes(runs, onnx_files, name):
    model, _, direction = name.partition("_")
    there = load_engine(runs[model], direction=direction or "AtoB", device="cpu")
    here = load_engine(onnx_files[name], device="cpu")
    assert here.direction == there.direction and here.limits == there.limits
    assert_same_results(here, there, 1e-4)


def test_the_onnx_graph_is_made_of_standard_layers_of_any_size(onnx_files):
    graph = onnx.load(onnx_files["colour"]).graph
    kinds = {node.op_type for node in graph.node}
    network = {"Pad", "Conv", "InstanceNormalization", "Relu", "Add", "ConvTranspose", "Tanh", "Slice"}
    assert kinds <= network | {"ReduceMax", "ReduceMin", "Mul", "Sub"}  # which centre the image
    sides = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["n", 3, "4*h", "4*w"]
    sidecar = json.loads(onnx_files["colour"].with_name("colour.onnx.json").read_text())
    assert sidecar["direction"] == "AtoB" and sidecar["model"]["generator"] == "resnet_1blocks"
    assert sidecar["versions"]["torch"] == torch.__version__


def test_exporting_leaves_the_random_numbers_alone_and_replaces_an_older_file(tmp_path, runs):
    out = tmp_path / "deep" / "er" / "g.safetensors"
    build_engine(runs["grey_to_colour"], out)
    rng = torch.get_rng_state()
    build_engine(runs["colour"], out)
    assert torch.equal(rng, torch.get_rng_state())
    assert load_engine(out, device="cpu").in_channels == 3
    assert [p.name for p in out.parent.iterdir()] == ["g.safetensors"]


def test_a_graph_that_computes_something_else_is_not_written(runs):
    right = load_generator(runs["colour"], "AtoB")
    engine = OnnxBackend(parse_onnx(build.to_onnx(right), "the graph"), device="cpu")
    check_parity(engine, right)
    wrong = load_generator(runs["colour"], "BtoA")
    for precision in PRECISIONS:
        engine.info = dataclasses.replace(engine.info, precision=precision)
        with pytest.raises(UserError, match=f"differs from torch by max .*{precision} is allowed max"):
            check_parity(engine, wrong)
    right.network.head.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="differs from torch by max nan"):
        check_parity(engine, right)


def test_one_direction_does_not_pass_for_the_other(tmp_path, runs, onnx_files):
    weights = build_engine(runs["colour"], tmp_path / "g.safetensors", direction="BtoA")
    generators, _ = load_generators(runs["colour"])
    _, named = save_reference(tmp_path, generators)
    for path in (weights, onnx_files["colour_BtoA"], named):
        assert load_engine(path, device="cpu").direction == "BtoA"
        with pytest.raises(UserError, match="translates BtoA, but AtoB was asked for"):
            load_engine(path, direction="AtoB", device="cpu")


def test_an_engine_shows_what_it_is(runs, onnx_files):
    with load_engine(onnx_files["colour_BtoA"], device="cpu") as engine:
        assert repr(engine) == "OnnxBackend('colour_BtoA.onnx', BtoA, cpu, fp32)"
    assert repr(engine) == "OnnxBackend('colour_BtoA.onnx', BtoA, cpu, fp32, closed)"
    name = runs["colour"].name
    assert repr(load_engine(runs["colour"], device="cpu")) == f"TorchBackend('{name}', AtoB, cpu, fp32)"


def test_a_url_is_no_generator():
    with pytest.raises(UserError, match=r"^https://x\.y/g\.onnx: URLs are not fetched: download the file"):
        load_engine("https://x.y/g.onnx", device="cpu")


def test_messages_of_the_library_name_no_flags(onnx_files, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match=r"install onnxruntime-gpu, or choose the device cpu$"):
        load_engine(onnx_files["colour"], device="cuda")


def test_the_command_that_rebuilds_a_file_names_its_direction(tmp_path, onnx_files):
    path = shutil.copy(onnx_files["colour_BtoA"], tmp_path / "g.onnx")
    sidecar = shutil.copy(f"{onnx_files['colour_BtoA']}.json", tmp_path / "g.onnx.json")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"--checkpoint RUN --out \S+g\.onnx --direction BtoA --precision fp32$"):
        load_engine(path, device="cpu")
    sidecar.write_text("{")
    with pytest.raises(UserError, match=r"g\.onnx --direction DIRECTION$"):
        load_engine(path, device="cpu")
    with pytest.raises(UserError, match=r"g\.onnx --direction BtoA$"):
        load_engine(path, direction="BtoA", device="cpu")


@pytest.mark.fault(20)
def test_an_onnx_file_that_was_changed_is_refused(tmp_path, onnx_files, user_sees):
    path = shutil.copy(onnx_files["colour"], tmp_path / "g.onnx")
    sidecar = shutil.copy(f"{onnx_files['colour']}.json", tmp_path / "g.onnx.json")
    load_engine(path, device="cpu")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = r"its sha256 differs.*export it again: python -m cyclegan_fast\.export"
    with pytest.raises(UserError, match=again) as error:
        load_engine(path, device="cpu")
    user_sees(error.value)
    sidecar.write_text("{")
    with pytest.raises(UserError, match=r"g\.onnx\.json is damaged.*export it again"):
        load_engine(path, device="cpu")
    sidecar.write_text(json.dumps({"format": 99, "sha256": ""}))
    with pytest.raises(UserError, match="newer cyclegan_fast"):
        load_engine(path, device="cpu")


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_divisor": 0},
        {"size_divisor": "4"},
        {"min_size": -1},
        {"min_size": True},
        {"direction": "up"},
        {"format": "1"},
    ],
    ids=str,
)
def test_a_sidecar_with_impossible_facts_is_damaged(tmp_path, onnx_files, wrong):
    path = shutil.copy(onnx_files["colour"], tmp_path / "g.onnx")
    metadata = json.loads((onnx_files["colour"].parent / "colour.onnx.json").read_text())
    (tmp_path / "g.onnx.json").write_text(json.dumps(metadata | wrong))
    with pytest.raises(UserError, match=r"g\.onnx\.json is damaged"):
        load_engine(path, device="cpu")


def test_no_bit_of_an_exported_safetensors_flips_unseen(runs, tmp_path):
    path, rng = build_engine(runs["colour"], tmp_path / "g.safetensors", direction="AtoB"), random.Random()
    content = path.read_bytes()
    good, refused = load_generator(path), 0
    size = int.from_bytes(content[:8], "little")
    for position in [rng.randrange(8 + size) for _ in range(60)] + [rng.randrange(len(content)) for _ in range(60)]:
        flipped = content[position] ^ 1 << rng.randrange(8)
        path.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
        try:
            found = load_generator(path)
        except UserError:
            refused += 1
        else:  # the name of the digest itself, say
            assert (found.model, found.direction, found.in_format) == (good.model, good.direction, good.in_format)
            weights = good.network.state_dict()
            assert all(value.equal(weights[name]) for name, value in found.network.state_dict().items())
    assert refused > 80
    position = len(content) - 2
    path.write_bytes(content[:position] + bytes([content[position] ^ 64]) + content[position + 1 :])
    with pytest.raises(
        UserError, match=r"g\.safetensors is damaged: its sha256 is not the one in its header; export it"
    ):
        load_generator(path)


def test_a_safetensors_of_an_earlier_version_has_no_digest(runs, tmp_path):
    path = build_engine(runs["colour"], tmp_path / "g.safetensors", direction="AtoB")
    with safetensors.safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["sha256"]
    safetensors.torch.save_file(tensors, path, metadata)
    assert load_generator(path).direction == "AtoB"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("{}", "is damaged"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1, "direction": "AtoB", "model": 3}', "is damaged"),
        ('{"format": 1, "direction": 0, "model": {}}', "is damaged"),
        ('{"format": 99}', "newer cyclegan_fast"),
    ],
)
def test_a_safetensors_file_with_damaged_metadata(tmp_path, said, reason):
    path = tmp_path / "g.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, {"cyclegan_fast": said})
    with pytest.raises(UserError, match=reason):
        load_engine(path, device="cpu")


@pytest.fixture(scope="module")
def swapped_run(tmp_path_factory):
    """Trained with --direction BtoA: its G_A takes trainB's grey images and makes trainA's colour ones."""
    model = ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4, channels_A=1, channels_B=3)
    config = TrainConfig(model=model, data=DataConfig(direction="BtoA"))
    torch.manual_seed(11)  # the weights of conftest's "grey_to_colour", whose graphs are exported already
    networks = build_networks(model)
    for parameter in networks.parameters():
        parameter.data.mul_(4.0)
    folder = tmp_path_factory.mktemp("swapped")
    save_checkpoint(folder, 1, networks=networks, config=config, progress={})
    return folder


@pytest.mark.parametrize("suffix", [None, ".safetensors", ".pth", ".onnx"])
@pytest.mark.parametrize(("direction", "name", "channels"), [("BtoA", "G_A", (1, 3)), ("AtoB", "G_B", (3, 1))])
def test_directions_are_the_folders_also_after_training_them_swapped(
    tmp_path, swapped_run, suffix, direction, name, channels
):
    path = swapped_run
    if suffix is not None:
        path = build_engine(swapped_run, tmp_path / f"g{suffix}", direction=direction)
    engine = load_engine(path, direction=direction, device="cpu")
    assert (engine.direction, engine.in_channels, engine.out_channels) == (direction, *channels)
    (x,) = random_images(channels[0], [(16, 20)])
    expected = load_generators(swapped_run)[0][name](x[None])[0]
    torch.testing.assert_close(infer(engine, x), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.05


@pytest.mark.fault(21)
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_an_error_never_a_quiet_fall(runs, onnx_files, user_sees):
    with pytest.raises(UserError, match="CUDAExecutionProvider") as error:
        load_engine(onnx_files["colour"], device="cuda")
    user_sees(error.value)
    with pytest.raises(UserError, match="there is no device cuda") as error:
        load_engine(runs["colour"], device="cuda")
    user_sees(error.value)
    assert load_engine(runs["colour"]).device == load_engine(onnx_files["colour"]).device == "cpu"


def test_types(runs, onnx_files):
    x = torch.rand(3, 24, 24) * 2 - 1
    exact = infer(load_engine(runs["colour"], device="cpu"), x)
    half = infer(load_engine(runs["colour"], device="cpu", precision="bf16"), x)
    assert half.dtype == torch.float32
    error = (half - exact).abs().mean()
    assert 0 < error < 0.03
    with pytest.raises(UserError, match="fp16 runs on CUDA devices only"):
        load_engine(runs["colour"], device="cpu", precision="fp16")
    with pytest.raises(UserError, match="precision must be one of"):
        load_engine(runs["colour"], device="cpu", precision="float32")
    with pytest.raises(UserError, match="int8 of a checkpoint needs an exported file"):
        load_engine(runs["colour"], device="cpu", precision="int8")
    with pytest.raises(UserError, match="computes in fp32, but bf16 was asked for"):
        load_engine(onnx_files["colour"], device="cpu", precision="bf16")


def test_what_cannot_be_an_engine_is_refused(tmp_path, runs):
    (tmp_path / "g.plan").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    weights = runs["colour"] / "checkpoints" / "step_00000007" / "weights.safetensors"
    for path, reason in {
        tmp_path
        / "g.plan": r"give a run folder, a checkpoint, or a \.safetensors, \.pth, \.onnx, \.pt2 or \.engine file",
        tmp_path / "empty": "there is no checkpoint here",
        tmp_path / "nowhere": "does not exist",
        tmp_path / "cut.safetensors": "damaged",
        tmp_path / "cut.pth": "damaged",
        weights: "of a checkpoint, give the folder",
    }.items():
        with pytest.raises(UserError, match=reason):
            load_engine(path, device="cpu")
    with pytest.raises(UserError, match="takes a path, got NoneType"):
        load_engine(None)
    with pytest.raises(UserError, match="direction must be AtoB or BtoA"):
        load_engine(runs["colour"], direction="sideways")
    for device in ("tpu0", "meta"):
        with pytest.raises(UserError, match="device must be auto, cpu, cuda"):
            load_engine(runs["colour"], device=device)
    with pytest.raises(UserError, match=r"must end in \.onnx, \.pt2, \.engine, \.safetensors, \.pth"):
        build_engine(runs["colour"], tmp_path / "g.plan")


class Malice:
    def __reduce__(self):
        return os.mkdir, (os.environ["MALICE_MARK"],)


@pytest.mark.fault(16)
def test_a_malicious_pickle_is_refused(tmp_path, monkeypatch, user_sees):
    monkeypatch.setenv("MALICE_MARK", str(tmp_path / "ran"))
    torch.save({"model.1.weight": Malice()}, tmp_path / "latest_net_G.pth")
    with pytest.raises(UserError, match="refused") as error:
        load_engine(tmp_path / "latest_net_G.pth", device="cpu")
    user_sees(error.value)
    assert not (tmp_path / "ran").exists()
