"""Stands for the package tensorrt where its libraries cannot be had: it keeps its rules, and ONNX Runtime computes.

It has no name that the real bindings of both major versions have not. tests/engine/test_tensorrt.py proves that by the
names in tests/engine/tensorrt_names; `python -m tests.engine.tensorrt_double VERSION.json` reads them from the
bindings. What it cannot show is what TensorRT's kernels compute, how fast, and what CUDA makes of a captured graph.

Its memory is the host's: the addresses that it is given are read and written as they are.
"""

from __future__ import annotations

import ctypes
import enum
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from tests.engine.cuda_double import STREAM

CLASSES = [
    "Builder",
    "IBuilderConfig",
    "INetworkDefinition",
    "NetworkDefinitionCreationFlag",
    "IOptimizationProfile",
    "OnnxParser",
    "ParserError",
    "MemoryPoolType",
    "ITimingCache",
    "IHostMemory",
    "ILogger",
    "Runtime",
    "ICudaEngine",
    "IExecutionContext",
    "ITensor",
    "TensorIOMode",
    "DataType",
    "ExecutionContextAllocationStrategy",
]
CALLS: list[tuple[Any, ...]] = []  # what was asked for, in order


class ILogger:
    """Also the severities, as in the bindings."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)
    _made = False

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class ExecutionContextAllocationStrategy(enum.IntEnum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class TensorIOMode(enum.IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(enum.IntEnum):
    FLOAT, HALF, INT8 = range(3)


class ITensor:
    def __init__(self, name: str) -> None:
        self.name = name


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags, self._model = flags, b""

    def get_input(self, index: int) -> ITensor:
        return ITensor(onnx.load_from_string(self._model).graph.input[index].name)


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert all(1 <= a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return b"timings" + self._content[7:] + b"+"


class IBuilderConfig:
    def __init__(self) -> None:
        self._profiles: list[IOptimizationProfile] = []

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        CALLS.append(("workspace", pool, pool_size))

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        CALLS.append(("timings", cache._content))
        return cache._content[:7] in (b"", b"timings")


class Builder:
    def __init__(self, logger: ILogger) -> None:
        assert logger._made, "the logger's own __init__ was not called"
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        assert network._flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED, "types must be kept as they are"
        if not config._profiles:
            self._logger.log(ILogger.ERROR, "Network has dynamic inputs, but no\noptimization profile")
            return None
        profiles = [profile._shapes for profile in config._profiles]
        CALLS.append(("built", profiles))
        head = json.dumps({"profiles": profiles, "version": sys.modules["tensorrt"].__version__})
        return head.encode() + b"\n" + network._model


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, list[ParserError]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        """Refuses what TensorRT refuses of quantised graphs: zero points, unsigned values, integer biases."""
        graph = onnx.load_from_string(model).graph
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
                continue
            zero, quantised = tensors[node.input[2]], tensors.get(node.input[0])
            kinds = {zero.data_type} | ({quantised.data_type} if quantised is not None else set())
            if not kinds < {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT8E4M3FN} or any(zero.raw_data):
                self._errors.append(ParserError(f"{node.name}: only symmetric int8 and fp8 are supported"))
        self._network._model = bytes(model)
        return not self._errors


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        assert logger._made
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        CALLS.append(("deserialized",))
        head, _, model = serialized_engine.partition(b"\n")
        try:
            metadata = json.loads(head)
        except ValueError:
            self._logger.log(ILogger.ERROR, "Magic tag does not match")
            return None
        return ICudaEngine(metadata["profiles"], model)


class ICudaEngine:
    def __init__(self, profiles: list[dict[str, Any]], model: bytes) -> None:
        import onnxruntime

        self._profiles = profiles
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._ends = [*self._session.get_outputs(), *self._session.get_inputs()]  # in no order that is promised

    @property
    def num_io_tensors(self) -> int:
        return len(self._ends)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return self._ends[index].name

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == self._session.get_inputs()[0].name else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.FLOAT if self._end(name).type == "tensor(float)" else DataType.HALF

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else -1 for side in self._end(name).shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._profiles[profile_index][name]]

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> IExecutionContext:
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self)

    def _end(self, name: str) -> Any:
        return next(end for end in self._ends if end.name == name)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._profile, self._memory = engine, -1, 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        CALLS.append(("profile", profile_index))
        return stream_handle == STREAM and profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        self._shapes[name] = shape
        return all(a <= side <= b for a, side, b in zip(least, shape, most, strict=True))

    def update_device_memory_size_for_shapes(self) -> int:
        return int(sum(np.prod(shape) for shape in self._shapes.values()))

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory and size >= self.update_device_memory_size_for_shapes()
        self._memory = size

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return bool(memory)

    def execute_async_v3(self, stream_handle: int) -> bool:
        (source,), (target,) = self._engine._session.get_inputs(), self._engine._session.get_outputs()
        if stream_handle != STREAM or not self._memory or self._addresses.keys() != {source.name, target.name}:
            return False
        CALLS.append(("executed", self._shapes[source.name]))
        taken = _array(self._addresses[source.name], self._shapes[source.name])
        (made,) = self._engine._session.run(None, {source.name: taken.copy()})
        _array(self._addresses[target.name], made.shape)[:] = made
        return True


def module(version: str = "11.4.0.106") -> ModuleType:
    """What stands in sys.modules under the name tensorrt."""
    CALLS.clear()
    double = ModuleType("tensorrt")
    double.__version__ = version  # type: ignore[attr-defined]
    double.__spec__ = ModuleSpec("tensorrt", None)  # torch looks whether the package is there
    for name in CLASSES:
        if name in globals():
            setattr(double, name, globals()[name])
    return double


def surface(package: Any) -> dict[str, list[str]]:
    """The public names of the package's classes that we may need."""
    return {
        name: [member for member in dir(getattr(package, name)) if not member.startswith("_")]
        for name in CLASSES
        if hasattr(package, name)
    }


def _array(address: int, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


if __name__ == "__main__":
    import tensorrt

    rows = (f"{json.dumps(name)}: {json.dumps(members)}" for name, members in surface(tensorrt).items())
    Path(sys.argv[1]).write_text("{\n" + ",\n".join(rows) + "\n}\n")
