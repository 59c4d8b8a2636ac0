"""What holds for every request, before any handler sees it: where it comes from, how large it is, how slow.

A pure ASGI layer: it counts the bytes of the body as they come, and refuses what other web pages send.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from cyclegan_fast.serving.faults import RequestError, shutting_down
from cyclegan_fast.serving.limits import Limits
from cyclegan_fast.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LINGER = 1.0  # seconds in which what a refused client still sends is thrown away, so that it reads why
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_ALWAYS = ("/v2/health/", "/metrics")  # which a server that shuts down still answers
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """An ASGI application around another one.

    Args:
        app: The other one.
        limits: Of the body.
        metrics: Which count every request.
        draining: Whether the server shuts down.
        local: Whether it is bound to this machine alone: then no other host name is answered.
    """

    def __init__(
        self, app: App, *, limits: Limits, metrics: Metrics, draining: Callable[[], bool], local: bool
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._draining, self._local = draining, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        headers, start = _headers(scope), time.perf_counter()
        body = _Body(receive, self._limits, headers)
        answer = _Answer(send, body)
        try:
            await self._answer(scope, body, answer)
        finally:
            route, engine = getattr(scope.get("route"), "path", "unknown"), scope["state"].get("engine", "")
            self._metrics.count(engine, route, answer.status or 500, time.perf_counter() - start)

    async def _answer(self, scope: Scope, body: _Body, answer: _Answer) -> None:
        try:
            self._check(scope)
            body.check_length()
        except RequestError as fault:
            await refuse(answer.send, fault)
            return
        await self._app(scope, body.receive, answer.send)

    def _check(self, scope: Scope) -> None:
        """Refuses what comes after SIGTERM, for another host, or from the page of another site."""
        if self._draining() and not scope["path"].startswith(_ALWAYS):
            raise shutting_down()
        headers = _headers(scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name, other = urlsplit(f"//{host}").hostname, None if origin is None else urlsplit(origin).netloc
        except ValueError:
            raise RequestError(400, "the Host or the Origin of the request is no address") from None
        if self._local and host and name not in {*_LOOPBACK, *(scope.get("server") or ())[:1]}:
            raise RequestError(403, "this server is for this machine alone: ask for 127.0.0.1, or start it with --host")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and other != host:
            raise RequestError(403, "a page of another site may not use this server")


class _Body:
    """The body of a request as it comes."""

    def __init__(self, receive: Receive, limits: Limits, headers: Mapping[str, str]) -> None:
        self._receive, self._limits = receive, limits
        self._declared = headers.get("content-length", "0")
        self._bytes, self.complete = 0, self._declared == "0" and "transfer-encoding" not in headers
        self._end: float | None = None

    def check_length(self) -> None:
        """Refuses a body that is declared too large."""
        if self._declared.isdecimal() and int(self._declared[:20]) > self._limits.max_body:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next part of it.

        Raises:
            RequestError: It is too large, or comes too slowly.
        """
        if self.complete:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._end is None:
            self._end = loop.time() + self._limits.read_timeout
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(408, f"the body did not come within {self._limits.read_timeout:g} s") from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self._bytes > self._limits.max_body:
                raise self._too_large()
        else:
            self.complete = True  # the client has gone
        return message

    async def drain(self) -> None:
        """Throws away what still comes, for a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while not self.complete:
                    message = await self._receive()
                    self.complete = not message.get("more_body", False)

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body is larger than {self._limits.max_body / 2**20:g} MiB: send a smaller image")


class _Answer:
    """The response as it goes: with the headers of every response, and kept open for a client that still sends."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send, self._body = send, body
        self.status = 0

    async def send(self, message: Message) -> None:
        """Sends a part of it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), *_HEADERS]
            if not self._body.complete:
                message["headers"].append((b"connection", b"close"))
        elif not self._body.complete and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._body.drain()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)


async def refuse(send: Send, fault: RequestError) -> None:
    """Sends the response of a fault, in the form of the protocol."""
    content = json.dumps({"error": fault.message}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **fault.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(fault.status), "headers": encoded})
    await send({"type": "http.response.body", "body": content})


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
