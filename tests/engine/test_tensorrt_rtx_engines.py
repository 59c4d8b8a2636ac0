"""Engines of TensorRT for RTX, loaded and run through a double of its runtime: what needs a GPU that is not there.

That the double's names and parameters are the real package's, and that the real one builds, is in test_tensorrt_rtx.py.
"""

import hashlib
import json
import multiprocessing
import re
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from cyclegan_fast import translate
from cyclegan_fast.engine import Shapes, build_engine, load_engine
from cyclegan_fast.engine.backends import tensorrt as tensorrt_backend
from cyclegan_fast.engine.backends.sidecar import sidecar_of
from cyclegan_fast.engine.backends.tensorrt_api import RTX, import_tensorrt
from cyclegan_fast.engine.backends.tensorrt_rtx import RuntimeCache
from cyclegan_fast.engine.export import build
from cyclegan_fast.errors import UserError
from cyclegan_fast.export import main as export_main
from tests.engine import cuda_double
from tests.engine import tensorrt_rtx_double as double
from tests.engine.cuda_double import recorded

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

SHAPES = Shapes((1, 16, 16), (8, 32, 32), (12, 64, 48))
LOGGER = "cyclegan_fast.engine.backends.tensorrt_rtx"


@pytest.fixture
def rtx(monkeypatch):
    """The double in the place of the package, and CUDA's doubles, of an Ada GPU."""
    package = double.module()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", package)
    cuda_double.install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    monkeypatch.setattr(tensorrt_backend, "_resolve", lambda *_: torch.device("cpu"))
    graphs = tensorrt_backend.GraphPerShape
    monkeypatch.setattr(
        tensorrt_backend, "GraphPerShape", lambda prepare, *rest, **more: graphs(recorded(prepare), *rest, **more)
    )
    return package


@pytest.fixture
def engine_file(rtx, runs, tmp_path):
    out = build_engine(runs["colour"], tmp_path / "g.engine", shapes=SHAPES, tensorrt="rtx")
    double.CALLS.clear()
    return out


def calls(kind):
    return [call[1:] for call in double.CALLS if call[0] == kind]


def cache_file(engine_file):
    return engine_file.with_name("g.engine.NVIDIA_GeForce_RTX_4090.cache")


def run_once(engine_file, *batches):
    """Loads the engine, runs batches, and returns what was compiled for them."""
    double.CALLS.clear()
    with load_engine(engine_file) as engine:
        for n in batches:
            engine.run(torch.zeros(n, 3, 32, 32))
    return [kernel for (kernel,) in calls("compiled")]


def test_an_engine_is_built_without_a_gpu_and_runs_on_one(rtx, runs, tmp_path):
    out = build_engine(runs["colour"], tmp_path / "g.engine", shapes=SHAPES, tensorrt="rtx", direction="BtoA")
    ((profiles, capabilities),) = calls("built")
    assert len(profiles) == 3 and capabilities == [80, 86, 89, 120, 121]
    assert calls("workspace") == calls("timings") == calls("deserialized") == []  # they ask for a GPU
    metadata = json.loads(sidecar_of(out).read_text())
    assert metadata["compared"] == "graph"
    assert metadata["compiled"] == {
        "device": "cuda",
        "flavour": "rtx",
        "tensorrt_rtx": double.VERSION,
        "compute_capabilities": ["8.0", "8.6", "8.9", "12.0", "12.1"],
    }
    with load_engine(out) as engine:
        assert (engine.direction, engine.precision, engine.limits.shapes) == ("BtoA", "fp32", SHAPES)
        expected = load_engine(runs["colour"], direction="BtoA", device="cpu")
        for n, side in ((1, 16), (1, 48), (3, 32), (12, 40), (3, 32)):
            batch = torch.rand(n, 3, side, min(side, 48)) * 2 - 1
            torch.testing.assert_close(engine.run(batch), expected.run(batch), rtol=0, atol=1e-4)
    assert set(calls("profile")) == {(0,), (1,), (2,)}


def test_where_a_gpu_of_it_is_here_the_engine_itself_is_compared(rtx, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "resolve_device", lambda _: torch.device("cuda", 0))
    out = build_engine(runs["colour"], tmp_path / "g.engine", shapes=SHAPES, tensorrt="rtx")
    assert json.loads(sidecar_of(out).read_text())["compared"] == "engine" and calls("executed")
    assert list(tmp_path.glob("*.cache")) == []
    other = build_engine(
        runs["colour"], out.with_name("o.engine"), shapes=SHAPES, tensorrt="rtx", compute_capabilities=["12.0"]
    )
    assert json.loads(sidecar_of(other).read_text())["compared"] == "graph"


