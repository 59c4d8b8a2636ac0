"""python -m cyclegan_fast.serve: engines behind HTTP, with dynamic batching."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NoReturn

from cyclegan_fast.cli import EXIT_INTERRUPTED, run_command
from cyclegan_fast.errors import UserError

if TYPE_CHECKING:
    from cyclegan_fast.serving.limits import Limits

log = logging.getLogger(__name__)

_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    *,
    engine: tuple[str, ...],
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    backend: Literal["auto", "torch", "onnxruntime", "openvino", "aoti", "tensorrt"] = "auto",
    threads: int | None = None,
    max_batch: int = 8,
    max_delay_ms: float = 5.0,
    max_queue: int = 64,
    max_body_mb: float = 32.0,
    max_megapixels: float = 16.0,
    max_memory_mb: float = 1024.0,
    timeout: float = 60.0,
    read_timeout: float = 15.0,
    drain_timeout: float = 30.0,
    metadata: Literal["keep", "technical", "none"] = "technical",
    model_control: bool | None = None,
) -> int:
    """Serves trained generators over HTTP: a page for people, /translate for files, KServe's protocol for programs.

    For example:
        python -m cyclegan_fast.serve --engine runs/horse2zebra
        python -m cyclegan_fast.serve --engine zebras=horse2zebra.onnx --engine horses=runs/horse2zebra:BtoA --port 8080
        curl -F file=@horse.jpg http://127.0.0.1:8000/translate -o zebra.jpg

    Images that wait are put into batches. SIGTERM ends it in order: what was admitted is answered. SIGHUP loads the
    engines again, without a gap. Nothing here knows who asks: for others than this machine, put a proxy in front.

    Args:
        engine: What to serve, as PATH, NAME=PATH or NAME=PATH:BtoA, where PATH is what translate takes as --engine; as
            often as you like. A run's folder or a checkpoint holds both directions, so its results have faithfulness.
        host: Address to listen on; 0.0.0.0 is every one of this machine's.
        port: Port to listen on; 0 takes a free one.
        device: auto (CUDA where there is one), cpu, cuda or cuda:<index>.
        precision: fp32, bf16, or on CUDA fp16: by default fp32, or an engine file's own.
        backend: What runs the engines: by default torch for weights, onnxruntime for .onnx, aoti for .pt2, tensorrt for
            .engine.
        threads: CPU threads that a batch is computed on; with at most half of the cores, two batches are computed at a
            time.
        max_batch: Images of one size that pass an engine at a time.
        max_delay_ms: Milliseconds that an image waits for others that are on their way, while the engine is idle.
        max_queue: Images of an engine that are read, wait or are computed; further ones are answered by 429.
        max_body_mb: MiB of a request; larger ones are answered by 413.
        max_megapixels: Of an image; larger ones are answered by 422. At most 16.
        max_memory_mb: MiB of requests and decoded images that are held at a time; beyond, 429.
        timeout: Seconds after which a request that was read is answered by 504.
        read_timeout: Seconds in which a client must have sent its request.
        drain_timeout: Seconds after SIGTERM in which what was admitted is answered, and the answers are read.
        metadata: What results keep of an image's metadata: technical is the colour profile, resolution and
            georeference; keep is names, places and cameras, too; none is nothing.
        model_control: Whether requests may load and unload engines: by default where --host is this machine alone.

    Returns:
        Exit status: 0, or 130 if requests were left unanswered, or answers unread.
    """
    limits = _limits(
        max_batch,
        max_delay_ms,
        max_queue,
        max_body_mb,
        max_megapixels,
        max_memory_mb,
        timeout,
        read_timeout,
        drain_timeout,
    )
    _check_packages()
    from cyclegan_fast.images.metadata import MetadataRules
    from cyclegan_fast.serving.metrics import Metrics
    from cyclegan_fast.serving.models import build_models, read_source
    from cyclegan_fast.serving.server import bind, is_local, url_of
    from cyclegan_fast.serving.server import serve as run
    from cyclegan_fast.serving.service import Service

    metrics = Metrics()
    options = {"device": device, "precision": precision, "backend": backend, "threads": threads}
    sources = [read_source(word) for word in engine]
    models = build_models(sources, limits, metrics.observer_of, **options)
    with bind(host, port) as listener:
        local = is_local(listener)
        service = Service(
            models,
            limits,
            metrics,
            rules=MetadataRules(metadata),
            model_control=local if model_control is None else model_control,
        )
        if not local:
            log.warning("--host %s: everyone who reaches this machine can use the engines", host)
        announce = functools.partial(print, f"serving {', '.join(models)} on {url_of(listener)}", flush=True)
        answered = asyncio.run(run(service, listener, local=local, on_started=announce))
    if not answered:
        sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED)  # the interpreter would wait for the engines
    return 0


def _limits(
    max_batch: int,
    max_delay_ms: float,
    max_queue: int,
    max_body_mb: float,
    max_megapixels: float,
    max_memory_mb: float,
    timeout: float,
    read_timeout: float,
    drain_timeout: float,
) -> Limits:
    """The limits of a server from the flags.

    Raises:
        UserError: One is out of its range.
    """
    from cyclegan_fast.serving.limits import Limits

    ranges = {
        "--max-batch": (max_batch, 1, 1024),
        "--max-delay-ms": (max_delay_ms, 0, 10_000),
        "--max-queue": (max_queue, 1, 100_000),
        "--max-body-mb": (max_body_mb, 0.001, 1024),
        "--max-megapixels": (max_megapixels, 0.0001, 16),
        "--max-memory-mb": (max_memory_mb, 1, 2**20),
        "--timeout": (timeout, 0.01, 3600),
        "--read-timeout": (read_timeout, 0.01, 3600),
        "--drain-timeout": (drain_timeout, 0, 3600),
    }
    for flag, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise UserError(f"{flag} must be from {low:g} to {high:g}, got {value:g}")
    return Limits(
        max_batch=max_batch,
        max_delay=max_delay_ms / 1e3,
        max_queue=max_queue,
        max_body=int(max_body_mb * 2**20),
        max_pixels=int(max_megapixels * 2**20),
        max_memory=int(max_memory_mb * 2**20),
        timeout=timeout,
        read_timeout=read_timeout,
        drain_timeout=drain_timeout,
    )


def _check_packages() -> None:
    """Refuses to start without the packages of the extra.

    Raises:
        UserError: One is missing.
    """
    missing = [name.replace("_", "-") for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serving needs {', '.join(missing)}: pip install 'cyclegan-fast[serve]'")


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process. --model stands for --engine."""
    run_command(serve, words, aliases={"--model": "--engine"}, repeated=("engine",))


if __name__ == "__main__":
    main()
