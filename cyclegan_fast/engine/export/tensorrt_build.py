"""From an ONNX graph to a TensorRT plan: the engine that TensorRT builds for one GPU and one version of itself."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import torch

from cyclegan_fast.engine.backends.tensorrt_api import STANDARD, Flavour, import_tensorrt, make_log
from cyclegan_fast.engine.shapes import Shapes
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import user_cache, write_atomically

_RANGES = (1, 8, 32)  # images: the largest batch of each profile, for which it is optimised
_MAX_VALUES = 2**31 - 1  # of the activations of one layer
_BORDER = 6  # pixels that the last convolution's input is wider and higher than the image
_WORKSPACE_SHARE = 0.5  # of the free memory, while building


def build_plan(content: bytes, shapes: Shapes, channels: int, device: torch.device) -> bytes:
    """Lets TensorRT choose its kernels for a graph; this takes minutes.

    Args:
        content: An ONNX file's bytes, whose types define the precision of each layer.
        shapes: The batches that it shall serve. There is a profile for single images, for up to 8, up to 32 and more.
        channels: Of the input images.
        device: The GPU that it is built for.

    Raises:
        UserError: TensorRT is missing, or it refuses the graph.
    """
    trt = import_tensorrt()
    log = make_log(trt)
    with torch.cuda.device(device):
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parse(trt, network, content, log)
        config = builder.create_builder_config()
        workspace = int(torch.cuda.mem_get_info(device)[0] * _WORKSPACE_SHARE)  # bytes
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        add_profiles(builder, config, network, shapes, channels)
        timing_file = _timing_file(trt, device)
        timings = _load_timings(config, timing_file)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise UserError(f"TensorRT {trt.__version__} could not build the engine: {log.last}")
        _save_timings(timings, timing_file)
        return bytes(plan)


def parse(trt: Any, network: Any, content: bytes, log: Any, flavour: Flavour = STANDARD) -> None:
    """Fills an empty network with an ONNX graph.

    Raises:
        UserError: The parser refuses it.
    """
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise UserError(f"{flavour.title} {trt.__version__} does not take the graph: {'; '.join(errors) or log.last}")


def add_profiles(builder: Any, config: Any, network: Any, shapes: Shapes, channels: int) -> None:
    """Adds the profiles of `split_profiles` to a build."""
    for served in split_profiles(shapes):
        profile = builder.create_optimization_profile()
        sizes = ((n, channels, height, width) for n, height, width in served)
        profile.set_shape(network.get_input(0).name, *sizes)
        config.add_optimization_profile(profile)


def check_size(shapes: Shapes, channels: int) -> None:
    """Refuses shapes that TensorRT's convolutions do not take.

    Args:
        shapes: The batches that an engine shall serve.
        channels: Of the generator's activations at full size, ngf.

    Raises:
        UserError: The activations would have more values than 32 bits can count.
    """
    images, height, width = shapes.max
    values = images * channels * (height + _BORDER) * (width + _BORDER)
    if values > _MAX_VALUES:
        raise UserError(
            f"a batch of {'x'.join(map(str, shapes.max))} would have {values:,} values in one layer's activations, "
            f"and TensorRT takes {_MAX_VALUES:,}: choose shapes of fewer or smaller images"
        )


def split_profiles(shapes: Shapes) -> list[Shapes]:
    """One after the other: kernels that are best for 32 images are not for one.

    Example:
        1 to 64 images, at best 1, give 1; 2 to 8; 9 to 32; 33 to 64 images.
    """
    smallest, best, largest = shapes
    profiles, low = [], smallest[0]
    for high in (*_RANGES, largest[0]):
        high = min(high, largest[0])
        if low <= high:
            images = best[0] if low <= best[0] <= high else high
            profiles.append(Shapes((low, *smallest[1:]), (images, *best[1:]), (high, *largest[1:])))
            low = high + 1
    return profiles


def _timing_file(trt: Any, device: torch.device) -> Path | None:
    """The cache of the times that TensorRT measured, which makes the next build on this GPU a short one."""
    folder, gpu = user_cache(), re.sub(r"\W+", "_", torch.cuda.get_device_name(device))
    return None if folder is None else folder / "tensorrt" / f"{trt.__version__}_{gpu}.timings"


def _load_timings(config: Any, file: Path | None) -> Any:
    """The cached times, attached to a build; none where there are none, or TensorRT does not take them."""
    content = b""
    with contextlib.suppress(OSError):
        content = b"" if file is None else file.read_bytes()
    for some in (content, b""):
        timings = config.create_timing_cache(some)
        if timings is not None and config.set_timing_cache(timings, ignore_mismatch=False):
            return timings
    return None


def _save_timings(timings: Any, file: Path | None) -> None:
    if timings is not None and file is not None:
        with contextlib.suppress(UserError):  # the next build takes longer then: no reason to lose this one
            write_atomically(file, bytes(timings.serialize()))
