"""One trained generator with its settings, from wherever it is stored in torch's terms."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cyclegan_fast.checkpoint import load_generators, load_reference_generator, named_checkpoint
from cyclegan_fast.checkpoint.native import default_pixel_formats
from cyclegan_fast.checkpoint.weights import assign_weights, check_weights, freeze, read_weights
from cyclegan_fast.config import ModelConfig, PixelFormat, from_dict, to_dict
from cyclegan_fast.documents import DocumentError, check
from cyclegan_fast.engine.metadata import (
    FORMAT_VERSION,
    METADATA_KEY,
    Metadata,
    check_direction,
    read_metadata,
    read_pixel_formats,
)
from cyclegan_fast.engine.shapes import ShapeLimits
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.metrics import DIRECTIONS, OPPOSITE, Direction
from cyclegan_fast.models import MODELS
from cyclegan_fast.nn import build_generator
from cyclegan_fast.version import __version__

_DIGEST_KEY = "sha256"  # in the header; files of earlier versions lack it


@dataclass(frozen=True)
class Generator:
    """A network in evaluation, frozen, and what shaped it."""

    network: nn.Module
    model: ModelConfig  # its A and B are those of `direction`
    direction: Direction  # between the folders' names: AtoB makes images like trainB's of images like trainA's
    in_format: PixelFormat  # of the input images
    out_format: PixelFormat  # of the output images

    @property
    def in_channels(self) -> int:
        """Channels of the input images."""
        return self.in_format.channels

    @property
    def out_channels(self) -> int:
        """Channels of the output images."""
        return self.out_format.channels

    @property
    def size_divisor(self) -> int:
        """Sides must be multiples of this, in pixels."""
        return int(self.network.size_divisor)  # type: ignore[arg-type]

    @property
    def min_size(self) -> int:
        """Minimum of both sides, in pixels."""
        return int(self.network.min_size)  # type: ignore[arg-type]

    @property
    def limits(self) -> ShapeLimits:
        """Shapes of the batches that the network takes."""
        return ShapeLimits(size_divisor=self.size_divisor, min_size=self.min_size)

    def metadata(self) -> Metadata:
        """What travels with an exported generator: settings, direction and versions, fit for JSON."""
        versions = {"cyclegan_fast": __version__, "torch": str(torch.__version__)}
        return {
            "format": FORMAT_VERSION,
            "direction": self.direction,
            "model": to_dict(self.model),
            "images": {"in": to_dict(self.in_format), "out": to_dict(self.out_format)},
            "versions": versions,
        }


def load_generator(path: Path, direction: Direction | None = None, *, raw: bool = False) -> Generator:
    """Loads one generator to the CPU.

    Args:
        path: A run folder (its newest checkpoint), RUN/best, a checkpoint, a .safetensors file that we exported, or a
            .pth of the reference.
        direction: AtoB or BtoA, after the folders trainA and trainB. By default what the file holds, and AtoB where it
            holds both or does not store it.
        raw: Load the generator as it is trained, of a checkpoint that has its average (--ema), too.

    Raises:
        UserError: The path holds no such thing, it is damaged, or it holds the other direction only.
    """
    path = named_checkpoint(Path(path))
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; give a run folder, a checkpoint, a .safetensors or a .pth file")
    if path.is_dir():
        generators = load_both(path, raw=raw)
        return generators.get(direction or "AtoB") or _the_only_one(generators, direction, path)
    if raw:
        raise UserError(f"{path}: raw weights lie in checkpoints beside averaged ones (--ema); name one, or a run")
    if path.suffix == ".safetensors":
        return _load_safetensors(path, direction)
    if path.suffix == ".pth":
        return _load_reference(path, direction)
    raise UserError(f"{path}: a generator is a run folder, a checkpoint, a .safetensors or a .pth file")


def _the_only_one(generators: Mapping[Direction, Generator], direction: Direction | None, path: Path) -> Generator:
    """The generator of a model of one direction, where it is not asked for the other one.

    Raises:
        UserError: It is.
    """
    ((there, generator),) = generators.items()
    if direction is not None:
        title = MODELS[generator.model.model].title
        raise UserError(
            f"{path}: a {title} model, which translates {there} alone; for {direction} train another one, with "
            "--direction the other way round"
        )
    return generator


def load_both(path: Path, device: torch.device | str = "cpu", *, raw: bool = False) -> dict[Direction, Generator]:
    """Loads all generators of a checkpoint, or of the newest in a run folder; `raw` as in `load_generator`.

    Returns:
        The generators by what they translate, in the folders' names: a run trained with ``--direction BtoA`` took
        trainB for its domain A, so its G_A is the one called BtoA here. Models of one direction have one.

    Raises:
        UserError: There is no checkpoint, or it is damaged.
    """
    networks, settings = load_generators(path, device, raw=raw)
    model, (A, B) = settings.config.model, (settings.pixel_formats[name] for name in "AB")
    exchanged = settings.config.data.direction == "BtoA"
    formats = {"AtoB": (A, B), "BtoA": (B, A)}  # as the networks name the domains
    generators: dict[Direction, Generator] = {}
    for name, direction in MODELS[model.model].generators.items():
        in_folders = OPPOSITE[direction] if exchanged else direction
        of = _swap_channels(model) if exchanged else model
        generators[in_folders] = Generator(networks[name], of, in_folders, *formats[direction])
    return {direction: generators[direction] for direction in DIRECTIONS if direction in generators}


def _swap_channels(model: ModelConfig) -> ModelConfig:
    """The settings of the same networks once the domains change their names."""
    return dataclasses.replace(model, channels_A=model.channels_B, channels_B=model.channels_A)


def dump_safetensors(generator: Generator) -> bytes:
    """The content of a .safetensors file that `load_generator` reads; it carries a digest of its own."""
    tensors, metadata = read_weights(generator.network), json.dumps(generator.metadata())
    return safetensors.torch.save(tensors, {METADATA_KEY: metadata, _DIGEST_KEY: _digest(tensors, metadata)})


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    """A sha256 over the metadata, and the name, shape, type and values of each tensor."""
    digest = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load_safetensors(path: Path, direction: Direction | None) -> Generator:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged, or not a .safetensors file ({error})") from error
    if _DIGEST_KEY in metadata and metadata[_DIGEST_KEY] != _digest(tensors, metadata.get(METADATA_KEY, "")):
        raise UserError(f"{path} is damaged: its sha256 is not the one in its header; export it again")
    if METADATA_KEY not in metadata:
        raise UserError(f"{path} does not hold one exported generator; of a checkpoint, give the folder")
    try:
        metadata = read_metadata(metadata[METADATA_KEY], path)
        check(metadata, {"model": dict})
    except DocumentError as error:
        raise UserError(f"{path} is damaged: its metadata cannot be read ({error}); export it again") from error
    pixel_formats = read_pixel_formats(metadata, str(path))
    direction = check_direction(direction, metadata["direction"], path)
    model = from_dict(ModelConfig, metadata["model"], where=str(path))
    with torch.device("meta"):
        network = build_generator(model, direction)
    check_weights(network, tensors, str(path))  # before any memory is taken for it
    network.to_empty(device="cpu")
    assign_weights(network, tensors, str(path))
    return Generator(freeze(network), model, direction, *(pixel_formats or _default_pixel_formats(model, direction)))


def _default_pixel_formats(model: ModelConfig, direction: Direction) -> tuple[PixelFormat, PixelFormat]:
    """8-bit images, as input and output: of files without pixel formats."""
    pixel_formats = default_pixel_formats(model)
    return (pixel_formats["A"], pixel_formats["B"]) if direction == "AtoB" else (pixel_formats["B"], pixel_formats["A"])


def _load_reference(path: Path, direction: Direction | None) -> Generator:
    """A bare .pth does not store its direction; a name that ends in G_A or G_B shows it."""
    network, model = load_reference_generator(path)
    named: dict[str, Direction] = {"G_A": "AtoB", "G_B": "BtoA"}
    stored = next((d for name, d in named.items() if path.stem.endswith(f"_{name}")), direction or "AtoB")
    direction = check_direction(direction, stored, path)
    if direction == "BtoA":  # the model was read as if it were G_A
        model = _swap_channels(model)
    return Generator(network, model, direction, *_default_pixel_formats(model, direction))
