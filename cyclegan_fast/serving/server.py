"""A server's life: its socket, its loop, its signals, and an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from cyclegan_fast.errors import UserError
from cyclegan_fast.serving.app import build_app
from cyclegan_fast.serving.protocol import protocol_of
from cyclegan_fast.serving.service import Service

log = logging.getLogger(__name__)

_BACKLOG = 1024  # connections that wait to be accepted
_LINGER = 1.0  # seconds in which refusals and the last answers must go out


def bind(host: str, port: int) -> socket.socket:
    """Takes a port; 0 takes a free one.

    Raises:
        UserError: It is in use, or the address is not of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fix = "stop what uses it, or choose another --port (0 takes a free one)"
            raise UserError(f"port {port} of {host} is in use: {fix}") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UserError(f"port {port} needs rights that this user lacks: choose a --port from 1024 on") from error
        raise UserError(f"--host {host}: {error.strerror or error}; give an address of this machine") from error
    except OverflowError:
        raise UserError(f"--port must be from 0 to 65535, got {port}") from None
    # For its connections: asyncio sets it on sockets alone that it makes itself, and without it the body of an answer
    # waits 40 ms for the client to confirm the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def is_local(listener: socket.socket) -> bool:
    """Whether a socket is reached from this machine alone."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url_of(listener: socket.socket) -> str:
    """Where a socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would end the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        yield


async def serve(
    service: Service,
    listener: socket.socket,
    *,
    local: bool = True,
    stop: asyncio.Event | None = None,
    hurry: asyncio.Event | None = None,
    on_started: Callable[[], None] = lambda: None,
) -> bool:
    """Loads the engines and answers requests until SIGTERM or SIGINT, or until `stop` is set; then drains.

    SIGHUP loads the engines again. A second SIGTERM or SIGINT, or `hurry`, ends the server at once.

    Returns:
        Whether all requests that it had were answered, and the answers read; if not, engines may be computing still.

    Raises:
        UserError: An engine cannot be loaded.
    """
    stop, hurry = stop or asyncio.Event(), hurry or asyncio.Event()
    config = uvicorn.Config(
        build_app(service, local=local),
        http=protocol_of(service.limits.read_timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    server = _Server(config)
    with _signals(stop, hurry, service), contextlib.ExitStack() as stack:
        await service.load()
        stack.enter_context(_short_collections())
        running = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        on_started()
        await stop.wait()
        if service.requests:
            log.info("stopping: %d requests are answered first", service.requests)
        end = asyncio.get_running_loop().time() + service.limits.drain_timeout
        answered = await service.drain(hurry)
        server.should_exit = True
        cut = await _end(server, running, end, hurry) if answered else await _cut_off(server, running)
        if answered:
            await service.close()
    return answered and not cut


@contextlib.contextmanager
def _short_collections() -> Iterator[None]:
    """Keeps the garbage collector off what is there now: it would walk through all of torch, while answers wait."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _end(server: _Server, running: asyncio.Future[None], end: float, hurry: asyncio.Event) -> int:
    """Waits until all answers were read, or until `end` (by the loop's clock) or `hurry`.

    Returns:
        Connections that were closed before.
    """
    hurried = asyncio.ensure_future(hurry.wait())
    waits: set[asyncio.Future[Any]] = {running, hurried}
    seconds = max(_LINGER, end - asyncio.get_running_loop().time())
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    cut = await _cut_off(server, running)
    if cut:
        log.warning("%d connections are closed before their answers were read", cut)
    return cut


async def _cut_off(server: _Server, running: asyncio.Future[None]) -> int:
    """Ends the server, and closes the connections that it still has, whose number it returns."""
    server.force_exit = True
    await asyncio.wait({running}, timeout=_LINGER)
    left = list(server.server_state.connections)
    for connection in left:
        connection.transport.abort()
    await running  # from Python 3.12 on it waits for all connections
    return len(left)


@contextlib.contextmanager
def _signals(stop: asyncio.Event, hurry: asyncio.Event, service: Service) -> Iterator[None]:
    """Handles signals, where this is the main thread."""
    loop, reloads = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def end() -> None:
        (hurry if stop.is_set() else stop).set()

    def reload() -> None:
        task = loop.create_task(service.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    handlers = {signal.SIGTERM: end, signal.SIGINT: end}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = reload
    added = []
    try:
        for number, handler in handlers.items():
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not the main thread; Windows
                loop.add_signal_handler(number, handler)
                added.append(number)
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)
