"""Generators compiled ahead of time by AOTInductor: a .pt2 file of machine code that needs torch and no compiler.

On the CPU the code is made for x86-64-v3 (AVX2), so that the file travels; on a GPU it is for that GPU's generation.
"""

from __future__ import annotations

import copy
import io
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.device import resolve_device
from cyclegan_fast.engine.backends.external_runtime import first_line, forget_trace
from cyclegan_fast.engine.backends.sidecar import how_to_rebuild, read_required_sidecar
from cyclegan_fast.engine.centred import centred
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.generator import Generator
from cyclegan_fast.engine.info import Precision
from cyclegan_fast.engine.metadata import Metadata, check_precision, engine_info
from cyclegan_fast.engine.shapes import Shapes
from cyclegan_fast.engine.threads import threads_on
from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import suppressed_output
from cyclegan_fast.metrics import Direction

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MARCH, _SIMD_BITS = "x86-64-v3", 256  # what inductor would take is this machine's own


def compile_package(generator: Generator, precision: Precision, shapes: Shapes, device: torch.device) -> bytes:
    """Compiles a generator into the content of a .pt2 file that takes batches within `shapes`.

    Raises:
        UserError: There is no such precision on that device, or no C++ compiler.
    """
    if precision not in _TYPES or (precision == "fp16" and device.type == "cpu"):
        known = "fp32, bf16" if device.type == "cpu" else "fp32, bf16, fp16"
        raise UserError(f"a .pt2 file on {device.type} computes in {known}, not in {precision}: export .onnx for that")
    in_precision = _InPrecision(copy.deepcopy(generator.network), _TYPES[precision])
    network = centred(in_precision, generator.network).to(device)
    unit, smallest, largest = generator.size_divisor, shapes.min, shapes.max
    # Sizes that torch.export sees as 1, or as equal, it takes for constants: only those that are may be.
    sizes: dict[int, Any] = {}
    example = [*shapes.opt]
    for i, (axis, name, step) in enumerate(((0, "n", 1), (2, "h", unit), (3, "w", unit))):
        if smallest[i] < largest[i]:
            sizes[axis] = step * torch.export.Dim(name, min=smallest[i] // step, max=largest[i] // step)
            example[i] = max(example[i], 2 * step)
    if {2, 3} <= sizes.keys() and example[1] == example[2]:
        example[2] += unit if example[2] < largest[2] else -unit
    batch = torch.zeros(example[0], generator.in_channels, *example[1:], device=device)
    with (
        ops.use_reference(),
        torch.no_grad(),
        suppressed_output("torch._inductor"),
        tempfile.TemporaryDirectory() as folder,
    ):
        path = str(Path(folder) / "generator.pt2")
        settings: dict[str, Any] = {"cpp.dynamic_threads": True}  # else it has as many as this process has now
        if _on_x86(device):
            settings |= {"cpp.march": _MARCH, "cpp.simdlen": _SIMD_BITS}
        try:
            program = torch.export.export(network, (batch,), dynamic_shapes=(sizes,))
            torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=settings)
            forget_trace(program)
        except Exception as error:  # of inductor, and of the compiler that it calls
            raise UserError(f"AOTInductor could not compile the generator: {first_line(error)}") from error
        return Path(path).read_bytes()


def aoti_facts(device: torch.device) -> Metadata:
    """Where a .pt2 file compiled on this machine for `device` runs; for its sidecar."""
    metadata: Metadata = {"device": device.type, "machine": platform.machine(), "torch": str(torch.__version__)}
    if device.type == "cuda":
        metadata["gpu"] = torch.cuda.get_device_name(device)
        metadata["compute_capability"] = list(torch.cuda.get_device_capability(device))
    elif _on_x86(device):
        metadata["march"] = _MARCH
    return metadata


