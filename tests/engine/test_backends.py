"""Every backend computes what torch computes, says what it is, and refuses what it cannot do."""

import asyncio
import dataclasses
import gc
import json
import shutil
import threading
import time
import weakref

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import cyclegan_fast
from cyclegan_fast.engine import Shapes, build_engine, infer, infer_async, load_engine, load_generator
from cyclegan_fast.engine.backends.aoti import AotiBackend, aoti_facts, compile_package
from cyclegan_fast.engine.backends.openvino import OpenVinoBackend
from cyclegan_fast.engine.export.parity import BOUNDS, measure_parity, parity_images
from cyclegan_fast.errors import UserError
from tests.engine.identity import Identity

SIZES = [(16, 16), (9, 23), (33, 50), (8, 8), (5, 40)]


def batches(channels=3):
    return [torch.rand(n, channels, 4 * h, 4 * w) * 2 - 1 for n, h, w in ((1, 2, 2), (3, 5, 4), (2, 16, 9))]


@pytest.fixture(params=["torch", "onnxruntime", "openvino"])
def engine(request, runs, onnx_files):
    if request.param == "openvino":
        pytest.importorskip("openvino")
    path = runs["colour"] if request.param == "torch" else onnx_files["colour"]
    with load_engine(path, device="cpu", backend=request.param) as engine:
        yield engine


def test_batches_of_every_shape_equal_torch(engine, runs):
    network = load_generator(runs["colour"]).network
    for batch in batches():
        torch.testing.assert_close(engine.run(batch), network(batch), rtol=0, atol=1e-4)
    assert engine.precision == "fp32" and engine.direction == "AtoB"
    assert engine.run(torch.zeros(0, 3, 16, 16)).shape == (0, 3, 16, 16)


@pytest.mark.fault(22)
@pytest.mark.parametrize("shape", [(1, 3, 10, 16), (1, 3, 2, 2), (1, 3, 16, 4), (1, 4, 16, 16), (3, 16, 16)], ids=str)
def test_a_batch_that_does_not_fit_is_refused(engine, shape, user_sees):
    with pytest.raises(UserError, match=r"takes batches \[N, 3, H, W\] with sides from 8 in steps of 4") as error:
        engine.run(torch.zeros(shape))
    user_sees(error.value)


def test_sixteen_threads_get_what_one_gets(engine):
    images = [torch.rand(3, *SIZES[i % len(SIZES)]) * 2 - 1 for i in range(16)]
    alone = [infer(engine, image) for image in images]
    start, made = threading.Barrier(16), {}

    def work(i):
        start.wait()
        made[i] = [infer(engine, images[i]) for _ in range(4)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, expected in enumerate(alone):
        for image in made[i]:
            torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


def test_a_closed_engine_runs_nothing(engine):
    future = infer_async(engine, [torch.zeros(3, 16, 16)] * 3)
    engine.close()
    engine.close()
    assert len(future.result()) == 3  # closing waits for what was begun
    for call in (
        lambda: infer(engine, torch.zeros(3, 16, 16)),
        lambda: engine.run(torch.zeros(1, 3, 16, 16)),
        lambda: infer_async(engine, torch.zeros(3, 16, 16)),
        lambda: engine.submit(print),
    ):
        with pytest.raises(UserError, match="is closed: load it again"):
            call()


def test_warming_up_runs_what_is_asked_for():
    engine = Identity()
    assert engine.warmup() is engine
    engine.warmup((4, 30, 61), (1, 1, 8))
    assert engine.seen == [(1, 3, 256, 256), (4, 3, 32, 64), (1, 3, 8, 8)]


def test_async_gives_the_same_as_infer(runs):
    with load_engine(runs["colour"], device="cpu") as engine:
        images = [np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8) for i in range(6)]
        futures = [cyclegan_fast.infer_async(engine, image) for image in images]
        for image, future in zip(images, futures, strict=True):
            np.testing.assert_array_equal(future.result(), infer(engine, image))

        async def serve():
            return await asyncio.gather(*(asyncio.wrap_future(infer_async(engine, image)) for image in images))

        for made, future in zip(asyncio.run(serve()), futures, strict=True):
            np.testing.assert_array_equal(made, future.result())
        with pytest.raises(UserError, match="holds pixels that are NaN"):
            infer_async(engine, torch.full((3, 8, 8), float("nan"))).result()
        with pytest.raises(UserError, match="not an iterator"):
            infer_async(engine, iter(images))
        with pytest.raises(UserError, match="batch_size"):
            infer_async(engine, images, batch_size=0)


