"""What a server takes at a time, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a server; each engine has its own queue."""

    max_batch: int = 8
    """Images of one size that pass an engine at a time."""
    max_delay: float = 0.005
    """Seconds that an image waits at most for others to share its batch, while the engine is idle."""
    max_queue: int = 64
    """Images of an engine that are read, wait or are computed at a time; beyond, a request is answered by 429."""
    max_body: int = 32 * 2**20
    """Bytes of a request's body; beyond, 413."""
    max_pixels: int = 2**24
    """Of an image; beyond, 422. A batch holds no more, either, unless it is of one image."""
    max_memory: int = 2**30
    """Bytes of bodies and decoded images that are held at a time, of all engines; beyond, 429."""
    timeout: float = 60.0
    """Seconds from a request's last byte to its answer; beyond, 504."""
    read_timeout: float = 15.0
    """Seconds in which a request's head, and then its body, must come; beyond, the connection is closed, or 408."""
    drain_timeout: float = 30.0
    """Seconds after SIGTERM in which the requests that were admitted are answered, and the answers read."""
