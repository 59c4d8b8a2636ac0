"""An engine of any backend stays usable after a batch that failed, whatever failed in it and whoever waits."""

import threading

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from cyclegan_fast.engine import Engine, infer, infer_async, load_engine
from cyclegan_fast.engine.backends import cuda_graphs
from cyclegan_fast.errors import UserError
from tests.engine import cuda_double
from tests.engine.cuda_double import recorded
from tests.engine.identity import Identity

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("a kernel failed"),
    MemoryError(),
    KeyboardInterrupt(),
]


@pytest.fixture(scope="module")
def picky(runs, onnx_files, tmp_path_factory):
    """A U-Net that refuses sides which are no multiples of 32, in each kind of file, which does not state that."""
    model = onnx.load(onnx_files["unet"])
    del model.metadata_props[:]
    for port in (model.graph.input[0], model.graph.output[0]):  # nor in the names of its sides
        for axis, name in ((2, "h"), (3, "w")):
            port.type.tensor_type.shape.dim[axis].dim_param = name
    path = tmp_path_factory.mktemp("picky") / "unet.onnx"
    path.write_bytes(model.SerializeToString())
    return {"torch": runs["unet"], "onnxruntime": path, "openvino": path}


@pytest.fixture(params=["torch", "onnxruntime", "openvino"])
def engine(request, picky):
    pytest.importorskip(request.param)
    with load_engine(picky[request.param], device="cpu", backend=request.param) as engine:
        yield engine


def test_a_batch_that_the_network_cannot_take_harms_no_other(engine):
    good, bad = torch.rand(2, 3, 64, 32) * 2 - 1, torch.zeros(1, 3, 60, 60)
    right = engine.run(good)
    for _ in range(3):
        with pytest.raises(UserError, match=r"takes batches|failed on a batch of shape \[1, 3, 60, 60\]"):
            engine.run(bad)
        for _ in range(4):
            torch.testing.assert_close(engine.run(good), right, rtol=0, atol=1e-5)
    batches = [torch.rand(1, 3, 32 * (1 + i % 2), 64) * 2 - 1 for i in range(8)]
    expected, results = [engine.run(batch) for batch in batches], {}

    def work(i):
        for _ in range(6):
            if i % 4 == 3:
                with pytest.raises(UserError):
                    engine.run(bad)
            results[i] = engine.run(batches[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(batches), "a good batch failed beside a bad one"
    for i, batch in enumerate(expected):
        torch.testing.assert_close(results[i], batch, rtol=0, atol=1e-5)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_in_the_middle_of_a_call_leaves_the_engine_usable(engine, error, monkeypatch):
    images = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(3)]
    right = infer(engine, images, batch_size=1)
    compute, calls = engine._compute, []

    def failing(batch):
        calls.append(batch)
        if len(calls) == 2:
            raise error
        return compute(batch)

    monkeypatch.setattr(engine, "_compute", failing)
    with pytest.raises(UserError if isinstance(error, torch.OutOfMemoryError | MemoryError) else type(error)):
        infer(engine, images, batch_size=1)
    for result, expected in zip(infer(engine, images, batch_size=1), right, strict=True):
        assert np.abs(result.astype(int) - expected).max() <= 1
    engine.close()  # no call is left that it would wait for


def test_a_cancelled_or_failed_future_does_not_hold_up_the_close():
    go, engine = threading.Event(), Identity()
    running = [engine.submit(go.wait) for _ in range(2)]  # all of its threads
    waiting, failing = infer_async(engine, np.zeros((8, 8, 3), np.uint8)), engine.submit(lambda: 1 / 0)
    assert waiting.cancel()
    closer = threading.Thread(target=engine.close)
    closer.start()
    go.set()
    closer.join(20)
    assert not closer.is_alive() and all(future.done() for future in running)
    assert isinstance(failing.exception(), ZeroDivisionError)


def test_a_call_may_close_its_engine_and_ends_as_it_began():
    engine = Identity()
    with engine.call():
        engine.close()
        assert engine.run(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    with pytest.raises(UserError, match="is closed"):
        engine.run(torch.zeros(1, 3, 8, 8))
    assert isinstance(engine, Engine)


@pytest.mark.parametrize("moment", ["set up", "first run", "capture"])
def test_a_shape_that_failed_is_set_up_and_run_again_before_it_is_captured(monkeypatch, moment):
    cuda_double.install(monkeypatch)
    events, failing = [], [moment]

    def step(name):
        events.append(name)
        if failing == [name]:
            failing.clear()
            raise RuntimeError("a kernel failed")

    def prepare(input):
        step("set up")

        def call():
            step("capture" if cuda_double.Graph.recording else "first run")
            return input * 2

        return call

    runner = cuda_graphs.GraphPerShape(recorded(prepare), torch.device("cpu"))
    batch, faults = torch.rand(1, 3, 8, 8), 0
    for _ in range(5):
        try:
            torch.testing.assert_close(runner.run(batch), batch * 2)
        except RuntimeError:
            faults += 1
    before = {"set up": [], "first run": ["set up"], "capture": ["set up", "first run"]}[moment]
    expected = [*before, moment, "set up", "first run", "capture"]  # and replays
    assert faults == 1 and events[: len(expected)] == expected and "set up" not in events[len(expected) :]


def test_a_graph_of_another_maker_fails_and_goes_on(tmp_path):
    """Case 07: the same by `infer`, through a file that says nothing of what it takes."""
    pytest.importorskip("openvino")
    nodes = [
        helper.make_node("AveragePool", ["x"], ["half"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Resize", ["half", "", "s"], ["back"], mode="nearest"),
        helper.make_node("Add", ["x", "back"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in "xy"]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 8, 8], np.float32), "s")
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], initializer=[scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    with load_engine(tmp_path / "g.onnx", backend="openvino") as engine:
        image = np.full((64, 64, 3), 100, np.uint8)
        right = infer(engine, image)
        with pytest.raises(UserError, match="failed on a batch"):
            infer(engine, np.zeros((60, 60, 3), np.uint8))
        assert all(np.array_equal(infer(engine, image), right) for _ in range(4))
