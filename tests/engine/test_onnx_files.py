"""ONNX files of every maker: what is served equals the same network in torch, and everything else is one sentence."""

import json
import os
import shutil
import struct

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from cyclegan_fast.engine import Tiling, build_engine, infer, load_engine
from cyclegan_fast.engine.backends.onnx_file import parse_onnx
from cyclegan_fast.errors import UserError
from cyclegan_fast.translate import translate

BACKENDS = ["onnxruntime", "openvino"]
pytestmark = pytest.mark.parametrize("backend", BACKENDS)
WEIGHTS = np.random.default_rng(0).normal(0, 0.4, (3, 3, 3, 3)).astype(np.float32)  # [O, I, h, w]


def load(path, backend, **options):
    pytest.importorskip(backend)
    return load_engine(path, device="cpu", backend=backend, **options)


def write(path, nodes, shape_in, shape_out=None, *, weights=(), dtype=TensorProto.FLOAT, old=False):
    """A graph from "x" to "y"; `old` lists the weights among the inputs, as IR 3 did."""
    inputs = [helper.make_tensor_value_info("x", dtype, shape_in)]
    if old:
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
    outputs = [helper.make_tensor_value_info("y", dtype, shape_out or shape_in)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=3 if old else 8)
    path.write_bytes(model.SerializeToString())
    return path


def convolution(path, shape_in, shape_out=None, *, channels_last=False, dtype=np.float32, old=False):
    """tanh(conv(x)) with `WEIGHTS`, which `expected` computes in torch."""
    weights = [numpy_helper.from_array(WEIGHTS.astype(dtype), "w")]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Tanh", ["c"], ["y"])]
    if channels_last:
        nodes[0].input[0], nodes[1].output[0] = "x_nchw", "y_nchw"
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["x_nchw"], perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("Transpose", ["y_nchw"], ["y"], perm=[0, 2, 3, 1]))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return write(path, nodes, shape_in, shape_out, weights=weights, dtype=kind, old=old)


def expected(image):
    """Of an image [3, H, W] whose sides the graph takes as they are."""
    weights = torch.from_numpy(WEIGHTS).double()
    return torch.tanh(torch.conv2d(image[None].double(), weights, padding=1))[0].float()


def mirrored(image, height, width):
    """The image padded over its lower and right edge as `infer` does it."""
    return torch.nn.functional.pad(image[None], (0, width - image.shape[2], 0, height - image.shape[1]), "reflect")[0]


ANY, SMALL = [(64, 64), (64, 64), (40, 72)], [(30, 26), (21, 26), (30, 20)]


@pytest.mark.parametrize(
    ("shape", "options", "sizes"),
    [
        (["n", 3, "h", "w"], {}, ANY),
        ([None, 3, None, None], {}, ANY),
        ([-1, 3, -1, -1], {}, ANY),
        (["n", 3, "h", "w"], {"old": True}, ANY),
        ([1, 3, "h", "w"], {}, ANY),
        ([4, 3, "h", "w"], {}, ANY),
        (["n", 3, 64, "w"], {}, [(64, 64), (60, 80), (50, 64)]),
        (["n", 3, "h", 64], {}, [(64, 64), (80, 60), (64, 50)]),
        (["n", 3, 30, 26], {}, SMALL),
        ([1, 3, 30, 26], {}, SMALL),
        ([2, 3, 30, 26], {}, SMALL),
        (["n", "h", "w", 3], {"channels_last": True}, ANY),
        ([1, 30, 26, 3], {"channels_last": True}, SMALL),
        (["n", 3, "h", "w"], {"dtype": np.float16}, ANY),
        ([1, "h", "w", 3], {"dtype": np.float16, "channels_last": True}, ANY),
    ],
    ids=str,
)
def test_every_layout_of_a_graph_is_served(tmp_path, backend, shape, options, sizes):
    half = options.get("dtype") == np.float16
    with load(convolution(tmp_path / "g.onnx", shape, **options), backend) as engine:
        assert (engine.in_channels, engine.out_channels, engine.direction) == (3, 3, None)
        assert engine.precision == ("fp16" if half else "fp32")
        images = [torch.rand(3, *size) * 2 - 1 for size in sizes]
        fitting = [mirrored(image, *engine.limits.fitting_size(*image.shape[1:])) for image in images]
        for result, image, padded in zip(infer(engine, images), images, fitting, strict=True):
            right = expected(padded)[:, : image.shape[1], : image.shape[2]]
            torch.testing.assert_close(result, right, rtol=0, atol=5e-3 if half else 1e-5)
        engine.warmup()


