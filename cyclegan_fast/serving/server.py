"""A server's life: its socket, its loop, its signals, and an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from cyclegan_fast.errors import UserError
from cyclegan_fast.serving.app import build_app
from cyclegan_fast.serving.protocol import protocol_of
from cyclegan_fast.serving.service import Service

log = logging.getLogger(__name__)

_BACKLOG = 1024  # connections that wait to be accepted
_LOOPBACK = ("127.", "localhost", "::1")


def bind(host: str, port: int) -> socket.socket:
    """Takes a port; 0 takes a free one.

    Raises:
        UserError: It is in use, or the address is not of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fix = "stop what uses it, or choose another --port (0 takes a free one)"
            raise UserError(f"port {port} of {host} is in use: {fix}") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UserError(f"port {port} needs rights that this user lacks: choose a --port from 1024 on") from error
        raise UserError(f"--host {host}: {error.strerror or error}; give an address of this machine") from error
    except OverflowError:
        raise UserError(f"--port must be from 0 to 65535, got {port}") from None


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    return host.startswith(_LOOPBACK)


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
    on_started: Callable[[], None] = lambda: None,
) -> bool:
    """Loads the engines and answers requests until SIGTERM or SIGINT, or until `stop` is set; then drains.

    SIGHUP loads the engines again. A second SIGTERM or SIGINT ends the server at once.

    Returns:
        Whether all requests that it had were answered; if not, engines may be computing still.

    Raises:
        UserError: An engine cannot be loaded.
    """
    stop, hurry = stop or asyncio.Event(), asyncio.Event()
    config = uvicorn.Config(
        build_app(service, local=local),
        http=protocol_of(service.limits.read_timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(5, math.ceil(service.limits.drain_timeout)),  # for answers that are still read
    )
    server = _Server(config)
    with _signals(stop, hurry, service):
        await service.load()
        running = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        on_started()
        await stop.wait()
        if service.requests:
            log.info("stopping: %d requests are answered first", service.requests)
        answered = await service.drain(hurry)
        server.should_exit, server.force_exit = True, not answered
        await running
        if answered:
            await service.close()
    return answered


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
