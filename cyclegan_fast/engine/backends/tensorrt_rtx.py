"""What TensorRT for RTX adds: the compute capabilities that it builds for, and a cache of the kernels it compiles."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from pathlib import Path
from typing import Any

import torch

from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically

log = logging.getLogger(__name__)


def supported_capabilities(trt: Any) -> dict[str, Any]:
    """The compute capabilities that the library builds for, oldest first: their names, such as 8.6, and enumerators."""
    members = trt.ComputeCapability.__members__
    numbers = sorted(int(name[2:]) for name in members if re.fullmatch(r"SM\d+", name))
    return {f"{number // 10}.{number % 10}": members[f"SM{number}"] for number in numbers}


def capability_of(device: torch.device) -> str:
    """The compute capability of a GPU, such as 8.6."""
    return "{}.{}".format(*torch.cuda.get_device_capability(device))


def cache_of(path: Path, gpu: str) -> Path:
    """h2z.engine -> h2z.engine.NVIDIA_GeForce_RTX_4090.cache, beside it."""
    return path.with_name(f"{path.name}.{re.sub(r'[^0-9A-Za-z]+', '_', gpu)}.cache")


class RuntimeCache:
    """The kernels that TensorRT for RTX compiles for one plan on one GPU, stored in a file for the next process.

    The file is a line of JSON, which names the plan, the library, the GPU and the digest of the rest, and the library's
    own cache, which checks driver and GPU once more. A file that is damaged or of another plan is ignored with a
    warning, and replaced. It is replaced in one move, so several processes may share it: each adds its kernels to those
    that it found, and the last one's remain.

    Args:
        trt: The package tensorrt_rtx.
        plan: The plan, on the current device; it must live as long as this.
        content: The plan's bytes.
        gpu: The name of the current device.
        file: Where the kernels are stored; None stores nothing.
    """

    def __init__(self, trt: Any, plan: Any, content: bytes, gpu: str, file: Path | None) -> None:
        self._plan, self._file, self._saving = plan, file, threading.Lock()
        self._key = {
            "plan_sha256": hashlib.sha256(content).hexdigest(),
            "tensorrt_rtx": str(trt.__version__),
            "gpu": gpu,
        }
        self._config = plan.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # A context has one shape: its kernels are compiled for that at once, so that no graph captures the slower ones
        # that would stand in for them meanwhile.
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        self._config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._cache = self._config.create_runtime_cache()
        self._stored = self._load()  # the digest of what the file holds
        self._config.set_runtime_cache(self._cache)
        self._may_have_grown = False

    def create_context(self) -> Any:
        """A fresh execution context, whose kernels are taken from the cache or added to it; None if it fails."""
        self._may_have_grown = True
        return self._plan.create_execution_context(self._config)

    def save(self) -> None:
        """Stores the kernels if a context was created since the last time; call it when that context has run."""
        with self._saving:
            if self._file is None or not self._may_have_grown:
                return
            self._may_have_grown = False
            serialized = self._cache.serialize()
            kernels = b"" if serialized is None else bytes(serialized)
            digest = hashlib.sha256(kernels).hexdigest()
            if not kernels or digest == self._stored:
                return
            try:
                write_atomically(self._file, json.dumps(self._key | {"sha256": digest}).encode() + b"\n" + kernels)
            except UserError as error:
                log.warning("the compiled kernels are not cached, so each process compiles them: %s", error)
                self._file = None
            else:
                self._stored = digest

    def _load(self) -> str:
        """Fills the cache with what the file holds, and returns its digest; empty if nothing was taken."""
        if self._file is None:
            return ""
        try:
            head, _, kernels = self._file.read_bytes().partition(b"\n")
            digest = hashlib.sha256(kernels).hexdigest()
            key = json.loads(head)
            if key.pop("sha256") != digest:
                raise ValueError("it is damaged")
        except FileNotFoundError:
            return ""
        except OSError as error:
            reason = str(error.strerror)
        except (ValueError, KeyError, TypeError, AttributeError):
            reason = "it is damaged"
        else:
            if key != self._key:
                reason = "it is that of another file, GPU or version"
            elif self._cache.deserialize(kernels):
                return digest
            else:
                reason = "TensorRT for RTX does not take it, which may have been compiled under another driver"
        log.warning("%s is ignored, and the kernels are compiled again: %s", self._file, reason)
        return ""