def test_a_batch_of_one_size_is_looped_over_or_filled_up(tmp_path, backend):
    pixels = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    one_by_one = None
    for images in (1, 2, 8, "n"):
        with load(convolution(tmp_path / "g.onnx", [images, 3, "h", "w"]), backend) as engine:
            result = infer(engine, pixels)
            one_by_one = result if one_by_one is None else one_by_one
            assert result.shape == pixels.shape and np.abs(result.astype(int) - one_by_one).max() <= 1


def test_what_is_larger_than_a_fixed_size_is_refused_or_cut(tmp_path, backend):
    with load(
        write(tmp_path / "g.onnx", [helper.make_node("Identity", ["x"], ["y"])], [1, 3, 30, 26]), backend
    ) as engine:
        image = np.random.default_rng(2).integers(0, 256, (61, 33, 3), dtype=np.uint8)
        with pytest.raises(UserError, match=r"was built for batches.*\(tile statistics\)$"):
            infer(engine, image)
        assert np.array_equal(infer(engine, image, tiling=Tiling("tile", 26, 4)), image)


def resize(path, factor, shape=("n", 3, "h", "w"), axes=None):
    scales = numpy_helper.from_array(np.array([1, 1, *(axes or (factor, factor))], np.float32), "s")
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest", nearest_mode="floor",
                            coordinate_transformation_mode="asymmetric")  # fmt: skip
    return write(path, [node], list(shape), [shape[0], 3, "h2", "w2"], weights=[scales])


@pytest.mark.parametrize("factor", [2, 4])
def test_a_network_that_enlarges_gives_all_of_its_result(tmp_path, backend, factor):
    tifffile = pytest.importorskip("tifffile")
    image = np.random.default_rng(3).integers(0, 256, (45, 37, 3), dtype=np.uint8)
    right = image.repeat(factor, 0).repeat(factor, 1)
    path = resize(tmp_path / "x.onnx", factor)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "a.png")
    tifffile.imwrite(tmp_path / "in" / "b.tif", image, rowsperstrip=7)
    with load(path, backend) as engine:
        assert np.array_equal(infer(engine, image), right)
        assert np.array_equal(infer(engine, image, tiling=Tiling("tile", 16)), right)
    options = {"backend": backend, "device": "cpu", "statistics": "tile", "tile": 16}
    assert translate(engine=path, input=tmp_path / "in", output=tmp_path / "out", **options) == 0
    for name in ("a.png", "b.tif"):
        with Image.open(tmp_path / "out" / name) as result:
            assert np.array_equal(result, right)


def test_a_network_that_reduces_gives_all_of_its_result(tmp_path, backend):
    image = np.random.default_rng(3).integers(0, 256, (45, 38, 3), dtype=np.uint8)
    with load(resize(tmp_path / "x.onnx", 0.5), backend) as engine:
        assert np.array_equal(infer(engine, image), image[::2, ::2])
        with pytest.raises(UserError, match="takes images in one piece only"):
            infer(engine, image, tiling=Tiling("tile", 16))


@pytest.mark.parametrize("axes", [(2, 1), (1.5, 1.5), (0.75, 0.75)], ids=str)
def test_results_of_which_no_pixel_can_be_placed_are_refused(tmp_path, backend, axes):
    with (
        load(resize(tmp_path / "x.onnx", None, axes=axes), backend) as engine,
        pytest.raises(UserError, match=r"x\.onnx: \[32, 32\] pixels \(height, width\) became .*must have the size"),
    ):
        infer(engine, np.zeros((32, 32, 3), np.uint8))
    cropping = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = write(tmp_path / "c.onnx", cropping, ["n", 3, "h", "w"], ["n", 3, "h2", "w2"],
                 weights=[numpy_helper.from_array(WEIGHTS, "w")])  # fmt: skip
    with load(path, backend) as engine, pytest.raises(UserError, match=r"became \[30, 30\]"):
        infer(engine, np.zeros((32, 32, 3), np.uint8))


