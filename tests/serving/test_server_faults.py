"""Fault 27: what a server meets. Each request has exactly one right answer, or one clear error."""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("fastapi")

from cyclegan_fast.serving import kserve_routes
from cyclegan_fast.serving.limits import Limits
from tests.data.sample_images import png_header
from tests.engine.identity import Identity
from tests.serving.running import Answer, Gated, Running, pixels_of, png, running
from tests.serving.test_batching import wait_for_queue

SMALL = Limits(max_batch=4, max_queue=8, max_body=2**20, max_pixels=64 * 64, read_timeout=1.0, timeout=30)


@pytest.fixture(scope="module")
def server():
    with running({"identity": Identity()}, SMALL) as server:
        yield server


@contextlib.contextmanager
def connected(server: Running):
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        yield connection


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answer_of(connection: socket.socket) -> Answer:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return Answer(response.status, response.headers, response.read())


@pytest.mark.fault(27)
def test_500_clients_are_each_answered_once_with_their_own_image_or_refused(user_sees) -> None:
    """While they are, health and metrics answer; refused ones that come back are answered in the end."""
    images = [pixels_of(i) for i in range(500)]
    bodies = [png(image) for image in images]
    outcomes: Counter[int] = Counter()
    engine = Gated()
    with running({"gated": engine}, Limits(max_batch=8, max_queue=128, timeout=60)) as server:
        engine.hold()
        start = threading.Barrier(500)

        def client(i: int) -> None:
            start.wait()
            while True:
                answer = server.post("/translate", bodies[i])
                outcomes[answer.status] += 1
                if answer.status == 200:
                    assert np.array_equal(answer.pixels, images[i])
                    return
                assert answer.status == 429 and 1 <= int(answer.headers["retry-after"]) <= 60
                if outcomes[429] == 1:
                    user_sees(answer.error)
                time.sleep(1.0)

        threading.stack_size(256 * 1024)
        try:
            with ThreadPoolExecutor(500) as pool:
                clients = [pool.submit(client, i) for i in range(500)]
                engine.entered.acquire()
                assert server.get("/v2/health/ready").status == 200
                assert server.get("/v2/health/live").json == {"live": True}
                assert b'cyclegan_admitted_images{engine="gated"}' in server.get("/metrics").body
                engine.release()
                for done in clients:
                    done.result()
        finally:
            threading.stack_size(0)
        assert outcomes[200] == 500 and outcomes[429] >= 500 - 128 and set(outcomes) == {200, 429}
        assert sum(shape[0] for shape in engine.seen[1:]) >= 500
        loaded = server.service.models["gated"].loaded
        assert loaded is not None and (loaded.users, loaded.batcher.waiting) == (0, 0)
        assert server.service.requests == 0


