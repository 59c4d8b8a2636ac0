"""The engine that runs an ONNX file in ONNX Runtime, and the sidecar that tells what the file is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.config import Form
from cyclegan_fast.engine.backends import Engine
from cyclegan_fast.engine.generator import check_direction, read_facts, read_forms
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import Direction

# A file without a sidecar does not say these; they are those of the residual generators.
_DEFAULT_MULTIPLE, _DEFAULT_SMALLEST = 4, 8


class OnnxBackend(Engine):
    """Runs an ONNX graph with one input and one output, both float32 [N, C, H, W].

    Args:
        content: The ONNX file's bytes.
        facts: What its sidecar says, or an empty dictionary.
        name: Where it came from.
        device: auto, cpu, cuda or cuda:<index>; auto is CUDA where ONNX Runtime and torch both have it.

    Raises:
        UserError: ONNX Runtime or its provider for the device is missing, or the graph is of another kind.
    """

    def __init__(self, content: bytes, facts: dict[str, Any], *, name: str, device: str = "auto") -> None:
        where = _resolve_device(device)
        self._session = _open_session(content, where, name)
        in_channels, out_channels = _channels(self._session, name)
        forms = read_forms(facts, name) or (Form(channels=in_channels), Form(channels=out_channels))
        super().__init__(
            name=name,
            device=str(where),
            direction=facts.get("direction"),
            in_form=forms[0],
            out_form=forms[1],
            multiple=facts.get("multiple", _DEFAULT_MULTIPLE),
            smallest=facts.get("smallest", _DEFAULT_SMALLEST),
        )
        self._input = self._session.get_inputs()[0].name

    def run(self, batch: Tensor) -> Tensor:
        """See `Engine.run`."""
        try:
            (made,) = self._session.run(None, {self._input: batch.float().cpu().contiguous().numpy()})
        except Exception as error:  # ONNX Runtime raises types of its own
            raise UserError(
                f"{self.name} failed on a batch of shape {list(batch.shape)}: {_first_line(error)}"
            ) from error
        return torch.from_numpy(made)


def load_onnx(path: Path, direction: Direction | None, device: str) -> OnnxBackend:
    """Loads an ONNX file; its sidecar is read and its sha256 compared before anything else is done with it.

    Raises:
        UserError: The file differs from its sidecar, holds the other direction, or cannot run here.
    """
    content = path.read_bytes()
    facts = read_sidecar(path, content)
    if "direction" in facts:
        check_direction(direction, facts["direction"], path)
    return OnnxBackend(content, facts, name=path.name, device=device)


def sidecar_of(path: Path) -> Path:
    """horse2zebra.onnx -> horse2zebra.onnx.json."""
    return path.with_name(f"{path.name}.json")


def make_sidecar(content: bytes, facts: dict[str, Any]) -> bytes:
    """The sidecar's content for an ONNX file's."""
    return (json.dumps(facts | {"sha256": hashlib.sha256(content).hexdigest()}, indent=1) + "\n").encode()


def read_sidecar(path: Path, content: bytes) -> dict[str, Any]:
    """Facts about an ONNX file whose bytes are `content`; empty if there is no sidecar.

    Raises:
        UserError: The sidecar is damaged, of a newer version, or not that of these bytes.
    """
    sidecar = sidecar_of(path)
    if not sidecar.exists():
        return {}
    mend = f"export it again: python -m cyclegan_fast.export --checkpoint RUN --out {path}"
    try:
        facts = read_facts(sidecar.read_bytes(), path)
        expected = facts["sha256"]
        for key in ("multiple", "smallest"):
            if type(facts[key]) is not int or facts[key] < 1:
                raise ValueError(f"{key} is {facts[key]!r}, not a number of pixels")
        read_forms(facts, str(sidecar))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{sidecar} is damaged; {mend}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise UserError(f"{path} is not the file that was exported: its sha256 differs from {sidecar.name}; {mend}")
    return facts


def _open_session(content: bytes, device: torch.device, name: str) -> Any:
    """A session on exactly the provider of `device`: ONNX Runtime itself would fall back to the CPU in silence."""
    ort = _onnxruntime()
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise UserError(f"ONNX Runtime has no {provider} here: install onnxruntime-gpu, or say --device cpu")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    chosen = (provider, {"device_id": device.index or 0}) if device.type == "cuda" else provider
    try:
        session = ort.InferenceSession(content, options, providers=[chosen])
    except Exception as error:  # ONNX Runtime raises types of its own
        raise UserError(f"{name} cannot be loaded by ONNX Runtime: {_first_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise UserError(
            f"{name}: {provider} did not start (are CUDA and cuDNN installed?): mend it, or say --device cpu"
        )
    return session


def _resolve_device(device: str) -> torch.device:
    """As for torch, but ONNX Runtime may reach a CUDA device that a CPU build of torch does not see."""
    if device == "auto":
        both = torch.cuda.is_available() and "CUDAExecutionProvider" in _onnxruntime().get_available_providers()
        return torch.device("cuda" if both else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device must be auto, cpu, cuda or cuda:<index>, got {device!r}") from error


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("an .onnx file needs ONNX Runtime: pip install 'cyclegan-fast[onnx]'") from error
    return onnxruntime


def _channels(session: Any, name: str) -> tuple[int, int]:
    """(input, output) channels of a graph with one image in and one out."""
    ends = [*session.get_inputs(), *session.get_outputs()]
    fits = len(session.get_inputs()) == len(session.get_outputs()) == 1
    if not fits or any(end.type != "tensor(float)" or len(end.shape) != 4 for end in ends):
        raise UserError(f"{name} is no generator: its graph must have one float32 input and output [N, C, H, W]")
    channels = [end.shape[1] for end in ends]
    if not all(isinstance(c, int) for c in channels):
        raise UserError(f"{name} does not fix its channels: the graph says {channels}")
    return channels[0], channels[1]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
