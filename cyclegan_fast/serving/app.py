"""The FastAPI application: every route, and what becomes of a request that fails."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cyclegan_fast.errors import UserError
from cyclegan_fast.serving import kserve_routes, pages, translate_routes
from cyclegan_fast.serving.faults import RequestError
from cyclegan_fast.serving.guard import Guard
from cyclegan_fast.serving.service import Service
from cyclegan_fast.version import __version__

log = logging.getLogger(__name__)

_DESCRIPTION = 'Translates images with trained CycleGAN generators. Errors are JSON: {"error": "one sentence"}.'


def build_app(service: Service, *, local: bool = True) -> FastAPI:
    """The application of a service.

    Args:
        service: What answers.
        local: Whether requests for other host names than this machine's are refused.
    """
    app = FastAPI(title="cyclegan_fast", version=__version__, description=_DESCRIPTION, docs_url=None, redoc_url=None)
    for part in (translate_routes, kserve_routes, pages):
        app.include_router(part.routes(service))
    for kind, handle in _HANDLERS.items():
        app.add_exception_handler(kind, handle)
    app.add_middleware(
        Guard,  # type: ignore[arg-type]
        limits=service.limits,
        metrics=service.metrics,
        draining=lambda: service.draining,
        local=local,
    )
    return app


def _answer(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


async def _on_fault(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _answer(error.status, error.message, error.headers)


async def _on_user_error(_: Request, error: Exception) -> Response:
    return _answer(422, str(error))


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return _answer(422, f"{where}: {first['msg']}")


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(error.status_code, str(error.detail), dict(error.headers or {}))


async def _on_bug(_: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return _answer(500, "the server failed, and its log says how")


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    RequestError: _on_fault,
    UserError: _on_user_error,
    RequestValidationError: _on_validation_error,
    HTTPException: _on_http_exception,
    Exception: _on_bug,
}
