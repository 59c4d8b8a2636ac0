"""NVIDIA DALI's part of the loader "dali": the package, the pipeline, and the images as they go into it."""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from cyclegan_fast.data.loaders.samples import Domain
from cyclegan_fast.data.transforms import Size
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile

QUEUE_DEPTH = 3  # batches inside DALI: one is used, two are ready or in the making

Inputs = tuple[Any, ...]  # of one batch: see `as_inputs`, for A and then for B

# A process that is forked while a pipeline lives has the pipeline without its threads, and would wait for them for ever
# when it drops it. So it never does.
_pipelines: weakref.WeakSet[Any] = weakref.WeakSet()
_parents_pipelines: list[Any] = []
os.register_at_fork(after_in_child=lambda: _parents_pipelines.extend(_pipelines))


@dataclass(frozen=True)
class DaliImage:
    """One image on its way through DALI."""

    file: ImageFile
    content: bytes
    """The file, or the decoded pixels as a PPM."""
    part: tuple[int, int, int]
    """Of the upright image, what is used: its left column, its width and height."""
    size: Size
    """Width and height that it is to be resized to."""
    undecoded: bool
    """Whether `content` is the file."""


class DaliError(Exception):
    """DALI's pipeline has broken; the text is DALI's reason."""


def as_inputs(images: Sequence[DaliImage]) -> Inputs:
    """Returns what DALI gets of one side: bytes; top and left, height and width of the part; the size to come."""
    content = [np.frombuffer(image.content, np.uint8) for image in images]
    start = np.array([(0, left) for left, _, _ in (image.part for image in images)], np.int32)  # [N, 2]
    shape = np.array([(height, width) for _, width, height in (image.part for image in images)], np.int32)  # [N, 2]
    size = np.array([(height, width) for width, height in (image.size for image in images)], np.float32)  # [N, 2]
    return content, start, shape, size


def build_pipeline(
    domains: Sequence[Domain], feed: Callable[[], Inputs], *, batch_size: int, threads: int, device: torch.device
) -> Any:
    """Builds a pipeline with two outputs, the images of A and of B: decoded, upright and resized.

    Args:
        domains: A and B, which say how many channels are wanted.
        feed: Called for the inputs of each batch; StopIteration ends the pipeline.
        batch_size: Images of each domain per batch.
        threads: DALI's own.
        device: A CUDA device decodes on the GPU.
    """
    from nvidia.dali import Pipeline, fn, types

    device_id = None
    if device.type == "cuda":
        device_id = torch.cuda.current_device() if device.index is None else device.index
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=QUEUE_DEPTH,
        exec_dynamic=True,  # its outputs own their memory, and are handed over on a stream
    )
    with pipeline:
        inputs = fn.external_source(
            source=feed,
            num_outputs=8,
            ndim=1,
            dtype=[types.UINT8, types.INT32, types.INT32, types.FLOAT] * 2,
        )
        outputs = []
        for (content, start, shape, size), domain in zip((inputs[:4], inputs[4:]), domains, strict=True):
            images = fn.decoders.image(
                content,
                device="cpu" if device_id is None else "mixed",
                output_type=types.GRAY if domain.pixel_format.channels == 1 else types.RGB,
                adjust_orientation=True,
                jpeg_fancy_upsampling=True,  # of the colours, as libjpeg does it
                hw_decoder_load=0.0,  # or a share of a batch would come from another decoder, with other pixels
            )
            images = fn.slice(images, start=start, shape=shape, axes=(0, 1))
            # Catmull-Rom, widened where it makes smaller: what Pillow's bicubic does. The same size stays as it is.
            outputs.append(fn.resize(images, size=size, interp_type=types.INTERP_CUBIC, antialias=True))
        pipeline.set_outputs(*outputs)
    pipeline.build()
    _pipelines.add(pipeline)
    return pipeline


def decodes(image: DaliImage, domains: Sequence[Domain], threads: int, device: torch.device) -> bool:
    """Whether DALI decodes the image by itself."""
    alone = iter([as_inputs((replace(image, size=(8, 8)),)) * 2])  # a size that always finds memory
    try:
        pipeline = build_pipeline(domains, lambda: next(alone), batch_size=1, threads=threads, device=device)
        pipeline.schedule_run()
        pipeline.outputs()
    except (RuntimeError, MemoryError):
        return False
    return True


def one_line(error: Exception) -> str:
    """Returns DALI's message in one line and without its own tracebacks."""
    text = str(error).rsplit("encountered:", maxsplit=1)[-1]
    text = re.sub(r"Current pipeline object is no longer valid\.|Critical error in pipeline:|\[/[^\]]*\]", " ", text)
    return " ".join(text.split()).rstrip(" .:") or type(error).__name__


def why_not_installed() -> str | None:
    """Returns why DALI cannot be used here, and which package goes with this torch; None if it is installed."""
    try:
        if find_spec("nvidia.dali") is not None:
            return None
    except ModuleNotFoundError:  # there is no "nvidia" at all
        pass
    if (torch.version.cuda or "13").startswith("12."):
        fix = "pip install 'cyclegan-fast[dali-cuda120]' brings nvidia-dali-cuda120, for a torch of CUDA 12"
    else:
        fix = "pip install 'cyclegan-fast[dali]' brings nvidia-dali-cuda130, for a torch of CUDA 13 or of none"
    return f"NVIDIA DALI is missing ({fix})"


def load(fix: str) -> None:
    """Imports DALI, which takes a second.

    Raises:
        UserError: It is installed and does not load; ends with `fix`.
    """
    try:
        import_module("nvidia.dali.fn")
    except (ImportError, OSError) as error:
        raise UserError(f"NVIDIA DALI does not load ({one_line(error)}); {fix}") from error