def test_kernels_are_compiled_once_and_cached_beside_the_engine(engine_file):
    assert run_once(engine_file, 1, 1, 8) == ["0: (1, 3, 32, 32)", "1: (8, 3, 32, 32)"]
    assert cache_file(engine_file).exists()
    written = cache_file(engine_file).stat()
    assert run_once(engine_file, 8, 1) == []
    assert cache_file(engine_file).stat().st_mtime_ns == written.st_mtime_ns  # nothing was added
    assert run_once(engine_file, 1, 12) == ["2: (12, 3, 32, 32)"]
    assert run_once(engine_file, 1, 8, 12) == []


def test_kernels_are_stored_as_soon_as_a_shape_has_run(engine_file):
    engine = load_engine(engine_file)
    engine.warmup((8, 32, 32))
    assert "1: (8, 3, 32, 32)" in cache_file(engine_file).read_text()  # of a process that may be killed
    assert run_once(engine_file, 8) == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda content: b"", "it is damaged"),
        (lambda content: content[:-5], "it is damaged"),
        (lambda content: content.replace(b"kernels", b"kernelz"), "it is damaged"),
        (lambda content: b"[]\n", "it is damaged"),
        (lambda content: re.sub(rb'"plan_sha256": "\w+"', b'"plan_sha256": "0"', content), "it is that of another"),
        (lambda content: content.replace(b"1.7.1.116", b"1.6.0.100"), "it is that of another file, GPU or version"),
    ],
    ids=["empty", "short", "changed", "no_key", "other_plan", "other_version"],
)
def test_a_cache_that_is_stale_or_broken_is_ignored_with_a_warning(engine_file, caplog, spoil, reason):
    run_once(engine_file, 1)
    file = cache_file(engine_file)
    file.write_bytes(spoil(file.read_bytes()))
    with caplog.at_level("WARNING", logger=LOGGER):
        assert run_once(engine_file, 1) == ["0: (1, 3, 32, 32)"]
    (message,) = (record.getMessage() for record in caplog.records if record.name == LOGGER)
    assert message.startswith(f"{file} is ignored, and the kernels are compiled again: {reason}")
    assert run_once(engine_file, 1) == []  # it was replaced


def test_kernels_of_another_driver_are_not_used(engine_file, caplog, monkeypatch):
    run_once(engine_file, 1)
    monkeypatch.setattr(double, "driver", "590")
    with caplog.at_level("WARNING", logger=LOGGER):
        assert run_once(engine_file, 1) == ["0: (1, 3, 32, 32)"]
    assert "TensorRT for RTX does not take it" in caplog.text
    assert run_once(engine_file, 1) == []


def test_where_nothing_can_be_stored_it_runs_with_a_warning(engine_file, caplog):
    cache_file(engine_file).mkdir()
    with caplog.at_level("WARNING", logger=LOGGER), load_engine(engine_file) as engine:
        for n in (1, 8):
            engine.run(torch.zeros(n, 3, 32, 32))
    messages = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(messages) == 2 and "is ignored" in messages[0]
    assert messages[1].startswith("the compiled kernels are not cached, so each process compiles them: cannot write")


def test_engines_that_share_a_cache_leave_a_whole_one(engine_file):
    """As several processes do: each replaces the file while others read it, and none sees half of one."""
    faults = []

    def work(seed):
        try:
            for i in range(4):
                with load_engine(engine_file) as engine:
                    engine.run(torch.zeros(1 + (seed + i) % 12, 3, 32, 32))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(0, 12, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == [] and not any(thread.is_alive() for thread in threads)
    assert run_once(engine_file, 1) in ([], ["0: (1, 3, 32, 32)"])  # the last one's kernels remain
    assert list(engine_file.parent.glob(".partial*")) == []


def test_processes_that_share_a_cache_never_see_half_of_one(tmp_path, caplog):
    trt, file = double.module(), tmp_path / "g.cache"

    def open_cache():
        return RuntimeCache(trt, double.ICudaEngine.__new__(double.ICudaEngine), b"plan", "GPU", file)

    def work(name):
        for i in range(12):
            cache = open_cache()
            cache._cache._kernels.append(f"{name} {i} " + "x" * 100_000)
            cache._may_have_grown = True
            cache.save()
            file_is_whole(file)

    processes = [multiprocessing.get_context("fork").Process(target=work, args=(name,)) for name in "abc"]
    for process in processes:
        process.start()
    with caplog.at_level("WARNING", logger=LOGGER):
        while any(process.is_alive() for process in processes):
            open_cache()
            time.sleep(0.01)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0] and caplog.records == []
    assert open_cache()._cache._kernels and list(tmp_path.iterdir()) == [file]


def file_is_whole(file):
    head, _, kernels = file.read_bytes().partition(b"\n")
    assert json.loads(head)["sha256"] == hashlib.sha256(kernels).hexdigest()


