"""HTTP connections of uvicorn that end where a client neither sends nor reads."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedProtocol(H11Protocol):
    """Closes a connection whose request head does not come within a time, or whose answer nobody reads."""

    seconds = 15.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock of the first head."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # whatever of an answer waits here has a clock
        self._head: asyncio.TimerHandle | None = None
        self._write: asyncio.TimerHandle | None = None
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Starts the clock of a head with its first byte, and stops it with its last."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops both clocks."""
        super().connection_lost(exc)
        self._stop("_head")
        self._stop("_write")

    def pause_writing(self) -> None:
        """Starts the clock of an answer that is not read."""
        super().pause_writing()
        if self._write is None:
            self._watch_write()

    def resume_writing(self) -> None:
        """Stops it."""
        super().resume_writing()
        self._stop("_write")

    def _watch_write(self, left: int | None = None) -> None:
        """Ends the connection unless something of the answer was read since `left` bytes of it were waiting."""
        waiting = self.transport.get_write_buffer_size()
        if left is not None and waiting >= left:
            self.transport.abort()
        else:
            self._write = self.loop.call_later(4 * self.seconds, self._watch_write, waiting)

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop("_head")
        elif self._head is None:
            self._head = self.loop.call_later(self.seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        timer = getattr(self, name, None)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)


def protocol_of(seconds: float) -> type[Any]:
    """The protocol with a time for each head."""
    return type("Protocol", (BoundedProtocol,), {"seconds": seconds})