@pytest.mark.fault(27)
def test_a_body_of_2_gb_is_refused_and_never_held(server: Running, user_sees) -> None:
    before, chunk = peak_memory(), bytes(2**20)
    with connected(server) as connection:
        head = f"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**31}\r\n\r\n"
        connection.sendall(head.encode())
        with contextlib.suppress(OSError):  # it hangs up when it has had enough
            for _ in range(2**11):
                connection.sendall(chunk)
        answer = answer_of(connection)
    assert answer.status == 413
    user_sees(answer.error)
    assert peak_memory() - before < 64 * 2**20
    with connected(server) as connection:  # one that does not declare its length
        connection.sendall(b"POST /translate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(2**11):
                connection.sendall(b"100000\r\n" + chunk + b"\r\n")
        assert answer_of(connection).status == 413
    assert peak_memory() - before < 64 * 2**20
    assert server.post("/translate", png(pixels_of())).status == 200


@pytest.mark.fault(27)
def test_slow_clients_are_sent_away_and_keep_nobody_waiting(server: Running, user_sees) -> None:
    with connected(server) as slow_head, connected(server) as slow_body, connected(server) as silent:
        slow_head.sendall(b"POST /translate HTTP/1.1\r\nHost: loc")
        slow_body.sendall(b"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        assert server.post("/translate", png(pixels_of())).status == 200
        answer = answer_of(slow_body)
        assert answer.status == 408
        user_sees(answer.error)
        for connection in (slow_head, silent):
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(100) == b""
    assert server.service.requests == 0


@pytest.mark.fault(27)
def test_what_is_no_image_is_refused_in_a_sentence(server: Running, user_sees) -> None:
    before = peak_memory()
    for content in (
        b"MZ\x90\x00 a program",
        b"<svg onload='x'/>",
        png(pixels_of(0, 65, 64)),
        png_header(30_000, 30_000),
    ):
        answer = server.post("/translate", content)
        assert answer.status == 422
        user_sees(answer.error)
    assert peak_memory() - before < 64 * 2**20


@pytest.mark.fault(27)
def test_names_with_paths_lead_nowhere(server: Running, user_sees, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("../../../../etc/passwd", "/etc/passwd", "C:\\x", "a\x00b", "%2e%2e%2fx"):
        head = f'--XX\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        body = head.encode() + png(pixels_of()) + b"\r\n--XX--\r\n"
        answer = server.post("/translate", body, {"Content-Type": "multipart/form-data; boundary=XX"})
        assert answer.status == 200 and np.array_equal(answer.pixels, pixels_of())
        assert "content-disposition" not in answer.headers
    assert list(tmp_path.iterdir()) == []
    for path in (
        "/v2/models/../../etc/passwd",
        "/v2/models/..%2f..%2fetc%2fpasswd",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
    ):
        assert server.get(path).status == 404
    answer = server.post("/translate?engine=../../etc/passwd", png(pixels_of()))
    assert answer.status == 404
    user_sees(answer.error)


@pytest.mark.fault(27)
def test_a_client_that_hangs_up_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan_fast.serving.batcher.batches_at_a_time", lambda engine: 1)
    engine = Gated()
    with running({"gated": engine}, SMALL) as server, ThreadPoolExecutor(1) as pool:
        engine.seen.clear()
        engine.hold()
        first = pool.submit(server.post, "/translate", png(pixels_of(0)))
        engine.entered.acquire()
        body = png(pixels_of(1))
        with connected(server) as connection:
            head = f"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            wait_for_queue(server, "gated", 1)
        wait_for_queue(server, "gated", 0)
        engine.release()
        assert np.array_equal(first.result().pixels, pixels_of(0))
    assert engine.seen == [(1, 3, 16, 24)]  # what nobody waits for is not computed


@pytest.mark.fault(27)
def test_what_takes_too_long_is_answered_by_504(monkeypatch: pytest.MonkeyPatch, user_sees) -> None:
    engine = Gated()
    with running({"gated": engine}, Limits(timeout=0.3)) as server:
        engine.hold()
        answer = server.post("/translate", png(pixels_of()))
        assert answer.status == 504
        user_sees(answer.error)
        engine.release()
        assert server.post("/translate", png(pixels_of())).status == 200


@pytest.mark.fault(27)
def test_bodies_and_images_are_held_within_the_memory_of_the_server(user_sees) -> None:
    body = png(pixels_of(0, 64, 64))
    engine = Gated()
    size = len(body) + 64 * 64 * 4 * 6
    with running({"gated": engine}, Limits(max_memory=size + 1000)) as server, ThreadPoolExecutor(1) as pool:
        engine.hold()
        first = pool.submit(server.post, "/translate", body)
        engine.entered.acquire()
        answer = server.post("/translate", body)
        assert answer.status == 429 and answer.headers["retry-after"] == "1"
        user_sees(answer.error)
        engine.release()
        assert np.array_equal(first.result().pixels, pixels_of(0, 64, 64))
        assert server.post("/translate", body).status == 200


@pytest.mark.fault(27)
def test_a_server_that_stops_answers_what_it_has_and_refuses_the_rest(user_sees) -> None:
    engine = Gated()
    with running({"gated": engine}, SMALL) as server, ThreadPoolExecutor(4) as pool:
        engine.hold()
        first = [pool.submit(server.post, "/translate", png(pixels_of(i))) for i in range(4)]
        engine.entered.acquire()
        for _ in range(3000):
            if server.service.requests == 4:
                break
            time.sleep(0.002)
        server.begin_to_stop()
        while not server.service.draining:
            time.sleep(0.002)
        answer = server.post("/translate", png(pixels_of()))
        assert answer.status == 503 and answer.headers["retry-after"]
        user_sees(answer.error)
        assert server.get("/v2/health/live").status == 200
        assert server.get("/v2/health/ready").status == 503
        engine.release()
        for i, done in enumerate(first):
            assert np.array_equal(done.result().pixels, pixels_of(i))
        assert server.stop()
    assert engine.closed


def test_other_sites_and_other_hosts_are_refused(server: Running) -> None:
    """A page of another site must not use a server on the reader's own machine, by any trick with names."""
    body = png(pixels_of())
    host = server.url.removeprefix("http://")
    assert server.post("/translate", body, {"Origin": server.url}).status == 200
    for origin in ("http://evil.example", "null", f"http://{host}.evil.example", "http://127.0.0.1:1"):
        assert server.post("/translate", body, {"Origin": origin}).status == 403
    assert server.post("/v2/repository/models/identity/unload", b"", {"Origin": "http://evil.example"}).status == 403
    for name in ("evil.example", "127.0.0.1.evil.example", "evil.example:8000"):
        assert server.get("/engines", Host=name).status == 403
    assert server.get("/engines", Host="localhost:8000").status == 200
    assert server.get("/engines", Host="[x").status == 400
    assert server.post("/translate", body, {"Origin": "http://[x"}).status == 400
    with running({"identity": Identity()}, local=False) as open_server:
        assert open_server.get("/engines", Host="models.example").status == 200


def test_an_image_that_alone_needs_more_memory_than_there_is_is_refused_for_good() -> None:
    with running({"identity": Identity()}, Limits(max_memory=20_000)) as server:
        answer = server.post("/translate", png(pixels_of(width=64, height=64)))
        assert answer.status == 413 and "more memory than this server has" in answer.error
        assert server.post("/translate", png(pixels_of(width=8, height=8))).status == 200


def test_numbers_in_json_count_as_the_memory_that_they_take_once_they_are_parsed() -> None:
    with running({"identity": Identity()}, Limits(max_memory=100_000)) as server:
        for side, status in ((8, 200), (32, 413)):
            tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 3, side, side], "data": [0] * (3 * side**2)}
            answer = server.post("/v2/models/identity/infer", json.dumps({"inputs": [tensor]}).encode())
            assert answer.status == status, answer.body


def test_a_body_of_unknown_length_counts_as_the_largest() -> None:
    """As others do, it is refused for good where it alone is too large, and not asked to come again."""
    limits = Limits(max_body=2**20, max_memory=2**20 + 1000)
    with running({"identity": Identity()}, limits) as server, connected(server) as connection:
        head, body = b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: localhost\r\n", b'{"inputs": []}'
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert answer_of(connection).status == 400
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        body += b" " * 1000
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        answer = answer_of(connection)
        assert answer.status == 413 and "more memory than this server has" in answer.error


def test_many_images_of_a_pixel_are_refused_before_they_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve_routes, "unpack", None)
    with running({"identity": Identity()}, Limits(max_queue=8)) as server:
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "image",
                        "shape": [3_000_000, 3, 1, 1],
                        "datatype": "UINT8",
                        "parameters": {"binary_data_size": 9_000_000},
                    }
                ]
            }
        ).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = server.post("/v2/models/identity/infer", head + bytes(9_000_000), headers)
        assert answer.status == 413, answer.error
