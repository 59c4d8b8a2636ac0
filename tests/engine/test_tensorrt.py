"""TensorRT: built, loaded and run through a double of its API, whose every name the real bindings have."""

import enum
import json
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from cyclegan_fast import translate
from cyclegan_fast.engine import Shapes, build_engine, infer, load_engine
from cyclegan_fast.engine.backends import tensorrt as tensorrt_backend
from cyclegan_fast.engine.backends.sidecar import sidecar_of
from cyclegan_fast.engine.backends.tensorrt_api import import_tensorrt, profile_of
from cyclegan_fast.engine.export import build
from cyclegan_fast.engine.export.tensorrt_build import check_size, split_profiles
from cyclegan_fast.errors import UserError
from cyclegan_fast.export import export
from cyclegan_fast.export import main as export_main

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from tests.engine import cuda_double
from tests.engine import tensorrt_double as double
from tests.engine.cuda_double import recorded

NAMES = sorted((Path(__file__).parent / "tensorrt_names").glob("*.json"))
SHAPES = Shapes((1, 16, 16), (8, 32, 32), (12, 64, 48))


@pytest.fixture(params=["10.16.1.11", "11.4.0.106"])
def tensorrt(request, monkeypatch, tmp_path):
    """The double in the place of TensorRT, CUDA's doubles, and the host's memory in the place of a GPU's."""
    package = double.module(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cuda_double.install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Double 1")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(build, "resolve_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(tensorrt_backend, "_resolve", lambda *_: torch.device("cpu"))
    graphs = tensorrt_backend.GraphPerShape
    monkeypatch.setattr(
        tensorrt_backend, "GraphPerShape", lambda prepare, *rest, **more: graphs(recorded(prepare), *rest, **more)
    )
    return package


@pytest.fixture
def engine_file(tensorrt, runs, tmp_path):
    return build_engine(runs["colour"], tmp_path / "g.engine", shapes=SHAPES)


def calls(kind):
    return [call[1:] for call in double.CALLS if call[0] == kind]


def own_names():
    """What each of the double's classes defines itself."""
    names = {}
    for name in double.surface(double.module()):
        kind = getattr(double, name)
        members = kind.__members__ if issubclass(kind, enum.Enum) else vars(kind)
        names[name] = {member for member in members if not member.startswith("_")}
    return names


@pytest.mark.parametrize("names", NAMES, ids=lambda path: path.stem)
def test_every_name_that_the_double_has_is_in_the_real_bindings(names):
    real = json.loads(names.read_text())
    for name, own in own_names().items():
        assert own <= set(real[name]), (name, own - set(real[name]))
    assert len(NAMES) == 2 and sum(map(len, own_names().values())) > 30


def test_the_real_bindings_have_these_names_where_they_are_installed():
    real = double.surface(pytest.importorskip("tensorrt"))
    for name, own in own_names().items():
        assert own <= set(real[name]), (name, own - set(real[name]))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_an_engine_is_built_loaded_and_run(tensorrt, runs, photos, tmp_path, precision):
    out = build_engine(
        runs["colour"], tmp_path / "g.engine", precision=precision, shapes=SHAPES, images=photos, direction="BtoA"
    )
    (profiles,) = calls("built")[0]
    assert [next(iter(p.values())) for p in profiles] == [
        [[1, 3, 16, 16], [1, 3, 32, 32], [1, 3, 64, 48]],
        [[2, 3, 16, 16], [8, 3, 32, 32], [8, 3, 64, 48]],
        [[9, 3, 16, 16], [12, 3, 32, 32], [12, 3, 64, 48]],
    ]
    assert calls("workspace") == [(double.MemoryPoolType.WORKSPACE, 500)]
    metadata = json.loads(sidecar_of(out).read_text())
    assert metadata["precision"] == precision and metadata["shapes"] == {
        k: list(v) for k, v in SHAPES._asdict().items()
    }
    assert metadata["compiled"] == {
        "device": "cuda",
        "flavour": "standard",
        "tensorrt": tensorrt.__version__,
        "gpu": "NVIDIA Double 1",
        "compute_capability": [9, 0],
    }
    with load_engine(out) as engine:
        assert (engine.direction, engine.precision, engine.limits.shapes) == ("BtoA", precision, SHAPES)
        expected = load_engine(runs["colour"], direction="BtoA", device="cpu")
        for n, side in ((1, 16), (1, 48), (3, 32), (12, 40)):
            batch = torch.rand(n, 3, side, min(side, 48)) * 2 - 1
            error = (engine.run(batch) - expected.run(batch)).abs().mean()
            assert error < {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.1, "fp8": 0.1}[precision]
        double.CALLS.clear()
        images = [np.random.default_rng(i).integers(0, 256, (21 + i % 2, 30, 3), dtype=np.uint8) for i in range(5)]
        assert [made.shape for made in infer(engine, images, batch_size=2)] == [image.shape for image in images]
        assert {shape[0] for (shape,) in calls("executed")} == {1, 2}
        assert set(calls("profile")) == {(0,), (1,)}
    with pytest.raises(UserError, match="is closed"):
        engine.run(batch)


def test_kept_timings_make_the_next_build_short_and_damaged_ones_do_no_harm(tensorrt, runs, tmp_path, engine_file):
    build_engine(runs["colour"], engine_file, shapes=SHAPES)
    assert calls("timings") == [(b"",), (b"timings+",)]
    (kept,) = (tmp_path / "cache" / "cyclegan_fast" / "tensorrt").iterdir()
    assert kept.name == f"{tensorrt.__version__}_NVIDIA_Double_1.timings"
    kept.write_bytes(b"damaged")
    build_engine(runs["colour"], engine_file, shapes=SHAPES)
    assert calls("timings")[2:] == [(b"damaged",), (b"",)]
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.touch()  # nothing can be kept there
    engine_file.unlink()
    assert build_engine(runs["colour"], engine_file, shapes=SHAPES) == engine_file


def test_without_a_word_about_shapes_it_serves_up_to_16_images_of_a_megapixel(tensorrt, runs, tmp_path):
    build_engine(runs["colour"], tmp_path / "g.engine")
    (profiles,) = calls("built")[0]
    assert [(least[0], most) for p in profiles for least, _, most in p.values()] == [
        (1, [1, 3, 1024, 1024]),
        (2, [8, 3, 1024, 1024]),
        (9, [16, 3, 1024, 1024]),
    ]


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tensorrt": "10.9.0"}, "built for TensorRT 10.9.0, and here is TensorRT 1"),
        ({"gpu": "NVIDIA Other"}, "built for NVIDIA Other, and here is NVIDIA Double 1"),
        ({"compute_capability": [8, 0]}, r"compute capability \[8, 0\], and here is compute capability \[9, 0\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_engine_of_another_machine_is_refused_before_tensorrt_reads_it(engine_file, change, reason, user_sees):
    sidecar = sidecar_of(engine_file)
    metadata = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(metadata | {"compiled": metadata["compiled"] | change}))
    double.CALLS.clear()
    again = rf"{reason}.*; export it again: .*--out {engine_file} --direction AtoB"
    with pytest.raises(UserError, match=again) as error:
        load_engine(engine_file)
    user_sees(error.value)
    assert double.CALLS == []


@pytest.mark.fault(20)
def test_a_tampered_engine_is_refused_before_tensorrt_reads_it(engine_file, user_sees):
    content = bytearray(engine_file.read_bytes())
    content[-100] ^= 1
    engine_file.write_bytes(content)
    double.CALLS.clear()
    with pytest.raises(UserError, match=r"is not the file that was exported.*export it again") as error:
        load_engine(engine_file)
    user_sees(error.value)
    sidecar_of(engine_file).unlink()
    with pytest.raises(UserError, match="holds machine code, which is not run unless") as error:
        load_engine(engine_file)
    user_sees(error.value)
    assert double.CALLS == []


def test_faults_of_tensorrt_are_told_in_a_sentence(tensorrt, runs, engine_file, monkeypatch):
    content = b"no engine"
    metadata = json.loads(sidecar_of(engine_file).read_text())
    with pytest.raises(UserError, match=r"cannot be loaded by TensorRT 1.*: Magic tag does not match"):
        tensorrt_backend.TensorRtBackend(content, metadata, name="g.engine")
    engine = load_engine(engine_file)
    monkeypatch.setattr(cuda_double.Stream, "cuda_stream", 0)
    with pytest.raises(UserError, match=r"failed on a batch of shape \[1, 3, 16, 16\]"):
        engine.run(torch.zeros(1, 3, 16, 16))
    with pytest.raises(UserError, match="was built for batches"):
        engine.run(torch.zeros(13, 3, 16, 16))
    monkeypatch.setattr(double.Builder, "build_serialized_network", lambda *_: None)
    with pytest.raises(UserError, match="could not build the engine"):
        build_engine(runs["colour"], engine_file, shapes=SHAPES)
    refusal = [double.ParserError("no such layer")]
    monkeypatch.setattr(double.OnnxParser, "parse", lambda self, model: self._errors.extend(refusal))
    with pytest.raises(UserError, match="does not take the graph: no such layer"):
        build_engine(runs["colour"], engine_file, shapes=SHAPES)
    tensorrt.__version__ = "10.3.0"
    with pytest.raises(UserError, match=r"TensorRT 10\.3\.0 is too old: pip install"):
        import_tensorrt()


def test_engines_wait_for_what_runs_when_they_are_closed(engine_file, monkeypatch):
    engine, batch = load_engine(engine_file), torch.rand(2, 3, 32, 32) * 2 - 1
    expected, faults = engine.run(batch), []
    begun, go = threading.Event(), threading.Event()
    compute = engine._compute

    def slow(x):
        begun.set()
        go.wait(20)
        return compute(x)

    monkeypatch.setattr(engine, "_compute", slow)

    def work():
        made = engine.run(batch)
        faults.extend([] if torch.equal(made, expected) else ["another result"])

    threads = [threading.Thread(target=work), threading.Thread(target=engine.close)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads) and faults == [] and engine.closed


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_where_it_cannot_run_that_is_said(runs, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"built on the GPU that it shall run on, .*: export \.onnx"):
        export(runs["colour"], tmp_path / "g.engine")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UserError, match=r"needs TensorRT 10\.16 or newer .*pip install 'cyclegan-fast\[tensorrt\]'"):
        import_tensorrt()
    for device, why in (("auto", "torch sees none here"), ("cpu", "not on the CPU")):
        with pytest.raises(UserError, match=f"runs on an NVIDIA GPU, .*{why}: export an .onnx"):
            tensorrt_backend._resolve(device, "g.engine")


