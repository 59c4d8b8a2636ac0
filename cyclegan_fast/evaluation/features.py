"""Networks that turn an image into features, for FID, KID, density and coverage: Inception, or a file of the user's.

A file takes float32 [1, C, S, S] with values from 0 to 1 and returns [1, D], or [1, D, h, w], whose mean over h and w
is taken. What else its network needs, such as ImageNet's mean and standard deviation, belongs into the file. Images of
one channel are repeated to three. Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclegan_fast.documents import shown
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.memory import is_out_of_memory
from cyclegan_fast.telemetry import telemetry_disabled

log = logging.getLogger(__name__)

INCEPTION = "inception"
WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
WEIGHTS_NAME, WEIGHTS_DIGEST = WEIGHTS_URL.rsplit("/", 1)[1], "6726825d"  # the first digits of its SHA-256
DEFAULT_SIZE = 224  # pixels, of a file that does not state its input
_DIGITS = 8  # of a SHA-256 that people read
_OF_TORCHSCRIPT = "failed in the TorchScript interpreter"
KINDS = {".onnx": "ONNX", ".pt2": "torch.export", ".pt": "TorchScript", ".ts": "TorchScript", ".pth": "TorchScript"}


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that turns images into features."""

    name: str
    run: Callable[[Tensor], Any]
    """[1, C, S, S] in [0, 1] -> [1, D] or [1, D, h, w]."""
    size: int | None
    """Side in pixels to which images are resized; None leaves that to the network."""
    channels: int = 3
    fixed_size: bool = False
    """Its file states `size`, and no other one can be asked for."""
    assumed_size: bool = False
    """Neither its file nor the user states `size`."""
    digest: str = ""
    """The first digits of its files' SHA-256; empty of Inception, whose weights are always the same."""
    seconds: float = 0.0
    """That an image took when the network was tried."""

    @property
    def protocol(self) -> str:
        """What the features are, for people."""
        identity = f" (SHA-256 {self.digest})" * bool(self.digest)
        return f"features of {self.name}{identity}" + (f" at {self.size}x{self.size} (bicubic)" if self.size else "")

    def extract(self, images: Iterable[Tensor]) -> Tensor:
        """Returns the features of images [C, H, W] in [0, 1], of any size: float64 [N, D], on the CPU.

        Raises:
            UserError: The network does not take them.
            torch.OutOfMemoryError: The memory is too small, whichever runtime noticed it.
        """
        return torch.cat([self._extract_one(image) for image in images])

    def check_channels(self, channels: int) -> None:
        """Checks that images of so many channels can be taken: as many as the network's, or one.

        Raises:
            UserError: They cannot.
        """
        if channels not in (1, self.channels):
            raise UserError(f"--features {self.name} takes {self.channels} channels, and the images have {channels}")

    @torch.inference_mode()
    def _extract_one(self, image: Tensor) -> Tensor:
        self.check_channels(len(image))
        image = image.expand(self.channels, -1, -1)
        batch = image.float()[None]
        if self.size is not None and batch.shape[-2:] != (self.size, self.size):
            resized = F.interpolate(batch, (self.size, self.size), mode="bicubic", antialias=True)
            batch = resized.clamp(0, 1)
        try:
            found = self.run(batch.contiguous())
        except Exception as error:  # each runtime raises types of its own
            if is_out_of_memory(error):
                raise torch.OutOfMemoryError(str(error)) from error
            shape = "x".join(map(str, batch.shape))
            assumed = "its file states no size, so " * self.assumed_size
            advice = f": {assumed}name the side that it takes with --features-size"
            raise UserError(
                f"--features {self.name} does not take an input of {shape} ({_first_line(error)})"
                + advice * (self.size is not None and not self.fixed_size)
            ) from error
        found = found[0] if isinstance(found, list | tuple) and found else found
        if not isinstance(found, Tensor) or found.ndim not in (2, 4) or len(found) != 1:
            what = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise UserError(f"--features {self.name} returns {what}; expected features [1, D] or [1, D, h, w]")
        features = (found if found.ndim == 2 else found.mean(dim=(2, 3))).double().cpu()
        return torch.full_like(features, torch.nan) if image.isnan().any() else features  # which a network may hide


def load_features(name: str, device: torch.device, size: int | None = None) -> FeatureNetwork:
    """Loads the network that ``--features`` names, and tries it on a black image, which also tells its speed.

    Args:
        name: "inception", or a file: .onnx, .pt2 (of torch.export.save), or TorchScript (.pt, .ts, .pth).
        device: Where it runs; ONNX Runtime runs it on the CPU where it has no CUDA.
        size: Side in pixels of its input; by default what the file states, or 224.

    Raises:
        UserError: It cannot be loaded, or does not take images of that size.
    """
    if name == INCEPTION:
        if size is not None:
            raise UserError(f"--features-size {size}: inception resizes images by itself; leave the flag out")
        network = FeatureNetwork(INCEPTION, _load_inception(device), None)
    else:
        network = _load_file(Path(name), device, size)
    side = network.size or 299
    black = [torch.zeros(network.channels, side, side, device=device)]
    network.extract(black)  # not timed, as a runtime may compile in it
    start = time.monotonic()
    network.extract(black)
    return replace(network, seconds=time.monotonic() - start)


