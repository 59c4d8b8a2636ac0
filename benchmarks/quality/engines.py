"""The engines that are compared: every runtime of the package in each precision that it has (docs/engines.md)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from benchmarks.harness import DEVICE
from cyclegan_fast.engine.backends.onnxruntime import resolve_onnx_device
from cyclegan_fast.engine.backends.tensorrt_api import FlavourName
from cyclegan_fast.engine.info import PRECISIONS, Precision


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What runs a generator."""

    title: str
    suffix: str
    """Of its files; none of a checkpoint."""
    backend: str
    """As `load_engine` names it."""
    precisions: tuple[Precision, ...] = PRECISIONS
    """Those that it has on any device."""
    package: str = "torch"
    """What Python imports."""
    tensorrt: FlavourName = "standard"
    """What builds an .engine file."""

    @property
    def device(self) -> str:
        """Where it runs, as `load_engine` takes it."""
        return "cpu" if self.backend == "openvino" else "auto"


RUNTIMES = (
    Runtime(title="torch", suffix="", backend="torch", precisions=("fp32", "fp16", "bf16")),
    Runtime(title="ONNX Runtime", suffix=".onnx", backend="onnxruntime", package="onnxruntime"),
    Runtime(title="OpenVINO", suffix=".onnx", backend="openvino", package="openvino"),
    Runtime(title="AOTInductor", suffix=".pt2", backend="aoti", precisions=("fp32", "fp16", "bf16")),
    Runtime(title="TensorRT", suffix=".engine", backend="tensorrt", package="tensorrt"),
    Runtime(
        title="TensorRT for RTX", suffix=".engine", backend="tensorrt", package="tensorrt_rtx", tensorrt="rtx"
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """A runtime in one of its precisions."""

    runtime: Runtime
    precision: Precision

    def why_not(self) -> str:
        """Returns why it cannot run here; nothing where it can."""
        backend, package = self.runtime.backend, self.runtime.package
        only_on_gpus = backend == "tensorrt" or (backend in ("torch", "aoti") and self.precision == "fp16")
        if only_on_gpus and DEVICE.type == "cpu":
            return "needs a GPU"
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
        if (backend, self.precision) == ("onnxruntime", "bf16") and resolve_onnx_device("auto").type == "cpu":
            return "ONNX Runtime has no convolutions in bf16 on a CPU"
        return ""


ENGINES = [EngineKind(runtime=runtime, precision=precision) for runtime in RUNTIMES for precision in runtime.precisions]
