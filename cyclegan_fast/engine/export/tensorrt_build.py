"""From an ONNX graph to a TensorRT plan: the engine that TensorRT builds for one GPU and one version of itself."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import torch

from cyclegan_fast.engine.backends.external_runtime import first_line
from cyclegan_fast.engine.engine import Shape, Shapes
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import user_cache, write_atomically

_RANGES = (1, 8, 32)  # images: the last of each profile, and the ones that it is made fastest for
_MOST_VALUES = 2**31 - 1  # of one map
_BORDER = 6  # pixels that the last convolution's input is wider and higher than the image
_WORKSPACE_SHARE = 0.5  # of the free memory, while building


def build_plan(content: bytes, shapes: Shapes, channels: int, device: torch.device) -> bytes:
    """Lets TensorRT choose its kernels for a graph; this takes minutes.

    Args:
        content: An ONNX file's bytes, whose types say what is computed in which precision.
        shapes: The batches that it shall serve. There is a profile for single images, for up to 8, up to 32 and more.
        channels: Of the images that it takes.
        device: The GPU that it is built for.

    Raises:
        UserError: TensorRT is missing, or it refuses the graph.
    """
    trt = import_tensorrt()
    log = make_log(trt)
    with torch.cuda.device(device):
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(content):
            said = [parser.get_error(i).desc() for i in range(parser.num_errors)]
            raise UserError(f"TensorRT {trt.__version__} does not take the graph: {'; '.join(said) or log.last}")
        config = builder.create_builder_config()
        workspace = int(torch.cuda.mem_get_info(device)[0] * _WORKSPACE_SHARE)  # bytes
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        for least, best, most in split_profiles(shapes):
            profile = builder.create_optimization_profile()
            ends = ((n, channels, height, width) for n, height, width in (least, best, most))
            profile.set_shape(network.get_input(0).name, *ends)
            config.add_optimization_profile(profile)
        place = _timing_cache(trt, device)
        cache = _recall(config, place)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise UserError(f"TensorRT {trt.__version__} could not build the engine: {log.last}")
        _keep(cache, place)
        return bytes(plan)


def check_size(shapes: Shapes, channels: int) -> None:
    """Refuses shapes that TensorRT's convolutions do not take.

    Args:
        shapes: The batches that an engine shall serve.
        channels: Of the generator's maps of full size, ngf.

    Raises:
        UserError: A map would have more values than 32 bits can count.
    """
    images, height, width = shapes.max
    values = images * channels * (height + _BORDER) * (width + _BORDER)
    if values > _MOST_VALUES:
        raise UserError(
            f"a batch of {'x'.join(map(str, shapes.max))} would have {values:,} values in one map, and TensorRT takes "
            f"{_MOST_VALUES:,}: ask for fewer images or smaller ones with --shapes"
        )


def split_profiles(shapes: Shapes) -> list[Shapes]:
    """One after the other: kernels that are best for 32 images are not for one.

    Example:
        1 to 64 images, at best 1, give 1; 2 to 8; 9 to 32; 33 to 64 images.
    """
    least, best, most = shapes
    profiles, low = [], least[0]
    for high in (*_RANGES, most[0]):
        high = min(high, most[0])
        if low <= high:
            images = best[0] if low <= best[0] <= high else high
            profiles.append(Shapes((low, *least[1:]), (images, *best[1:]), (high, *most[1:])))
            low = high + 1
    return profiles


def profile_of(batch: Shape, profiles: list[Shapes]) -> int:
    """The index of the profile that serves a batch of (images, height, width)."""
    for i, (least, _, most) in enumerate(profiles):
        if all(a <= side <= b for a, side, b in zip(least, batch, most, strict=True)):
            return i
    raise ValueError(f"no profile of {profiles} serves {batch}")


def import_tensorrt() -> Any:
    """The package.

    Raises:
        UserError: It is missing, or too old.
    """
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:  # OSError: the bindings are there, but not the libraries
        raise UserError(
            f"an .engine file needs TensorRT 10.16 or newer ({first_line(error)}): "
            "pip install 'cyclegan-fast[tensorrt]'"
        ) from error
    if tuple(int(part) for part in re.findall(r"\d+", trt.__version__)[:2]) < (10, 16):
        raise UserError(f"TensorRT {trt.__version__} is too old: pip install 'cyclegan-fast[tensorrt]'")
    return trt


def make_log(trt: Any) -> Any:
    """A logger that keeps TensorRT's last error for our sentence, and shows nothing itself."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        last = "it does not say why"

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = " ".join(message.split())

    return Log()


def _timing_cache(trt: Any, device: torch.device) -> Path:
    """Where the times are kept that TensorRT measured, so that the next build on this GPU is a short one."""
    gpu = re.sub(r"\W+", "_", torch.cuda.get_device_name(device))
    return user_cache() / "tensorrt" / f"{trt.__version__}_{gpu}.timings"


def _recall(config: Any, place: Path) -> Any:
    """The kept times, attached to a build; an empty cache where there are none, or TensorRT does not take them."""
    content = b""
    with contextlib.suppress(OSError):
        content = place.read_bytes()
    for some in (content, b""):
        cache = config.create_timing_cache(some)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _keep(cache: Any, place: Path) -> None:
    if cache is not None:
        with contextlib.suppress(UserError):  # the next build takes longer then: no reason to lose this one
            write_atomically(place, bytes(cache.serialize()))
