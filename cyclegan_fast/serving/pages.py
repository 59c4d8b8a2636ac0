"""The page for people, the description of the routes, and the metrics."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from cyclegan_fast.serving.metrics import CONTENT_TYPE
from cyclegan_fast.serving.service import Service

# Nothing from elsewhere, and no script or style but the files below.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = {
    "/": ("index.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/slider.js": ("slider.js", "text/javascript"),
    "/docs.js": ("docs.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter()
    for path, (name, media_type) in _FILES.items():
        _add_file(router, path, (files("cyclegan_fast.serving") / "page" / name).read_bytes(), media_type)

    @router.get("/metrics", tags=["operation"], summary="For Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return router


def _add_file(router: APIRouter, path: str, content: bytes, media_type: str) -> None:
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}

    @router.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=media_type, headers=headers)
