"""How many threads an engine computes on: counted, in the process or by what its library reports."""

import os
import subprocess
import sys

import pytest
import torch

from cyclegan_fast import device
from cyclegan_fast.device import usable_cores
from cyclegan_fast.engine import infer, load_engine, threads
from cyclegan_fast.engine.threads import default_threads, torch_threads
from cyclegan_fast.errors import UserError
from tests.engine.test_inference import pixels


def threads_of(engine):
    """What the library behind an engine reports."""
    if hasattr(engine, "_session"):
        return engine._session.get_session_options().intra_op_num_threads
    if hasattr(engine, "_requests"):
        request = engine._requests.get()
        engine._requests.put(request)
        return request.get_compiled_model().get_property("INFERENCE_NUM_THREADS")
    seen = []
    engine.network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    infer(engine, pixels(8, 8, 3))
    return seen[0]


@pytest.fixture(autouse=True)
def as_many_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def engine_of(runs, onnx_files):
    def load(backend, **options):
        path = runs["colour"] if backend == "torch" else onnx_files["colour"]
        return load_engine(path, device="cpu", backend=backend, **options)

    return load


SEVERAL = {"torch": 3, "onnxruntime": 3, "openvino": min(2, usable_cores())}  # OpenVINO takes no more than there are
BACKENDS = list(SEVERAL)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_engine_has_the_threads_that_are_asked_for(backend, engine_of):
    if backend != "torch":
        pytest.importorskip(backend)
    for count in (1, SEVERAL[backend]):
        with engine_of(backend, threads=count) as engine:
            assert engine.threads == count and threads_of(engine) == count


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_default_it_has_those_of_torch(backend, engine_of):
    if backend != "torch":
        pytest.importorskip(backend)
    count = SEVERAL[backend]
    with torch_threads(count), pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", str(count))
        with engine_of(backend) as engine:
            assert engine.threads == count and threads_of(engine) == count


def test_images_are_converted_on_as_many_and_torch_has_its_own_number_again(engine_of, monkeypatch):
    seen = []
    unpack = infer.__globals__["unpack"]
    monkeypatch.setitem(infer.__globals__, "unpack", lambda *a: (seen.append(torch.get_num_threads()), unpack(*a))[1])
    before = torch.get_num_threads()
    with engine_of("torch", threads=before + 2) as engine:
        assert torch.get_num_threads() == before + 2  # of the process, so that no call changes it
        torch.set_num_threads(before)
        infer(engine, pixels(8, 8, 3))
        with pytest.raises(UserError):
            infer(engine, "nowhere.png")
    assert seen == [before + 2] * 2 and torch.get_num_threads() == before


@pytest.mark.parametrize(("omp", "cores", "expected"), [(None, 2, 2), (None, 64, 6), ("6", 2, 6)])
def test_the_default_minds_omp_num_threads_and_the_container(omp, cores, expected, monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    with torch_threads(6):
        assert default_threads() == expected


@pytest.mark.parametrize(("files", "limit"), [({"cpu.max": "150000 100000"}, 2), ({"cpu.max": "max 100000"}, 64)])
def test_the_limit_is_that_of_the_control_group(files, limit, tmp_path, monkeypatch):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    of_group = device.cores_of_container
    monkeypatch.setattr(device, "cores_of_container", lambda _: of_group(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with torch_threads(64):
        assert default_threads() == limit


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True, 10**6])
def test_what_is_no_number_of_threads_is_refused(wrong, runs):
    with pytest.raises(UserError, match=r"^threads must be a whole number from 1 to 1024, got "):
        load_engine(runs["colour"], threads=wrong)


COUNT = """
import os, sys, torch, onnxruntime, cyclegan_fast
before = len(os.listdir("/proc/self/task"))
path, threads = sys.argv[1], int(sys.argv[2])
engine = cyclegan_fast.load_engine(path, device="cpu", threads=threads or None)
if not path.endswith(".onnx"):
    cyclegan_fast.infer(engine, torch.zeros(1, 3, 256, 256))
print(len(os.listdir("/proc/self/task")) - before)
"""


def count_of(path, threads, omp):
    """How many threads a new process has more once an engine is loaded, and one of torch has computed."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(path), str(threads)],
        env=os.environ | {"OMP_NUM_THREADS": omp},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")  # noqa: PTH112
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_process_has_so_many_threads_and_no_more(kind, runs, onnx_files):
    pytest.importorskip("onnxruntime")
    path = runs["colour"] if kind == "torch" else onnx_files["colour"]
    assert count_of(path, 0, omp="1") == 0
    # Of ONNX Runtime or OpenMP; and torch makes as many of another pool when its number is set.
    assert count_of(path, 4, omp="1") in (3, 6)