def test_the_pages_examples(tensorrt, runs, photos, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "tensorrt.md").read_text().replace("\\\n", "")
    monkeypatch.chdir(tmp_path)
    for source, target in ((runs["colour"], "runs/horse2zebra"), (photos, "testA"), (photos, "horses")):
        (tmp_path / target).parent.mkdir(exist_ok=True)
        (tmp_path / target).symlink_to(source)
    page = page[: page.index("## TensorRT for RTX")]  # whose examples are run in test_tensorrt_rtx_engines.py
    commands = re.findall(r"^    python -m cyclegan_fast\.(\w+) (--.*)$", page, re.MULTILINE)
    assert [name for name, _ in commands] == ["export", "export", "translate"]
    for name, words in commands:
        with pytest.raises(SystemExit) as ended:
            {"export": export_main, "translate": translate.main}[name](words.split())
        assert ended.value.code == 0
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    desk = {"horses": torch.rand(2, 3, 40, 44) * 2 - 1}
    exec(block.replace("512", "64"), desk)  # the double computes on the CPU, in half precision
    assert desk["zebras"].shape == desk["horses"].shape


def test_maps_with_more_values_than_tensorrt_can_count_are_refused_before_anything_is_built(tensorrt, runs, tmp_path):
    shapes = Shapes((1, 16, 16), (1, 32, 32), (400, 1024, 1024))
    with pytest.raises(UserError, match=r"400x1024x1024 would have 2,546,160,000 values in one .*choose shapes"):
        build_engine(runs["colour"], tmp_path / "g.engine", shapes=shapes)
    check_size(Shapes((1, 8, 8), (1, 8, 8), (16, 1024, 1024)), 64)
    with pytest.raises(UserError, match="in one layer's activations"):
        check_size(Shapes((1, 8, 8), (1, 8, 8), (32, 1024, 1024)), 64)