def test_a_stream_stays_in_order_and_in_bounded_memory():
    engine, alive, most = Identity(), 0, 0

    class Watched(np.ndarray):
        pass

    def dead():
        nonlocal alive
        alive -= 1

    def source():
        nonlocal alive, most
        for i in range(60):
            image = np.full((8 + 4 * (i % 3), 8, 3), i, np.uint8).view(Watched)
            weakref.finalize(image, dead)
            alive += 1
            gc.collect(0)
            most = max(most, alive)
            yield image
            del image

    made = infer(engine, source(), batch_size=2)
    assert engine.seen == [] and most == 0, "nothing is read before it is asked for"
    for i, image in enumerate(made):
        assert image.shape == (8 + 4 * (i % 3), 8, 3) and (image == i).all()
    assert i == 59 and 8 <= most <= 17
    assert max(shape[0] for shape in engine.seen) == 2
    one_by_one = infer(engine, iter([np.zeros((8, 8, 3), np.uint8)] * 3), batch_size=1)
    engine.seen.clear()
    next(one_by_one)
    assert len(engine.seen) == 1
    with pytest.raises(UserError, match="batch_size"):
        infer(engine, iter([]), batch_size=0)


def test_folders_and_patterns(tmp_path):
    for i, name in enumerate(["b.png", "a.png", "sub/c.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 8 + i, 3), i, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "d[1].png").write_bytes((tmp_path / "a.png").read_bytes())
    engine = Identity()
    assert [image.width for image in infer(engine, tmp_path)] == [9, 8, 9, 10]
    assert [image.width for image in infer(engine, str(tmp_path / "*.png"))] == [9, 8, 9]
    assert [image.width for image in infer(engine, f"{tmp_path}/**/*.png")] == [9, 8, 9, 10]
    assert infer(engine, tmp_path / "d[1].png").width == 9  # a file of that name is no pattern
    nested = infer(engine, [tmp_path, np.zeros((8, 8, 3), np.uint8)])
    assert len(nested[0]) == 4 and nested[1].shape == (8, 8, 3)
    with pytest.raises(UserError, match=r"\*\.jpg matches no file"):
        infer(engine, f"{tmp_path}/*.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        infer(engine, tmp_path / "empty")


def test_the_sidecar_tells_what_was_built_and_how_far_it_is_from_torch(tmp_path, runs):
    (tmp_path / "images").mkdir()
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 256, (30, 300, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{i}.png")
    out = build_engine(runs["colour"], tmp_path / "g.onnx", direction="BtoA", images=tmp_path / "images")
    metadata = json.loads((tmp_path / "g.onnx.json").read_text())
    assert metadata["precision"] == "fp32" and metadata["direction"] == "BtoA" and len(metadata["weights_sha256"]) == 64
    network, engine = load_generator(runs["colour"], "BtoA").network, load_engine(out, device="cpu")
    compared = list(parity_images(engine, sorted((tmp_path / "images").iterdir())))
    assert [tuple(x.shape) for x in compared] == [(2, 3, 128, 128), (1, 3, 128, 132), (1, 3, 32, 256), (1, 3, 32, 256)]
    apart = torch.cat([(engine.run(x).double() - network(x).double()).abs().flatten() for x in compared])
    assert metadata["parity"]["max"] == pytest.approx(apart.max().item(), rel=3)  # other random values each time
    assert metadata["parity"]["mean"] == pytest.approx(apart.mean().item(), rel=0.5)
    other = build_engine(runs["colour"], tmp_path / "other.onnx", direction="AtoB")
    assert json.loads(other.with_name("other.onnx.json").read_text())["weights_sha256"] != metadata["weights_sha256"]


def test_parity_is_what_its_words_say():
    still = torch.zeros(2, 3, 8, 8)
    images = [torch.stack([still[0], still[0] + 0.5])]
    found = measure_parity(lambda x: x + 0.1 * (x > 0), lambda x: x, images)
    assert found.max == pytest.approx(0.1) and found.mean == pytest.approx(0.05)
    assert found.psnr == pytest.approx(10 * np.log10(4 / 0.01))  # of the worse image
    assert measure_parity(lambda x: x, lambda x: x, images).metadata() == {"max": 0.0, "mean": 0.0, "psnr": None}
    assert np.isnan(measure_parity(lambda x: x * float("nan"), lambda x: x, images).mean)
    with pytest.raises(UserError, match="the engine makes images of"):
        measure_parity(lambda x: x[:, :1], lambda x: x, images)


@pytest.mark.parametrize(
    ("name", "precision"),
    [("grey_to_colour", "fp16"), ("unet", "bf16"), ("grey_to_colour", "int8"), ("unet", "int8"), ("unet", "fp8")],
)
def test_graphs_of_every_precision_compute_in_it_and_stay_within_its_bound(tmp_path, runs, name, precision):
    pytest.importorskip("openvino")
    generator, rng = load_generator(runs[name]), np.random.default_rng(1)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    out = build_engine(runs[name], tmp_path / "g.onnx", direction="AtoB", precision=precision, images=tmp_path)
    assert json.loads((tmp_path / "g.onnx.json").read_text())["precision"] == precision
    graph = onnx.load(out).graph
    assert {end.type.tensor_type.elem_type for end in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types = [weights.get(node.input[1]) for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    if precision in ("int8", "fp8"):  # behind a DequantizeLinear, except the ends and what is transposed
        kind = {"int8": onnx.TensorProto.INT8, "fp8": onnx.TensorProto.FLOAT8E4M3FN}[precision]
        zeros = [weights[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
        assert None in types and set(zeros) == {kind}
    else:
        half = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
        assert set(types) == {half}
    batch, bound = torch.rand(2, generator.in_channels, 64, 96) * 2 - 1, BOUNDS[precision]
    for backend in ("openvino",) if precision == "bf16" else ("openvino", "onnxruntime"):
        with load_engine(out, backend=backend, device="cpu") as engine:
            assert engine.precision == precision
            apart = (engine.run(batch) - generator.network(batch)).abs()
            assert 0 < apart.mean() <= bound.mean and apart.max() <= bound.max
    if precision == "bf16":
        assert isinstance(load_engine(out, device="cpu"), OpenVinoBackend)
        with pytest.raises(UserError, match="which ONNX Runtime cannot on the CPU: use backend openvino"):
            load_engine(out, device="cpu", backend="onnxruntime")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"out": "g.onnx", "shapes": Shapes((1, 8, 8), (1, 8, 8), (1, 8, 8))}, "takes batches of every shape"),
        (
            {"out": "g.onnx", "precision": "int8"},
            r"int8 and fp8 are calibrated on images: name a folder .*, as images$",
        ),
        ({"out": "g.pth", "precision": "bf16"}, "holds the weights as they are"),
        ({"out": "g.pt2", "precision": "int8"}, "computes in fp32, bf16, not in int8"),
        ({"out": "g.pt2", "precision": "fp16", "device": "cpu"}, "computes in fp32, bf16, not in fp16"),
        ({"out": "g.pt2", "precision": "half"}, "precision must be one of"),
        ({"out": "g.pt2", "shapes": Shapes((1, 8, 8), (1, 10, 8), (1, 16, 16))}, "in steps of 4 pixels, got 1x10x8"),
        ({"out": "g.pt2", "shapes": Shapes((1, 16, 16), (1, 8, 8), (1, 32, 32))}, "the smallest must come first"),
        ({"out": "g.pt2", "shapes": Shapes((0, 8, 8), (1, 8, 8), (1, 8, 8))}, "got 0x8x8"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused_and_leaves_nothing(tmp_path, runs, settings, reason):
    with pytest.raises(UserError, match=reason):
        build_engine(runs["colour"], tmp_path / settings.pop("out"), **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_backend_that_does_not_run_such_files_is_refused(runs, onnx_files):
    with pytest.raises(UserError, match="backend must be auto or torch for this, got 'openvino'"):
        load_engine(runs["colour"], backend="openvino")
    with pytest.raises(UserError, match="auto or onnxruntime or openvino"):
        load_engine(onnx_files["colour"], backend="torch")


def test_openvino_says_what_it_cannot_do(tmp_path, onnx_files):
    openvino = pytest.importorskip("openvino")
    with pytest.raises(UserError, match="runs on the CPU, not on cuda"):
        load_engine(onnx_files["colour"], backend="openvino", device="cuda")
    with pytest.raises(UserError, match="cannot run it in int8"):
        load_engine(onnx_files["colour"], backend="openvino", precision="int8")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(UserError, match="does not compute in bf16"):
            load_engine(onnx_files["colour"], backend="openvino", precision="bf16")
    (tmp_path / "cut.onnx").write_bytes(onnx_files["colour"].read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.onnx is damaged, or not an ONNX file"):
        load_engine(tmp_path / "cut.onnx", backend="openvino")
    changed = shutil.copy(onnx_files["colour"], tmp_path / "g.onnx")
    shutil.copy(f"{onnx_files['unet']}.json", tmp_path / "g.onnx.json")
    with pytest.raises(UserError, match="its sha256 differs"):
        load_engine(changed, backend="openvino")


@pytest.mark.fault(20)
@pytest.mark.slow
def test_compiled_code(tmp_path, runs, user_sees):
    """One build, since it takes half a minute: equality on all shapes, the limits, and every reason not to load it."""
    shapes = Shapes((1, 8, 16), (2, 32, 32), (4, 64, 72))
    out = build_engine(runs["grey_to_colour"], tmp_path / "g.pt2", direction="AtoB", shapes=shapes, device="cpu")
    metadata = json.loads((tmp_path / "g.pt2.json").read_text())
    bound = BOUNDS["fp32"]
    assert metadata["parity"]["max"] <= bound.max and metadata["shapes"] == {
        k: list(v) for k, v in shapes._asdict().items()
    }
    network = load_generator(runs["grey_to_colour"]).network
    with load_engine(out, device="cpu") as engine:
        assert engine.in_channels == 1 and engine.out_channels == 3 and engine.limits.shapes == shapes
        for shape in ((1, 1, 8, 16), (4, 1, 64, 72), (3, 1, 12, 64), (1, 1, 64, 20)):
            batch = torch.rand(shape) * 2 - 1
            torch.testing.assert_close(engine.run(batch), network(batch), rtol=0, atol=1e-4)
        assert infer(engine, torch.rand(1, 5, 7)).shape == (3, 5, 7)
        for shape in ((5, 1, 16, 16), (1, 1, 8, 12), (1, 1, 68, 16), (1, 1, 16, 76)):
            with pytest.raises(UserError, match=r"was built for batches \(images, height, width\) from \(1, 8, 16\)"):
                engine.run(torch.zeros(shape))
        with pytest.raises(UserError, match="in steps of 4"):
            engine.run(torch.zeros(1, 1, 10, 16))
    with pytest.raises(UserError, match="is closed"):
        engine.run(torch.zeros(1, 1, 16, 16))
    sidecar = out.with_name("g.pt2.json")
    for wrong, reason in (
        ({"torch": "2.11.0"}, r"compiled for torch 2\.11\.0, and this is .*export it again: .*--precision fp32"),
        ({"machine": "riscv"}, "compiled for riscv processors"),
        (
            {"device": "cuda", "gpu": "X", "compute_capability": [1, 2]},
            r"compiled for X \(compute capability \[1, 2\]\)",
        ),
    ):
        sidecar.write_text(json.dumps(metadata | {"compiled": metadata["compiled"] | wrong}))
        with pytest.raises(UserError, match=reason) as error:
            load_engine(out)
        user_sees(error.value)
    sidecar.write_text(json.dumps({key: value for key, value in metadata.items() if key != "compiled"}))
    with pytest.raises(UserError, match=r"is not the sidecar of a \.pt2 file"):
        load_engine(out)
    sidecar.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="computes in fp32, but bf16"):
        load_engine(out, precision="bf16")
    with pytest.raises(UserError, match="translates AtoB, but BtoA was asked for"):
        load_engine(out, direction="BtoA")
    content = bytearray(out.read_bytes())
    content[len(content) // 2] ^= 1
    out.write_bytes(content)
    with pytest.raises(UserError, match="its sha256 differs"):
        load_engine(out)
    sidecar.unlink()
    with pytest.raises(UserError, match="holds machine code, which is not run unless"):
        load_engine(out)


class Slow(Identity):
    """Tells when it begins, and waits for a word before it ends."""

    def __init__(self):
        super().__init__()
        self.begun, self.go, self.gone = threading.Event(), threading.Event(), False

    def _compute(self, batch):
        assert not self.gone
        self.begun.set()
        assert self.go.wait(20)
        return super()._compute(batch)

    def _release(self):
        self.gone = True


def test_closing_waits_for_whole_calls_and_for_all_that_was_submitted():
    engine, images = Slow(), np.zeros((6, 16, 16, 3), np.uint8)
    results, closers = [], [threading.Thread(target=lambda: engine.close()) for _ in range(2)]
    call = threading.Thread(target=lambda: results.append(infer(engine, images, batch_size=1)))
    call.start()
    futures = [infer_async(engine, images) for _ in range(8)]
    assert engine.begun.wait(20)
    for thread in closers:
        thread.start()
    while not engine.closed:
        time.sleep(0.001)
    with pytest.raises(UserError, match="is closed: load it again"):
        infer(engine, images)
    engine.go.set()
    for thread in (call, *closers):
        thread.join(20)
        assert not thread.is_alive()
    assert engine.gone and np.array_equal(results[0], images)
    assert all(np.array_equal(future.result(0), images) for future in futures)


def test_an_engine_may_be_closed_from_a_futures_callback_and_between_the_windows_of_a_stream():
    engine, image = Slow(), np.zeros((16, 16, 3), np.uint8)
    engine.go.set()
    closed = threading.Event()
    future = infer_async(engine, image)
    future.add_done_callback(lambda _: (engine.close(), closed.set()))
    assert closed.wait(20) and engine.gone
    engine = Slow()
    engine.go.set()
    stream = infer(engine, (image for _ in range(3)), batch_size=1)
    next(stream)
    engine.close()
    with pytest.raises(UserError, match="is closed"):
        next(stream)


def test_fewer_images_than_the_least_batch_are_served(tmp_path):
    engine = Identity(shapes=Shapes((4, 8, 8), (4, 16, 16), (5, 64, 64)))
    images = np.random.default_rng(0).integers(0, 256, (11, 16, 20, 3), dtype=np.uint8)
    for count in (1, 3, 4, 11):
        assert np.array_equal(infer(engine, images[:count]), images[:count])
    assert {shape[0] for shape in engine.seen} == {4, 5}


class OneConvolution(torch.nn.Module):
    """As little to compile as there can be: which sizes are constants is decided before the network is looked at."""

    size_divisor, min_size = 4, 8

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return torch.tanh(self.convolution(x))


@pytest.mark.parametrize("shapes", [((1, 32, 32),) * 3, ((1, 32, 32), (1, 32, 32), (4, 32, 48)), ((2, 32, 48),) * 3])
def test_compiled_code_of_fixed_shapes(runs, shapes):
    cpu, network = torch.device("cpu"), OneConvolution().eval().requires_grad_(False)
    generator = dataclasses.replace(load_generator(runs["colour"]), network=network)
    metadata = generator.metadata() | {"precision": "fp32", "size_divisor": 4, "min_size": 8}
    metadata |= {"shapes": Shapes(*shapes)._asdict(), "compiled": aoti_facts(cpu)}
    content = compile_package(generator, "fp32", Shapes(*shapes), cpu)
    with AotiBackend(content, metadata, name="g.pt2", device="cpu") as engine:
        for n, height, width in shapes:
            batch = torch.rand(n, 3, height, width) * 2 - 1
            torch.testing.assert_close(engine.run(batch), network(batch), rtol=0, atol=1e-4)


def test_slips_are_reported(runs, onnx_files, tmp_path):
    for call, reason in {
        lambda: build_engine(runs["colour"], tmp_path / "g.onnx", direction="x"): "direction must be AtoB or BtoA",
        lambda: build_engine(runs["colour"], tmp_path / "g.onnx", images=tmp_path / "no"): "there is no such folder",
        lambda: load_engine(onnx_files["colour"], device="meta"): "device must be auto, cpu, cuda",
        lambda: load_engine(onnx_files["colour"], device=None): "device must be auto, cpu, cuda",
        lambda: infer(Identity(), np.zeros((9, 9, 3)), tiling="exact"): "tiling is a Tiling",
        lambda: infer(Identity(), iter([]), batch_size=2**63): "batch_size must be",
        lambda: Identity().warmup(8, 64, 64): r"warmup takes \(images, height, width\)",
    }.items():
        with pytest.raises(UserError, match=reason):
            call()
