"""An engine in other processes: forks refuse what would wait forever, and pickles ship the path."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cyclegan_fast.engine import infer, load_engine
from cyclegan_fast.engine.backends.torch import TorchBackend
from cyclegan_fast.engine.generator import load_generator
from cyclegan_fast.errors import UserError
from tests.engine.identity import Identity
from tests.engine.test_inference import pixels

# Forks once for each word, and prints how the child ended: done, wrong, the sentence of a UserError, or hang.
FORK = """
import os, sys, time
import numpy as np
import cyclegan_fast

path, backend, threads, *words = sys.argv[1:]
x = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)

def load(threads):
    return cyclegan_fast.load_engine(path, device="cpu", backend=backend, threads=threads)

engine = load(int(threads))
y = cyclegan_fast.infer(engine, x)
cyclegan_fast.infer_async(engine, x).result()  # on a thread that the child lacks

def child(word):
    if word == "infer":
        assert np.array_equal(cyclegan_fast.infer(engine, x), y)
        assert np.array_equal(cyclegan_fast.infer_async(engine, x).result(), y)
    elif word == "close":
        globals().pop("engine").close()
    elif word == "load":
        fresh = load(None)
        assert fresh.threads == 1 and np.allclose(cyclegan_fast.infer(fresh, x), y, atol=1)
    elif word == "load2":
        load(2)

def end_of(pid):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.02)
    os.kill(pid, 9)
    print(word, "hang", flush=True)

for word in words:
    pid = os.fork()
    if pid == 0:
        try:
            child(word)
            print(word, "done", flush=True)
        except cyclegan_fast.UserError as error:
            print(word, error, flush=True)
        except BaseException as error:
            print(word, "wrong", repr(error), flush=True)
        finally:
            os._exit(0)
    end_of(pid)
"""


def fork(path, backend, threads, *words):
    """How the children ended, by their words; and what was logged."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(path), backend, str(threads), *words],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines()), done.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="forks are seen through /proc")  # noqa: PTH112
@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_no_forked_child_waits_forever(backend, runs, onnx_files):
    if backend != "torch":
        pytest.importorskip(backend)
    path = runs["colour"] if backend == "torch" else onnx_files["colour"]
    ends, _ = fork(path, backend, 1, "infer", "close")
    if backend == "openvino":  # it computes on a thread of its own in any case
        refused = ends.pop("infer")
        assert refused.endswith("in the parent alone: start processes by spawn, or load it in this process")
        ends["infer"] = "done"
    assert ends == {"infer": "done", "close": "done"}
    ends, log = fork(path, backend, 2, "infer", "close", "load", "load2")
    left_behind, lacking = ends.pop("infer"), ends.pop("load2")
    assert ends == {"close": "done", "load": "done"} and log.count("so engines compute on one thread") == 1
    assert "was loaded before this process was forked, and its threads are in the parent alone: start" in left_behind
    assert lacking.startswith("threads=2: this process was forked from one in which a library ran threads, which it")


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_a_pickled_engine_is_loaded_again_from_its_path(backend, runs, onnx_files, monkeypatch, tmp_path):
    if backend != "torch":
        pytest.importorskip(backend)
    path = runs["colour"] if backend == "torch" else onnx_files["colour_BtoA"]
    monkeypatch.chdir(path.parent)
    options = {"direction": "BtoA", "device": "cpu", "backend": backend, "threads": 2}
    with load_engine(path.name, **options) as engine:  # a relative path, and another folder below
        pickled = pickle.dumps(engine)
        monkeypatch.chdir(tmp_path)
        assert len(pickled) < 1000
        again, copied = pickle.loads(pickled), copy.deepcopy(engine)
        x = pixels(16, 20, 3)
        for other in (again, copied):
            assert type(other) is type(engine) and other is not engine and other.info == engine.info
            np.testing.assert_array_equal(infer(other, x), infer(engine, x))
            other.close()
        infer(engine, x)  # which is another one


def test_an_engine_that_no_file_holds_cannot_be_pickled(runs):
    generator = load_generator(Path(runs["colour"]))
    for engine in (Identity(), TorchBackend(generator, name="in memory", device="cpu")):
        with pytest.raises(UserError, match=r"^(identity|in memory) cannot be pickled, as no file holds it: export it"):
            pickle.dumps(engine)


def test_a_pickled_engine_names_the_path_that_is_missing_elsewhere(onnx_files, tmp_path):
    path = tmp_path / "gone.onnx"
    path.write_bytes(onnx_files["colour"].read_bytes())
    with load_engine(path, device="cpu") as engine:
        pickled = pickle.dumps(engine)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx does not exist"):
        pickle.loads(pickled)