def test_profiles_hold_every_batch_once():
    for least, best, most in ((1, 1, 64), (1, 4, 4), (3, 3, 3), (8, 8, 9), (33, 40, 50)):
        profiles = split_profiles(Shapes((least, 8, 8), (best, 16, 16), (most, 64, 64)))
        for images in range(least, most + 1):
            serving = [p for p in profiles if p.min[0] <= images <= p.max[0]]
            assert len(serving) == 1 and profiles[profile_of((images, 64, 8), profiles)] == serving[0]
        assert [p.opt[0] for p in profiles if p.min[0] <= best <= p.max[0]] == [best]
        assert all(p.min[0] <= p.opt[0] <= p.max[0] for p in profiles)
    assert [p.max[0] for p in split_profiles(Shapes((1, 8, 8), (1, 8, 8), (64, 8, 8)))] == [1, 8, 32, 64]
    with pytest.raises(ValueError, match="no profile"):
        profile_of((65, 8, 8), profiles)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_a_real_engine_on_a_real_gpu(runs, photos, tmp_path, precision):
    pytest.importorskip("tensorrt")
    out = build_engine(runs["colour"], tmp_path / "g.engine", precision=precision, shapes=SHAPES, images=photos)
    expected = load_engine(runs["colour"], device="cpu")
    with load_engine(out) as engine:
        for batch in (torch.rand(n, 3, 32, 48) * 2 - 1 for n in (1, 5, 12, 5)):
            for source in (batch, batch.cuda()):
                made = engine.run(source)
                assert made.is_cuda and (made.cpu() - expected.run(batch)).abs().mean() < 0.1
        batches = [torch.rand(1 + i % 3, 3, 32, 32) * 2 - 1 for i in range(16)]
        alone = [engine.run(batch).cpu() for batch in batches]
        results = [engine.submit(lambda batch=batch: engine.run(batch).cpu()) for batch in batches]
        assert all(torch.equal(future.result(), one) for future, one in zip(results, alone, strict=True))