def check_features(name: str) -> None:
    """Checks what can be seen of ``--features`` without loading the network.

    Raises:
        UserError: It is neither inception, with its weights, nor a file of a kind that can be loaded.
    """
    path = Path(name)
    if name == INCEPTION:
        if not _weights_file().is_file():
            raise MissingFileError(
                f"--features inception: its weights are missing, and nothing is downloaded silently: put {WEIGHTS_URL} "
                f"into {_weights_file().parent}"
            )
    elif path.suffix.lower() not in KINDS:
        raise UserError(f"--features {path}: expected inception or a file that ends in one of {', '.join(KINDS)}")
    elif not path.is_file():
        raise MissingFileError(f"--features {path}: there is no such file")


def _weights_file() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME


def _load_inception(device: torch.device) -> Callable[[Tensor], Any]:
    """The Inception of Heusel et al. 2017, as torch-fidelity and torchmetrics have it; it resizes images by itself."""
    check_features(INCEPTION)
    path = _weights_file()
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UserError(f"--features inception ({error}): pip install 'cyclegan-fast[inception]'") from error
    except RuntimeError as error:  # of its torchvision
        raise UserError(
            f"--features inception needs the torchvision of torch {torch.__version__}, and the one that is installed "
            f"is for another ({_first_line(error)})"
        ) from error
    if not _digest(path).startswith(WEIGHTS_DIGEST):
        raise UserError(
            f"{path} is not the file of {WEIGHTS_URL}: its SHA-256 does not start with {WEIGHTS_DIGEST}; fetch it again"
        )
    network = FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=str(path))
    network.to(device).eval()
    return lambda images: network((images * 255).round().to(torch.uint8))


def _digest(*paths: Path) -> str:
    """The SHA-256 of files, as if they were one after the other in one."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def _load_file(path: Path, device: torch.device, size: int | None) -> FeatureNetwork:
    check_features(str(path))
    kind = KINDS[path.suffix.lower()]
    load = {"ONNX": _load_onnx, "torch.export": _load_exported, "TorchScript": _load_torchscript}[kind]
    try:
        run, shape = load(path, device)
        digest = _digest(path, *_weight_files(path) if kind == "ONNX" else ())
    except UserError:
        raise
    except Exception as error:  # each runtime raises types of its own
        raise UserError(f"--features {path} is not a {kind} file that can be loaded ({_first_line(error)})") from error
    channels, stated = _stated(path, shape)
    if size is not None and stated is not None and size != stated:
        raise UserError(f"--features-size {size}: {path} takes images of {stated}x{stated} alone")
    return FeatureNetwork(
        path.name,
        run,
        size or stated or DEFAULT_SIZE,
        channels or 3,
        fixed_size=stated is not None,
        assumed_size=size is None and stated is None,
        digest=digest[:_DIGITS],
    )


Shape = list[int | None]  # of an input; None where a size is free
Loaded = tuple[Callable[[Tensor], Any], Shape]  # runs it; what its file states


def _load_onnx(path: Path, device: torch.device) -> Loaded:
    try:
        with telemetry_disabled():
            import onnxruntime as ort
    except ImportError as error:
        raise UserError(f"--features {path} needs ONNX Runtime: pip install 'cyclegan-fast[onnx]'") from error
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    wanted = ["CUDAExecutionProvider"] * (device.type == "cuda") + ["CPUExecutionProvider"]
    providers = [provider for provider in wanted if provider in ort.get_available_providers()]
    session = ort.InferenceSession(str(path), options, providers=providers)
    if session.get_providers()[0] != wanted[0]:
        log.info("--features %s runs on the CPU, as this ONNX Runtime cannot use CUDA", path)
    (entry,) = session.get_inputs()
    shape = [side if isinstance(side, int) else None for side in entry.shape]

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {entry.name: images.cpu().numpy()})[0])

    return run, shape


def _weight_files(path: Path) -> list[Path]:
    """Lists the files beside an ONNX file that hold its weights, by the entries ``location`` of its tensors."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        entries = re.finditer(rb"\n\x08location\x12([\x01-\x7f])", content)  # protobuf: the key, the value's length
        names = sorted({content[m.end() : m.end() + m[1][0]].decode(errors="replace") for m in entries})
    return [path.parent / name for name in names if (path.parent / name).is_file()]


def _load_exported(path: Path, device: torch.device) -> Loaded:
    program = torch.export.load(path)
    name = program.graph_signature.user_inputs[0]
    (node,) = (node for node in program.graph.nodes if node.name == name)
    shape = [side if isinstance(side, int) else None for side in node.meta["val"].shape]
    return program.module().to(device), shape


def _load_torchscript(path: Path, device: torch.device) -> Loaded:
    return torch.jit.load(str(path), map_location=device).eval(), [None] * 4


def _stated(path: Path, shape: Shape) -> tuple[int | None, int | None]:
    """Channels and side of an input [1, C, S, S], where they are fixed."""
    if len(shape) != 4:
        raise UserError(f"--features {path}: its input has {len(shape)} dimensions; expected [1, C, S, S]")
    count, channels, height, width = shape
    if count not in (None, 1) or (height and width and height != width):
        stated = "x".join("?" if size is None else str(size) for size in shape)
        raise UserError(
            f"--features {path} takes inputs of {stated} alone, and images come one at a time, resized to a square: "
            "export the network for [1, C, S, S]"
        )
    return channels, height or width


def _first_line(error: Exception) -> str:
    """What an error says first, for people; of TorchScript, whose message begins with its own traceback, last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shown(lines[-1 if _OF_TORCHSCRIPT in lines[0] else 0]).strip("'")
