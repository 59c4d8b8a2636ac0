"""KServe's protocol, version 2, with its extensions for binary tensors and for the repository of models."""

from __future__ import annotations

from typing import Any

import torch
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from cyclegan_fast.documents import DocumentError, parse_json
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.convert import unpack
from cyclegan_fast.serving import tensors
from cyclegan_fast.serving.faults import RequestError
from cyclegan_fast.serving.models import VERSION, Loaded, Model
from cyclegan_fast.serving.service import Service
from cyclegan_fast.version import __version__

_MODEL = "/models/{name}"
_FLOAT = 4  # bytes of a decoded value
_NUMBER = 76  # bytes of a number of a JSON answer: in Python's list, in the text, and in its encoding (measured: 74)
_LONG = 2**14  # bytes of a body that names no images
_PARSED = 32  # times its own length that JSON takes while it is parsed: numbers 11, empty lists 32 (measured)


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v2", tags=["KServe"])
    _add_health(router, service)
    _add_models(router, service)
    _add_repository(router, service)
    return router


def _add_health(router: APIRouter, service: Service) -> None:
    @router.get("", summary="The server")
    async def server() -> dict[str, Any]:
        extensions = ["binary_tensor_data", "model_repository"]
        return {"name": "cyclegan_fast", "version": __version__, "extensions": extensions}

    @router.get("/health/live", summary="Whether the server runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="Whether it answers requests")
    async def ready() -> Response:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)


def _add_models(router: APIRouter, service: Service) -> None:
    @router.get(_MODEL, summary="What a model takes and returns")
    @router.get(_MODEL + "/versions/{version}", include_in_schema=False)
    async def metadata(name: str, version: str = VERSION) -> dict[str, Any]:
        with _model(service, name, version).admitted(0) as loaded:
            return tensors.model_metadata(name, VERSION, loaded.engine)

    @router.get(_MODEL + "/ready", summary="Whether a model answers requests")
    @router.get(_MODEL + "/versions/{version}/ready", include_in_schema=False)
    async def model_ready(name: str, version: str = VERSION) -> Response:
        is_ready = _model(service, name, version).loaded is not None and not service.draining
        return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    @router.post(_MODEL + "/infer", summary="Translate a tensor", response_class=Response)
    @router.post(_MODEL + "/versions/{version}/infer", include_in_schema=False, response_class=Response)
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        """`image`, [N, C, H, W] of FP32, FP16, FP64 (-1 to 1), UINT8 or UINT16, to `translated` of the same type."""
        model = _model(service, name, version)
        request.state.engine = model.name
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError(415, "compressed bodies are not taken: send it as it is")
        with service.answering(), model.admitted() as loaded, service.memory(service.body_size(request)):
            body = await request.body()
            return await service.answer(request, _infer(service, model, loaded, request, body))


async def _infer(service: Service, model: Model, loaded: Loaded, request: Request, body: bytes) -> Response:
    own = service.body_size(request)
    length = tensors.json_length(request.headers.get(tensors.HEADER_LENGTH), len(body))
    with service.memory(_PARSED * length, own=own):
        wanted = await service.in_thread(tensors.read_request, body, length)
    more = max(0, len(wanted.images) - 1) if wanted.images.dim() == 4 else 0
    model.check_place(loaded, more, admitted=1)  # before a million images of one pixel are taken apart
    with service.memory(_bytes_of(wanted.images, loaded, binary=wanted.binary_output), own=own):
        with loaded.batcher.expecting():
            planes, rebuild = await service.in_thread(_images, wanted.images, loaded, service.limits.max_pixels)
        with loaded.used(more):
            results = await loaded.batcher.translate(planes)
        content, headers = await service.in_thread(
            lambda: tensors.write_response(
                rebuild(results), name=model.name, version=VERSION, id=wanted.id, binary=wanted.binary_output
            )
        )
    return Response(content, headers=headers)


def _bytes_of(images: torch.Tensor, loaded: Loaded, *, binary: bool) -> int:
    """What a request takes beside its body: its images and the results in float32, and the numbers of a JSON answer."""
    engine = loaded.engine
    results = images.numel() * engine.out_channels // engine.in_channels
    return _FLOAT * (images.numel() + results) + (0 if binary else _NUMBER * results)


def _images(images: torch.Tensor, loaded: Loaded, max_pixels: int) -> Any:
    """Takes a batch apart, as `infer` does, and checks that the engine takes its images.

    Raises:
        UserError: It does not.
    """
    if images.dim() != 4:
        raise UserError(f"{tensors.INPUT} is [images, channels, height, width], got the shape {list(images.shape)}")
    engine, (height, width) = loaded.engine, images.shape[2:]
    if height * width > max_pixels:
        raise UserError(
            f"images of {width}x{height} pixels, and this server takes at most {max_pixels:,} pixels: reduce them"
        )
    planes = unpack(images, engine.in_format, engine.out_format)
    if len(images):
        engine.limits.check((engine.limits.min_batch, *engine.limits.fitting_size(height, width)), engine.name)
    return planes


def _add_repository(router: APIRouter, service: Service) -> None:
    @router.post("/repository/index", summary="All models and their states, or with ready: true those that answer")
    async def index(request: Request) -> list[dict[str, str]]:
        models = list(service.models.values())
        if (await _document(request)).get("ready") is True:
            models = [model for model in models if model.loaded is not None]
        return [
            {"name": model.name, "version": VERSION, "state": "UNAVAILABLE", "reason": model.reason}
            if model.loaded is None
            else {"name": model.name, "version": VERSION, "state": "READY", "reason": ""}
            for model in models
        ]

    @router.post("/repository/models/{name}/load", summary="Load a model, again if it is loaded")
    async def load(request: Request, name: str) -> dict[str, Any]:
        """The old engine answers until the new one is warm; where that cannot be loaded, it stays."""
        model = _controlled(service, name)
        if given := (await _document(request)).get("parameters"):
            names = ", ".join(map(str, given))[:100] if isinstance(given, dict) else "parameters"
            raise RequestError(400, f"a model is loaded from where it was started, without parameters; got {names}")
        await model.load()
        return {}

    @router.post("/repository/models/{name}/unload", summary="Unload a model")
    async def unload(name: str) -> dict[str, Any]:
        """Requests that it has are answered first."""
        await _controlled(service, name).unload()
        return {}


async def _document(request: Request) -> dict[str, Any]:
    """The JSON object of a request about the repository; that of an empty body is empty.

    Raises:
        RequestError: It is none, or long.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONG:
            raise RequestError(413, f"the body has more than {_LONG} bytes: a request of this kind has few")
    try:
        document = parse_json(body) if body.strip() else {}
    except DocumentError as error:
        raise RequestError(400, f"the body is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise RequestError(400, "the body must be a JSON object")
    return document


def _model(service: Service, name: str, version: str) -> Model:
    if version != VERSION:
        raise RequestError(404, f"the engine {name[:64]!r} has the version {VERSION} alone")
    return service.model(name)


def _controlled(service: Service, name: str) -> Model:
    if not service.model_control:
        raise RequestError(403, "this server loads and unloads nothing on request: start it with --model-control")
    return service.model(name)
