"""Clients that read their answer slowly, or not at all: while the server runs, and while it ends."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("fastapi")

from cyclegan_fast.serving import server as server_module
from cyclegan_fast.serving.limits import Limits
from cyclegan_fast.serving.protocol import protocol_of
from tests.engine.identity import Identity
from tests.serving.running import Answer, Running, pixels_of, png, running

SCALE = 4


@contextlib.contextmanager
def asked(server: Running, side: int) -> Iterator[socket.socket]:
    """A connection whose answer, a TIFF, is computed, and lies with the server but for a few kilobytes."""
    body = png(pixels_of(0, side, side))
    head = f"POST /translate?format=tiff HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    before, parts = answered(server), urlsplit(server.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect((parts.hostname, parts.port))
        connection.sendall(head.encode() + body)
        while answered(server) == before:
            time.sleep(0.01)
        yield connection


def answered(server: Running) -> float:
    """Images that the server has translated, by its own count."""
    count = rb'^cyclegan_requests_total\{endpoint="/translate",engine="identity",status="200"\} (\S+)$'
    return sum(map(float, re.findall(count, server.get("/metrics").body, re.MULTILINE)))


def read(connection: socket.socket) -> Answer:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return Answer(response.status, response.headers, response.read())


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's kernel takes a few kilobytes of an answer; the rest waits in the server."""
    bind = server_module.bind

    def small(host: str, port: int) -> socket.socket:
        listener = bind(host, port)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # which its connections inherit
        return listener

    monkeypatch.setattr("tests.serving.running.bind", small)


def test_answers_that_nobody_reads_are_dropped(small_buffers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones, and such as asyncio would hold without asking anybody to pause."""
    monkeypatch.setattr(server_module, "protocol_of", lambda _: protocol_of(0.3))  # 1.2 s in which nothing is read
    with (
        running({"identity": Identity(scale=SCALE)}) as server,
        asked(server, 600) as large,
        asked(server, 30) as small,
    ):
        time.sleep(5.0)  # in the first 1.2 s the client's own buffer fills; nothing tells it that the server has left
        for connection in (large, small):
            with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
                read(connection)


def test_a_slow_reader_gets_its_whole_answer(small_buffers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than a client may read nothing."""
    monkeypatch.setattr(server_module, "protocol_of", lambda _: protocol_of(0.5))  # 2 s
    with running({"identity": Identity(scale=SCALE)}) as server, asked(server, 60) as connection:
        content, start = bytearray(), time.monotonic()
        while time.monotonic() < start + 3.0:
            time.sleep(0.05)
            content += connection.recv(1024)
        head, _, body = bytes(content).partition(b"\r\n\r\n")
        (length,) = re.findall(rb"content-length: (\d+)", head.lower())
        left = int(length) - len(body)
        assert left > 64 * 1024, "it was no slow reader"
        while chunk := connection.recv(min(left, 2**16)) if left else b"":
            body, left = body + chunk, left - len(chunk)
    answer = Answer(200, {}, body)
    assert np.array_equal(answer.pixels, pixels_of(0, 60, 60).repeat(SCALE, 0).repeat(SCALE, 1))


def test_a_server_that_stops_waits_for_readers(small_buffers: None) -> None:
    with running({"identity": Identity(scale=SCALE)}) as server, asked(server, 60) as connection:
        server.begin_to_stop()
        parts = urlsplit(server.url)
        with pytest.raises(ConnectionRefusedError):  # it listens no more
            while True:
                socket.create_connection((parts.hostname, parts.port)).close()
                time.sleep(0.01)
        answer = read(connection)
        assert np.array_equal(answer.pixels, pixels_of(0, 60, 60).repeat(SCALE, 0).repeat(SCALE, 1))
        assert server.stop()


@pytest.mark.parametrize("hurry", [False, True], ids=["until the time is over", "until the second signal"])
def test_a_server_that_stops_waits_no_longer_for_readers(small_buffers: None, hurry: bool, caplog) -> None:
    limits = Limits(drain_timeout=3600 if hurry else 0)
    with running({"identity": Identity(scale=SCALE)}, limits) as server, asked(server, 60) as connection:
        server.begin_to_stop()
        if hurry:
            server.hurry()
        assert not server.stop()
        assert "1 connections are closed before their answers were read" in caplog.text
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            read(connection)