def external(path, weights, *, location="model.onnx.data"):
    """The convolution with its weights beside it."""
    convolution(path, ["n", 3, "h", "w"])
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    tensor.CopyFrom(numpy_helper.from_array(weights, "w"))
    onnx.external_data_helper.set_external_data(tensor, location=location)
    content = tensor.raw_data
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    return content


@pytest.mark.parametrize("here", [".", "a", "b"])
def test_weights_beside_a_file_are_its_own_wherever_the_command_runs(tmp_path, backend, here, monkeypatch):
    for folder, sign in (("a", 1), ("b", -1)):
        (tmp_path / folder).mkdir()
        content = external(tmp_path / folder / "model.onnx", sign * WEIGHTS)
        (tmp_path / folder / "model.onnx.data").write_bytes(content)
    monkeypatch.chdir(tmp_path / here)
    image = torch.rand(3, 32, 40) * 2 - 1
    with load(tmp_path / "a" / "model.onnx", backend) as engine:
        torch.testing.assert_close(infer(engine, image), expected(image), rtol=0, atol=1e-5)
    monkeypatch.chdir(tmp_path / "a")
    with load("model.onnx", backend) as engine:
        torch.testing.assert_close(infer(engine, image), expected(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("location", ["../w.data", "{folder}/w.data", "in/../../w.data", "C:\\w.data", "..\\w.data"])
def test_weights_outside_the_files_folder_are_not_read(tmp_path, backend, location):
    (tmp_path / "model").mkdir()
    path, location = tmp_path / "model" / "model.onnx", location.format(folder=tmp_path)
    (tmp_path / "w.data").write_bytes(external(path, WEIGHTS, location=location))
    with pytest.raises(UserError, match="outside its own folder: not read, for safety"):
        load(path, backend)
    with pytest.raises(UserError, match="beside the file: give the file's path"):
        parse_onnx(path.read_bytes(), "model.onnx")
    external(path, WEIGHTS)
    with pytest.raises(UserError, match=r"in 'model\.onnx\.data', which is missing: put that file beside it"):
        load(path, backend)


PRECISIONS = [("colour", "fp32"), ("unet", "fp32"), ("unet", "fp16"), ("colour", "fp8"), ("unet", "bf16")]


@pytest.mark.parametrize(("name", "precision"), PRECISIONS)
def test_an_exported_file_needs_no_sidecar(tmp_path, backend, runs, photos, name, precision):
    out = tmp_path / "g.onnx"
    build_engine(runs[name], out, direction="BtoA", precision=precision, images=photos if precision == "fp8" else None)
    (tmp_path / "alone").mkdir()
    alone = shutil.copy(out, tmp_path / "alone")
    image = torch.rand(3, 50, 41) * 2 - 1
    if precision == "bf16":
        backend = "auto"  # which knows that ONNX Runtime has none
    with load_engine(out, device="cpu", backend=backend) as engine:
        right, info = infer(engine, image), engine.info
    with load_engine(alone, device="cpu", backend=backend) as engine:
        assert engine.info == info and info.direction == "BtoA" and info.precision == precision
        torch.testing.assert_close(infer(engine, image), right, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="translates BtoA, but AtoB was asked for"):
        load_engine(alone, direction="AtoB", device="cpu")
    stored = json.loads({p.key: p.value for p in onnx.load(out).metadata_props}["cyclegan_fast"])
    sidecar = json.loads((tmp_path / "g.onnx.json").read_text())
    assert stored.items() <= sidecar.items() and sidecar.keys() - stored.keys() == {"parity", "sha256"}
    assert len(stored["weights_sha256"]) == 64


@pytest.mark.parametrize("said", ["{", "[]", '{"format": 1, "direction": "AtoB", "size_divisor": 0, "min_size": 8}'])
def test_metadata_inside_a_file_may_be_damaged_or_newer(tmp_path, backend, onnx_files, said):
    model = onnx.load(onnx_files["colour"])
    helper.set_model_props(model, {"cyclegan_fast": said})
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"g\.onnx is damaged: its metadata cannot be read; export it again"):
        load(tmp_path / "g.onnx", backend)
    helper.set_model_props(model, {"cyclegan_fast": '{"format": 99}'})
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="newer cyclegan_fast: upgrade"):
        load(tmp_path / "g.onnx", backend)


