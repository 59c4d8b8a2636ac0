"""Why a request is refused: the HTTP status, and one sentence."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is answered by a status and a sentence.

    Args:
        status: Of HTTP.
        message: What is wrong, and how to fix it.
        retry_after: Seconds after which the same request may succeed; 0 where it will not.
    """

    def __init__(self, status: int, message: str, *, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with the status."""
        return {"Retry-After": str(self.retry_after)} if self.retry_after else {}


def shutting_down() -> RequestError:
    """The fault of a request that comes after SIGTERM."""
    return RequestError(503, "the server is shutting down: ask another one, or this one in a moment", retry_after=5)