@pytest.mark.parametrize(
    ("gpu", "capability", "reason"),
    [
        ("NVIDIA H200", (9, 0), r"NVIDIA H200 has 9\.0, for which TensorRT for RTX does not build: take TensorRT, and"),
        ("NVIDIA B200", (10, 0), r"NVIDIA B200 has 10\.0, for which .*: take TensorRT, and export it again: .*fp32$"),
        ("RTX 2080 Ti", (7, 5), r"RTX 2080 Ti has 7\.5; export it .* --tensorrt rtx --compute-capabilities 7\.5$"),
    ],
)
def test_a_gpu_that_is_not_on_its_list_is_refused(engine_file, monkeypatch, gpu, capability, reason):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    with pytest.raises(UserError, match=rf"g\.engine was built for compute capability 8\.0, .*12\.1, and {reason}"):
        load_engine(engine_file)
    assert calls("deserialized") == []


def test_what_it_cannot_be_loaded_by_is_a_sentence(engine_file, rtx, runs, monkeypatch):
    again = r"; export it again: .*--tensorrt rtx --compute-capabilities 8\.0 8\.6 8\.9 12\.0 12\.1$"
    rtx.__version__ = "1.8.0.1"
    with pytest.raises(UserError, match=rf"was built by TensorRT for RTX {double.VERSION}, and here is 1\.8.*{again}"):
        load_engine(engine_file)
    rtx.__version__ = "1.6.0.1"
    with pytest.raises(UserError, match=r"TensorRT for RTX 1\.6\.0\.1 is too old: pip install"):
        import_tensorrt(RTX)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    missing = r"needs TensorRT for RTX 1\.7 or newer \(.*\): pip install 'cyclegan-fast\[tensorrt-rtx\]'"
    with pytest.raises(UserError, match=missing):
        load_engine(engine_file)
    with pytest.raises(UserError, match=missing):
        build_engine(runs["colour"], engine_file.with_name("b.engine"), tensorrt="rtx")
    assert calls("deserialized") == []


def test_the_sidecar_says_whose_engine_it_is(engine_file, monkeypatch):
    """An engine of TensorRT is not given to TensorRT for RTX, nor the other way round."""
    sidecar = sidecar_of(engine_file)
    metadata = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(metadata | {"compiled": metadata["compiled"] | {"flavour": "standard"}}))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UserError, match=r"needs TensorRT 10\.16 or newer .*pip install 'cyclegan-fast\[tensorrt\]'"):
        load_engine(engine_file)
    sidecar.write_text(json.dumps(metadata | {"compiled": metadata["compiled"] | {"flavour": "mobile"}}))
    with pytest.raises(UserError, match=r"was built by a TensorRT of flavour 'mobile': a newer cyclegan_fast"):
        load_engine(engine_file)
    del metadata["compiled"]["compute_capabilities"]
    sidecar.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"g\.engine\.json is damaged; export it again: .* --tensorrt rtx$"):
        load_engine(engine_file)
    with pytest.raises(UserError, match=rf"cannot be loaded by TensorRT for RTX {double.VERSION}: The engine header"):
        tensorrt_backend.TensorRtBackend(b"no engine", metadata, name="g.engine")


def test_what_only_one_flavour_takes_is_refused_for_the_other(rtx, runs, tmp_path):
    for options, reason in (
        ({"compute_capabilities": ["8.6"]}, "compute capabilities are for TensorRT for RTX: add --tensorrt rtx"),
        ({"inspect": True}, r"the table of layers \(inspect\) is for TensorRT for RTX"),
        ({"tensorrt": "lite"}, "tensorrt must be standard or rtx, got 'lite'"),
    ):
        with pytest.raises(UserError, match=reason):
            build_engine(runs["colour"], tmp_path / "g.engine", **options)
    with pytest.raises(UserError, match=r"g\.onnx: TensorRT for RTX builds an \.engine file: name one"):
        build_engine(runs["colour"], tmp_path / "g.onnx", tensorrt="rtx")
    assert list(tmp_path.iterdir()) == []


def test_the_pages_examples(rtx, runs, photos, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "tensorrt.md").read_text().replace("\\\n", "")
    page = page[page.index("## TensorRT for RTX") :]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "read_layers", lambda *_: [])  # the double compiles none
    for source, target in ((runs["colour"], "runs/horse2zebra"), (photos, "testA"), (photos, "horses")):
        (tmp_path / target).parent.mkdir(exist_ok=True)
        (tmp_path / target).symlink_to(source)
    commands = re.findall(r"^    python -m cyclegan_fast\.(\w+) (--.*)$", page, re.MULTILINE)
    assert [name for name, _ in commands] == ["export", "export", "translate"]
    for name, words in commands:
        with pytest.raises(SystemExit) as ended:
            {"export": export_main, "translate": translate.main}[name](words.split())
        assert ended.value.code == 0
    assert len(list((tmp_path / "rtx_zebras").iterdir())) == 3
    assert (tmp_path / "rtx.engine.NVIDIA_GeForce_RTX_4090.cache").exists()