def test_a_file_without_any_metadata_serves_what_its_network_takes(tmp_path, backend, onnx_files, runs):
    for name in ("colour", "unet"):
        model = onnx.load(onnx_files[name])
        del model.metadata_props[:]
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    image = torch.rand(3, 33, 50) * 2 - 1
    with load(tmp_path / "colour.onnx", backend) as engine, load_engine(runs["colour"], device="cpu") as right:
        torch.testing.assert_close(infer(engine, image), infer(right, image), rtol=0, atol=1e-4)
    engine = load(tmp_path / "unet.onnx", backend)
    with pytest.raises(UserError, match=r"unet\.onnx failed on a batch of shape \[1, 3, 20, 20\]: .*try 256x256"):
        infer(engine, torch.zeros(3, 20, 20))
    path = tmp_path / "colour.onnx"
    os.truncate(path, 1000)
    with pytest.raises(UserError, match=r"colour\.onnx is damaged, or not an ONNX file"):
        load(path, backend)
    path.write_bytes(struct.pack("<I", 7))
    with pytest.raises(UserError, match=r"colour\.onnx (is damaged|: inputs: 0)|colour\.onnx: inputs: 0"):
        load(path, backend)


IMAGE = ["n", 3, "h", "w"]


@pytest.mark.parametrize(
    ("shapes_in", "shapes_out", "dtype", "reason"),
    [
        ([IMAGE, IMAGE], [IMAGE], TensorProto.FLOAT, "inputs: 2, outputs: 1; a generator has one input and one output"),
        ([IMAGE], [IMAGE, IMAGE], TensorProto.FLOAT, "inputs: 1, outputs: 2"),
        ([["n", 3]], [["n", 3]], TensorProto.FLOAT, "'i0' is no image"),
        ([["n", 3, "d", "h", "w"]], [["n", 3, "d", "h", "w"]], TensorProto.FLOAT, "'i0' is no image"),
        ([IMAGE], [IMAGE], TensorProto.UINT8, "'i0' is no image; .* in float32 or float16"),
        ([IMAGE], [IMAGE], TensorProto.DOUBLE, "'i0' is no image"),
        ([["n", "c", "h", "w"]], [["n", "c", "h", "w"]], TensorProto.FLOAT, "does not fix the channels"),
    ],
    ids=str,
)
def test_a_graph_of_another_kind_is_refused(tmp_path, backend, shapes_in, shapes_out, dtype, reason):
    inputs = [helper.make_tensor_value_info(f"i{i}", dtype, shape) for i, shape in enumerate(shapes_in)]
    outputs = [helper.make_tensor_value_info(f"o{i}", dtype, shape) for i, shape in enumerate(shapes_out)]
    nodes = [helper.make_node("Identity", ["i0"], [output.name]) for output in outputs]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), ir_version=8)
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=rf"g\.onnx.*{reason}"):
        load(tmp_path / "g.onnx", backend)


def test_channels_that_only_the_graphs_nodes_show_are_inferred(tmp_path, backend):
    path = convolution(tmp_path / "g.onnx", ["n", 3, "h", "w"], ["a", "b", "c", "d"])
    image = torch.rand(3, 32, 40) * 2 - 1
    with load(path, backend) as engine:
        torch.testing.assert_close(infer(engine, image), expected(image), rtol=0, atol=1e-5)
