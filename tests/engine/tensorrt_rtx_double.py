"""Stands for the package tensorrt_rtx where there is no GPU: the double of TensorRT, with what the other flavour adds.

Engines are built by the real package in tests/engine/test_tensorrt_rtx.py, which also compares every name and parameter
of this double with it. Only what needs a GPU, loading and running them, is the double's; what it cannot show is what
the library's kernels compute, and how long it takes to compile them.
"""

from __future__ import annotations

import enum
import json
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

from tests.engine import tensorrt_double as standard
from tests.engine.tensorrt_double import CALLS, ILogger, INetworkDefinition

VERSION = "1.7.1.116"
driver = "580"  # of the machine: kernels compiled under another one are not taken


class ComputeCapability(enum.IntEnum):
    NONE, CURRENT = range(2)
    SM75, SM80, SM86, SM89, SM120, SM121 = 75, 80, 86, 89, 120, 121


class BuilderFlag(enum.IntEnum):
    REQUIRE_USER_ALLOCATION = 22


class ProfilingVerbosity(enum.IntEnum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class DynamicShapesKernelSpecializationStrategy(enum.IntEnum):
    LAZY, EAGER, NONE = range(3)


class IBuilderConfig(standard.IBuilderConfig):
    num_compute_capabilities = 0
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY

    def __init__(self) -> None:
        super().__init__()
        self._capabilities: dict[int, ComputeCapability] = {}
        self._flags: set[BuilderFlag] = set()

    def set_compute_capability(self, compute_capability: ComputeCapability, index: int) -> bool:
        self._capabilities[index] = compute_capability
        return index < self.num_compute_capabilities and compute_capability != ComputeCapability.NONE

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> standard.ITimingCache:
        raise AssertionError("it asks for a GPU")


class Builder(standard.Builder):
    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        assert network._flags == 1 << standard.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        if not config._profiles:
            self._logger.log(ILogger.ERROR, "Network has dynamic inputs, but no\noptimization profile")
            return None
        assert BuilderFlag.REQUIRE_USER_ALLOCATION in config._flags, "a graph could not be captured"
        profiles = [profile._shapes for profile in config._profiles]
        capabilities = [int(config._capabilities[i]) for i in range(config.num_compute_capabilities)]
        CALLS.append(("built", profiles, capabilities))
        return json.dumps({"profiles": profiles, "rtx": capabilities}).encode() + b"\n" + network._model


class Runtime(standard.Runtime):
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        CALLS.append(("deserialized",))
        head, _, model = serialized_engine.partition(b"\n")
        try:
            metadata = json.loads(head)
        except ValueError:
            self._logger.log(ILogger.ERROR, "The engine header does not conform to the expected format")
            return None
        major, minor = torch.cuda.get_device_capability()
        if major * 10 + minor not in metadata["rtx"]:
            self._logger.log(ILogger.ERROR, "Unsupported compute capability")
            return None
        return ICudaEngine(metadata["profiles"], model)


class IRuntimeCache:
    def __init__(self) -> None:
        self._kernels: list[str] = []

    def serialize(self) -> bytes:
        return json.dumps({"driver": driver, "kernels": self._kernels}).encode()

    def deserialize(self, blob: bytes) -> bool:
        stored = json.loads(blob)
        if stored["driver"] != driver:
            return False
        self._kernels = stored["kernels"]
        return True


class IRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def __init__(self) -> None:
        self._strategy = standard.ExecutionContextAllocationStrategy.STATIC
        self._cache: IRuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: standard.ExecutionContextAllocationStrategy) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache | None = None) -> bool:
        self._cache = cache
        return True


class ICudaEngine(standard.ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: IRuntimeConfig) -> IExecutionContext:  # type: ignore[override]
        assert runtime_config._strategy == standard.ExecutionContextAllocationStrategy.USER_MANAGED
        eager = DynamicShapesKernelSpecializationStrategy.EAGER
        assert runtime_config.dynamic_shapes_kernel_specialization_strategy == eager, "a graph would hold slow kernels"
        assert runtime_config._cache is not None
        return IExecutionContext(self, runtime_config._cache)


class IExecutionContext(standard.IExecutionContext):
    def __init__(self, engine: ICudaEngine, cache: IRuntimeCache) -> None:
        super().__init__(engine)
        self._cache = cache

    def execute_async_v3(self, stream_handle: int) -> bool:
        for shape in self._shapes.values():
            kernel = f"{self._profile}: {shape}"
            if kernel not in self._cache._kernels:
                CALLS.append(("compiled", kernel))
                self._cache._kernels.append(kernel)
        return super().execute_async_v3(stream_handle)


CLASSES: dict[str, Any] = {
    name: value
    for name, value in {**{name: getattr(standard, name, None) for name in standard.CLASSES}, **globals()}.items()
    if isinstance(value, type) and name not in ("Any", "ModuleSpec", "ModuleType")
}


def module(version: str = VERSION) -> ModuleType:
    """What stands in sys.modules under the name tensorrt_rtx."""
    CALLS.clear()
    double = ModuleType("tensorrt_rtx")
    double.__version__ = version  # type: ignore[attr-defined]
    double.__spec__ = ModuleSpec("tensorrt_rtx", None)
    vars(double).update(CLASSES)
    return double
