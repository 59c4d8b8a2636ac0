"""From an ONNX graph to a plan of TensorRT for RTX: for named compute capabilities, on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cyclegan_fast.engine.backends.tensorrt_api import RTX, import_tensorrt, make_log
from cyclegan_fast.engine.backends.tensorrt_rtx import supported_capabilities
from cyclegan_fast.engine.export.tensorrt_build import add_profiles, parse
from cyclegan_fast.engine.info import Precision
from cyclegan_fast.engine.metadata import Metadata
from cyclegan_fast.engine.shapes import Shapes
from cyclegan_fast.errors import UserError

_DEFAULT_OLDEST = (8, 0)  # a plan that serves Turing as well is larger and slower everywhere
# That convolve in this type; int8 is built for 7.5, too, but convolves in float32 then.
_OLDEST = {"bf16": (8, 0), "int8": (8, 0), "fp8": (8, 9)}


def choose_capabilities(precision: Precision, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The compute capabilities that a plan is built for.

    Args:
        precision: What its convolutions compute in.
        wanted: Such as 8.6 and 12.0; by default all from 8.0 on that compute in this precision.

    Raises:
        UserError: TensorRT for RTX is missing or does not build for one of them, or one does not compute in it.
    """
    trt = import_tensorrt(RTX)
    supported = supported_capabilities(trt)
    oldest = _OLDEST.get(precision, (0, 0))
    if wanted is None:
        return tuple(name for name in supported if _number(name) >= max(oldest, _DEFAULT_OLDEST))
    if not wanted or (unknown := [name for name in wanted if name not in supported]):
        what = f"compute capability {unknown[0]}" if wanted else "no compute capability"
        raise UserError(
            f"{RTX.title} {trt.__version__} builds for compute capability {', '.join(supported)}, not for {what}: "
            "choose from these, or take TensorRT, which builds on the GPU itself"
        )
    if lacking := [name for name in supported if name in wanted and _number(name) < oldest]:
        raise UserError(
            f"GPUs of compute capability {', '.join(lacking)} do not compute in {precision}, which needs "
            f"{oldest[0]}.{oldest[1]} or newer: leave them out, or choose another precision"
        )
    return tuple(name for name in supported if name in wanted)


def build_rtx_plan(
    content: bytes, shapes: Shapes, channels: int, capabilities: Sequence[str], *, inspect: bool = False
) -> tuple[bytes, str]:
    """Compiles a graph ahead of time, in seconds: no kernel is tried, since the GPU need not be there.

    Args:
        content: An ONNX file's bytes, whose types define the precision of each layer.
        shapes: The batches that it shall serve; for the profiles see `split_profiles`.
        channels: Of the input images.
        capabilities: As `choose_capabilities` returns them.
        inspect: Whether the compiled layers are reported; the plan then holds their names, too.

    Returns:
        The plan, and the report for `read_layers`, empty without `inspect`.

    Raises:
        UserError: TensorRT for RTX is missing, or it refuses the graph.
    """
    trt = import_tensorrt(RTX)
    log = make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(trt, network, content, log, RTX)
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # what runs in a CUDA graph may not allocate
    if inspect:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_capabilities(trt, config, capabilities)
    add_profiles(builder, config, network, shapes, channels)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UserError(f"{RTX.title} {trt.__version__} could not build the engine: {log.last}")
    return bytes(plan), log.layers if inspect else ""


def rtx_facts(capabilities: Sequence[str]) -> Metadata:
    """Where a plan runs; for its sidecar."""
    return {
        "device": "cuda",
        "flavour": RTX.name,
        RTX.package: str(import_tensorrt(RTX).__version__),
        "compute_capabilities": list(capabilities),
    }


def _set_capabilities(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    supported = supported_capabilities(trt)
    config.num_compute_capabilities = len(capabilities)
    for i, name in enumerate(capabilities):
        if not config.set_compute_capability(supported[name], i):
            raise UserError(f"{RTX.title} {trt.__version__} does not build for compute capability {name}")


def _number(name: str) -> tuple[int, int]:
    major, minor = name.split(".")
    return int(major), int(minor)
