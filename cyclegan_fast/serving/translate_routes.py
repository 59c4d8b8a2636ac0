"""Uploaded image files: POST /translate, POST /faithfulness, and which engines there are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import JSONResponse, Response

from cyclegan_fast.images.in_memory import EncodedImage
from cyclegan_fast.serving.faithfulness import as_function, report
from cyclegan_fast.serving.faults import RequestError
from cyclegan_fast.serving.models import Loaded
from cyclegan_fast.serving.service import Service
from cyclegan_fast.serving.uploads import MEDIA_TYPES, Format, Upload, decode, encode, read_header

_FLOAT = 4  # bytes of a decoded value
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "An image file, as it is, or as the field `file` of a form.",
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": _IMAGE["schema"]}}
            },
            **dict.fromkeys(("image/png", "image/jpeg", "image/tiff", "image/webp"), _IMAGE),
        },
    }
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"description": "No engine of that name"},
    408: {"description": "The body came too slowly"},
    413: {"description": "The body is too large"},
    422: {"description": "Not an image, or one that the engine cannot take"},
    429: {"description": "The queue is full: try again after Retry-After seconds"},
    503: {"description": "The server shuts down, or the engine is not loaded"},
    504: {"description": "No answer in time"},
}


class _Parser(MultiPartParser):
    """Keeps uploads in memory, which is bounded by the limit of the body, and writes no file."""

    spool_max_size = 2**62


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["images"])

    @router.post(
        "/translate",
        summary="Translate an image",
        openapi_extra=_BODY,
        responses={200: {"content": dict.fromkeys(MEDIA_TYPES.values(), _IMAGE)}, **_ERRORS},
        response_class=Response,
    )
    async def translate(request: Request, engine: str | None = None, format: Format | None = None) -> Response:
        """Translates an image file; the answer is a file of the same kind, or of `format`, with as many bits.

        Size, bit depth and colour profile stay; what the file says about places, people and cameras is left out.
        """

        async def work(loaded: Loaded, upload: Upload) -> Response:
            start = time.perf_counter()
            (output,) = await loaded.batcher.translate([upload.image.values])
            seconds = time.perf_counter() - start
            pixels = output.shape[-2] * output.shape[-1]
            content, media_type = await service.in_thread(
                encode, upload, output, loaded.engine, format, service.rules, pixels=pixels
            )
            timing = {"Server-Timing": f'engine;desc="queue and engine";dur={1e3 * seconds:.1f}'}
            return Response(content, media_type=media_type, headers=timing)

        return await _with_upload(service, request, engine, work)

    @router.post(
        "/faithfulness",
        summary="How far the translation of an image can be trusted",
        openapi_extra=_BODY,
        responses={**_ERRORS, 409: {"description": "The engine has no inverse"}},
    )
    async def faithfulness(request: Request, engine: str | None = None) -> Response:
        """Translates an image, back, and again: `scores` and `maps` (docs/faithfulness.md), PNGs as data URLs."""

        async def work(loaded: Loaded, upload: Upload) -> Response:
            if loaded.inverse is None:
                raise RequestError(409, "this engine has no inverse: serve a run's folder, which holds both generators")
            (output,) = await loaded.batcher.translate([upload.image.values])
            loop = asyncio.get_running_loop()
            generator, inverse = as_function(loaded.batcher, loop), as_function(loaded.inverse, loop)
            found = await service.in_measuring_thread(report, upload.image.values, output, generator, inverse)
            return JSONResponse(found)

        return await _with_upload(service, request, engine, work)

    @router.get("/engines", summary="The engines of this server")
    async def engines() -> dict[str, Any]:
        """Their names, what they translate, and whether their translations can be measured; and the limits."""
        return {"engines": [_about(model.name, model.loaded) for model in service.models.values()]} | {
            "max_bytes": service.limits.max_body,
            "max_pixels": service.limits.max_pixels,
        }

    return router


Work = Callable[[Loaded, Upload], Coroutine[Any, Any, Response]]


async def _with_upload(service: Service, request: Request, name: str | None, work: Work) -> Response:
    """Reads the image of a request and does the work, within all limits.

    Raises:
        RequestError: One of them is reached.
        UserError: The image cannot be used.
    """
    model = service.model(name)
    request.state.engine = model.name
    with service.answering(), model.admitted() as loaded, service.memory(service.body_size(request)):
        source = await _uploaded(request)

        async def all_of_it() -> Response:
            header = read_header(source, service.limits.max_pixels)  # quick: a thread would take longer to answer
            size = header.pixels * _FLOAT * (loaded.engine.in_channels + loaded.engine.out_channels)
            with service.memory(size, own=service.body_size(request)):
                with loaded.batcher.expecting():
                    upload = await service.in_thread(decode, source, header, loaded.engine, pixels=header.pixels)
                return await work(loaded, upload)

        return await service.answer(request, all_of_it())


async def _uploaded(request: Request) -> EncodedImage:
    """The image file of a request: its body, or the first file of its form. Its name is not used."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return EncodedImage("the image", content=await request.body())
    try:
        form = await _Parser(request.headers, request.stream(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise RequestError(400, f"the form cannot be read: {error.message}") from error
    except KeyError as error:  # there is no boundary
        raise RequestError(400, "the form cannot be read: its Content-Type names no boundary") from error
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    if not files:
        raise RequestError(422, "the form holds no file: send the image as the field file, as curl -F file=@IMAGE does")
    return EncodedImage("the image", content=await files[0].read())


def _about(name: str, loaded: Loaded | None) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "ready": loaded is not None}
    if loaded is not None:
        engine = loaded.engine
        about |= {
            "direction": engine.direction,
            "device": engine.device,
            "precision": engine.precision,
            "channels": [engine.in_channels, engine.out_channels],
            "faithfulness": loaded.inverse is not None,
        }
    return about
