"""KServe's protocol, by the client that Triton's users have, and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

from cyclegan_fast.engine import infer, load_engine
from cyclegan_fast.serving.limits import Limits
from cyclegan_fast.serving.models import Engines
from tests.engine.identity import Identity
from tests.serving.running import Running, pixels_of, running


@pytest.fixture(scope="module")
def server(run_folder: Path):
    def tiny() -> Engines:
        return Engines(load_engine(run_folder, device="cpu"))

    with running({"identity": Identity(), "tiny": tiny}, Limits(max_queue=6, max_pixels=64 * 64)) as server:
        yield server


@pytest.fixture
def client(server: Running):
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


def batch(seed: int = 0, dtype: type = np.uint8, images: int = 2) -> np.ndarray:
    values = np.stack([pixels_of(seed + i) for i in range(images)]).transpose(0, 3, 1, 2)
    return values.astype(dtype) if dtype in (np.uint8, np.uint16) else (values / 127.5 - 1).astype(dtype)


def test_a_real_client_asks_for_health_and_metadata(client) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tiny") and client.is_model_ready("tiny", "1")
    metadata = client.get_server_metadata()
    assert metadata["name"] == "cyclegan_fast" and "binary_tensor_data" in metadata["extensions"]
    metadata = client.get_model_metadata("tiny")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
    assert metadata["outputs"] == [{"name": "translated", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
    assert {(entry["name"], entry["state"]) for entry in client.get_model_repository_index()} == {
        ("identity", "READY"),
        ("tiny", "READY"),
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_a_real_client_translates(client, run_folder: Path, binary_in: bool, binary_out: bool) -> None:
    import tritonclient.http as triton

    images = batch(dtype=np.float32)
    given = triton.InferInput("image", list(images.shape), "FP32")
    given.set_data_from_numpy(images, binary_data=binary_in)
    wanted = triton.InferRequestedOutput("translated", binary_data=binary_out)
    result = client.infer("tiny", [given], outputs=[wanted], request_id="seven", model_version="1")
    assert result.get_response()["id"] == "seven"
    with load_engine(run_folder, device="cpu") as engine:
        expected = infer(engine, images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(result.as_numpy("translated"), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float64])
def test_every_type_comes_back_as_it_is(client, dtype: type) -> None:
    import tritonclient.http as triton

    images, kind = batch(1, dtype), {"uint8": "UINT8", "uint16": "UINT16", "float16": "FP16", "float64": "FP64"}
    given = triton.InferInput("image", list(images.shape), kind[np.dtype(dtype).name])
    given.set_data_from_numpy(images)
    result = client.infer("identity", [given]).as_numpy("translated")
    assert result.dtype == images.dtype and np.allclose(result, images, atol=1e-6)


def test_a_real_client_unloads_and_loads(client, server: Running) -> None:
    import tritonclient.http as triton

    client.unload_model("tiny")
    assert not client.is_model_ready("tiny") and not client.is_server_ready()
    (state,) = (entry for entry in client.get_model_repository_index() if entry["name"] == "tiny")
    assert (state["state"], state["reason"]) == ("UNAVAILABLE", "it was unloaded")
    ready = server.post("/v2/repository/index", b'{"ready": true}').json
    assert [entry["name"] for entry in ready] == ["identity"]
    with pytest.raises(triton.InferenceServerException, match="the engine tiny is not loaded"):
        client.get_model_metadata("tiny")
    with pytest.raises(triton.InferenceServerException, match="without parameters; got config"):
        client.load_model("tiny", config="{}")
    client.load_model("tiny")
    assert client.is_server_ready()


def document(**changes) -> dict:
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 4, 4], "data": [0.0] * 48}
    return {"inputs": [tensor | changes]}


WRONG = {
    "no JSON": (b"{", 400, "the body is no JSON"),
    "a list": ([], 400, "'inputs' is missing"),
    "no input": ({"inputs": []}, 400, "the model has one input, 'image'; got 0"),
    "name": (document(name="x"), 400, "the input is called 'image', got 'x'"),
    "type": (document(datatype="BYTES"), 400, "the datatype must be one of FP32"),
    "shape": (document(shape=[-1, 3]), 400, "the shape must be a list of a few whole numbers"),
    "huge shape": (document(shape=[2**31, 3, 4, 4]), 400, "the shape must be a list of a few whole numbers"),
    "count": (document(shape=[1, 3, 4, 5]), 400, "data has 48 numbers, and the shape says 60"),
    "text": (document(data=["a"] * 48), 400, "data must be a list of numbers"),
    "ragged": (document(data=[[0.0], [0.0, 1.0]]), 400, "data must be a list of numbers"),
    "NaN": (document(data=[float("nan")] * 48), 422, "an image holds pixels that are NaN or infinite"),
    "range": (document(data=[3.0] * 48), 422, "pixels of a floating-point type must lie in [-1, 1]"),
    "uint8": (
        document(datatype="UINT8", data=[256] * 48),
        400,
        "data of type UINT8 must be whole numbers from 0 to 255",
    ),
    "dimensions": (
        document(shape=[3, 4, 4]),
        422,
        "image is [images, channels, height, width], got the shape [3, 4, 4]",
    ),
    "channels last": (document(shape=[1, 4, 4, 3]), 422, "has its 3 channels elsewhere"),
    "channels": (document(shape=[3, 1, 4, 4]), 422, "the network takes images of 3 channels"),
    "empty": (document(shape=[1, 3, 0, 4], data=[]), 422, "is empty"),
    "large": (document(datatype="UINT8", shape=[1, 3, 65, 64], data=[0] * 12480), 422, "at most 4,096 pixels"),
    "many": (document(datatype="UINT8", shape=[7, 3, 1, 1], data=[0] * 21), 413, "7 images in one request"),
    "output": (document() | {"outputs": [{"name": "x"}]}, 400, "the output is called 'translated', got 'x'"),
    "binary": (document(parameters={"binary_data_size": 8}), 400, "FP32 [1, 3, 4, 4] has 192 bytes"),
    "bool size": (document(parameters={"binary_data_size": True}), 400, "'binary_data_size' is missing, or no whole"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_answered_in_a_sentence(server: Running, name: str) -> None:
    content, status, sentence = WRONG[name]
    answer = server.post(
        "/v2/models/identity/infer", content if isinstance(content, bytes) else json.dumps(content).encode()
    )
    assert answer.status == status and sentence in answer.error


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"{", 400, "the body is no JSON"),
        (b"[]", 400, "the body must be a JSON object"),
        (b" " * 20_000, 413, "the body has more than 16384 bytes"),
    ],
)
def test_a_wrong_question_about_the_repository_is_answered_in_a_sentence(
    server: Running, body: bytes, status: int, sentence: str
) -> None:
    answer = server.post("/v2/repository/index", body)
    assert answer.status == status and sentence in answer.error


def test_no_images_are_translated_into_none(server: Running) -> None:
    answer = server.post("/v2/models/tiny/infer", json.dumps(document(shape=[0, 3, 4, 4], data=[])).encode())
    assert answer.json["outputs"] == [{"name": "translated", "datatype": "FP32", "shape": [0, 3, 4, 4], "data": []}]


def test_wrong_places(server: Running) -> None:
    assert server.post("/v2/models/nix/infer", b"{}").status == 404
    assert server.get("/v2/models/identity/versions/2").status == 404
    assert "has the version 1 alone" in server.get("/v2/models/identity/versions/2/ready").error
    for length in ("-1", "1e3", "99999", "9" * 50):
        answer = server.post("/v2/models/identity/infer", b"{}", {"Inference-Header-Content-Length": length})
        assert answer.status == 400 and "must be the length of the JSON" in answer.error
    answer = server.post("/v2/models/identity/infer", b"{}", {"Content-Encoding": "gzip"})
    assert answer.status == 415


def test_model_control_may_be_switched_off() -> None:
    with running({"identity": Identity()}, model_control=False) as server:
        answer = server.post("/v2/repository/models/identity/unload")
        assert answer.status == 403 and "--model-control" in answer.error
        assert server.get("/v2/models/identity/ready").status == 200