class AotiBackend(Engine):
    """Runs the compiled code of a .pt2 file.

    Args:
        content: The file's bytes.
        metadata: Of its sidecar.
        name: Where it came from.
        device: auto, or the kind of device that it was compiled for.
        threads: CPU threads that a call computes on; by default those of `default_threads`.

    Raises:
        UserError: It was compiled for another processor, GPU or torch, or torch cannot load it.
    """

    def __init__(
        self, content: bytes, metadata: Metadata, *, name: str, device: str = "auto", threads: int | None = None
    ) -> None:
        where = _resolve(metadata["compiled"], device, name)
        try:
            with suppressed_output("torch._inductor", "torch.export"):  # code for AVX2 runs where there is AVX-512, too
                index = (where.index or 0) if where.type == "cuda" else -1
                self._run: Any = torch._inductor.aoti_load_package(io.BytesIO(content), device_index=index)
        except Exception as error:  # the loader raises types of its own
            raise UserError(f"{name} cannot be loaded by torch: {first_line(error)}") from error
        count = threads_on(where.type, threads)
        super().__init__(engine_info(metadata, name=name, device=str(where), threads=count))

    def _compute(self, batch: Tensor) -> Tensor:
        # Only `check_batch` stands before the compiled code: that itself reads whatever lies behind a smaller batch.
        with torch.inference_mode():
            return self._run(batch.to(self.device, torch.float32).contiguous())

    def _release(self) -> None:
        del self._run


def load_aoti(
    path: Path, direction: Direction | None, device: str, precision: Precision | None, threads: int | None = None
) -> AotiBackend:
    """Loads a .pt2 file; its sidecar is checked before any of its code is loaded.

    Raises:
        UserError: The sidecar is missing or differs from the file, the file holds the other direction or precision, or
            it was compiled for another machine.
    """
    content = path.read_bytes()
    metadata = read_required_sidecar(path, content, direction)
    check_precision(precision, metadata["precision"], path)
    _check_machine(metadata, path)
    return AotiBackend(content, metadata, name=path.name, device=device, threads=threads)


class _InPrecision(torch.nn.Module):
    """A generator with float32 input and output, whatever it computes in."""

    def __init__(self, network: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        """float32 [N, C, H, W] -> float32 [N, C', H, W]."""
        return self.network(x.to(self.dtype)).float()


def _check_machine(metadata: Metadata, path: Path) -> None:
    """Refuses code of another kind of machine before it is loaded.

    Raises:
        UserError: With what differs, and the command that builds it anew.
    """
    built = metadata["compiled"]
    fault = ""
    if _minor(str(built.get("torch"))) != _minor(str(torch.__version__)):
        fault = f"torch {built.get('torch')}, and this is {torch.__version__}"
    elif built.get("machine") != platform.machine():
        fault = f"{built.get('machine')} processors, and this is {platform.machine()}"
    elif "march" in built and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        fault = f"processors with AVX2 ({built['march']}), and this one has none"
    elif built.get("device") == "cuda":
        here = list(torch.cuda.get_device_capability()) if torch.cuda.is_available() else None
        if here != built.get("compute_capability"):
            gpu = torch.cuda.get_device_name() if here else "no GPU"
            fault = f"{built.get('gpu')} (compute capability {built.get('compute_capability')}), and here is {gpu}"
    if fault:
        raise UserError(f"{path} was compiled for {fault}; {how_to_rebuild(path, metadata)}")


def _resolve(compiled: Metadata, device: str, name: str) -> torch.device:
    kind = compiled.get("device", "cpu")
    where = resolve_device(kind if device == "auto" else device)
    if where.type != kind:
        raise UserError(f"{name} was compiled for {kind}, not for {where.type}: leave the device out, or export it")
    return where


def _minor(version: str) -> str:
    """2.13.0+cpu -> 2.13: what compiled code depends on."""
    return ".".join(version.split("+")[0].split(".")[:2])


def _on_x86(device: torch.device) -> bool:
    return device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64")
