"""The .pth files of the authors' PyTorch implementation, read and written.

``{epoch}_net_{G_A,G_B,D_A,D_B}.pth`` (and ``latest_net_G.pth`` of the published generators) are bare state_dicts
whose names come from positions in nn.Sequential. Here every network's modules are listed beside those positions, once,
and all else follows from the list. What a file does not state, such as the number of blocks, follows from its names.
"""

from __future__ import annotations

import io
import logging
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cyclegan_fast.checkpoint.native import Networks
from cyclegan_fast.checkpoint.weights import assign_weights, check_weights, freeze, read_weights
from cyclegan_fast.config import ModelConfig
from cyclegan_fast.documents import shown
from cyclegan_fast.errors import UserError, reading_error
from cyclegan_fast.files import write_atomically
from cyclegan_fast.nn import NLayerDiscriminator, PixelDiscriminator, ResnetGenerator, UnetGenerator, build_generator
from cyclegan_fast.nn.norm import Norm

log = logging.getLogger(__name__)

_FILE_NAME = re.compile(r"(?P<epoch>.+)_net_(?P<network>G|G_A|G_B|D|D_A|D_B)\.pth")
_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def load_reference_generator(path: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, ModelConfig]:
    """Builds the generator of a bare .pth, in evaluation and frozen; draws no random numbers.

    Returns:
        The generator, and settings under which it is G_A (its input channels are ``channels_A``).

    Raises:
        UserError: The file is missing, damaged, holds anything but tensors, or is no generator of the reference.
    """
    tensors = read_reference(path)
    config = infer_model_config(tensors, str(path))
    with torch.device("meta"):
        generator = build_generator(config)
    named = from_reference(generator, tensors, str(path))
    check_weights(generator, named, str(path))  # before any memory is taken for it
    generator.to_empty(device=device)
    assign_weights(generator, named, str(path))
    return freeze(generator), config


def load_reference_folder(source: Path, networks: Networks, epoch: str | None = None) -> None:
    """Loads ``{epoch}_net_{name}.pth`` of a folder, or one such file, into the networks of these names.

    ``{epoch}_net_G.pth``, one generator without its counterpart as it is published and as pix2pix has it, is G_A;
    ``{epoch}_net_D.pth`` is D_A. Networks without a file keep their weights, and a warning names them.

    Args:
        source: The folder, or the file of one generator.
        networks: By name: G_A, G_B, D_A, D_B.
        epoch: Which of a folder's; by default latest, or else the highest number.

    Raises:
        UserError: There is no generator's file, or a file is damaged or does not fit its network.
    """
    files = _find_files(Path(source), epoch)
    loaded = {
        name: from_reference(network, read_reference(files[name]), str(files[name]))
        for name, network in networks.items()
        if name in files
    }
    for name, tensors in loaded.items():
        assign_weights(networks[name], tensors, str(files[name]))
    if missing := [name for name in networks if name not in files]:
        log.warning("%s holds no %s: fresh weights stay there", source, ", ".join(missing))


def _find_files(source: Path, epoch: str | None) -> dict[str, Path]:
    """The .pth file of each network that `source` holds, of one epoch; at least one generator's."""
    found: dict[str, dict[str, Path]] = {}  # epoch -> network -> file
    for path in sorted(source.glob("*.pth")) if source.is_dir() else [source]:
        if path.is_file() and (match := _FILE_NAME.fullmatch(path.name)):
            found.setdefault(match["epoch"], {})[match["network"]] = path
    usable = {name: files for name, files in found.items() if not files.keys().isdisjoint(("G", "G_A", "G_B"))}
    order = sorted(usable, key=lambda name: (name == "latest", int(name) if name.isdecimal() else -1))
    chosen = epoch or (order[-1] if order else "latest")
    if chosen not in usable:
        raise UserError(f"{source}: neither a checkpoint of ours nor a file such as {chosen}_net_G_A.pth is there")
    files = usable[chosen]
    for single in "GD":  # of pix2pix, which has one of each, and of published generators
        if single in files:
            files.setdefault(f"{single}_A", files.pop(single))
    return files


def save_reference(folder: Path, networks: Networks, epoch: str = "latest") -> list[Path]:
    """Writes every network as ``{epoch}_net_{name}.pth``, as the reference reads them.

    Raises:
        UserError: The folder cannot be written.
    """
    paths = []
    for name, network in networks.items():
        paths.append(Path(folder) / f"{epoch}_net_{name}.pth")
        save_reference_network(paths[-1], network)
    return paths


def save_reference_network(path: Path, network: nn.Module) -> None:
    """Writes one network as a bare state_dict with the reference's names, in one move.

    Raises:
        UserError: The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(to_reference(network), buffer)
    write_atomically(Path(path), buffer.getvalue())


def read_reference(path: Path) -> dict[str, Tensor]:
    """Reads a bare state_dict, without the ``module.`` that DataParallel puts before its names.

    Only tensors are ever unpickled: a file that asks for anything else is refused, and no option loosens this.

    Raises:
        UserError: The file is missing, damaged, or holds anything but tensors.
    """
    try:
        content = io.BytesIO(Path(path).read_bytes())
    except OSError as error:
        raise reading_error(f"{path}: {error.strerror or error}", error) from error
    try:
        _check_archive(content, path)
        stored = torch.load(content, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged or holds more than tensors, such as code that would run on loading: it is refused; "
            "save it again as a plain state_dict"
        ) from error
    except Exception as error:  # a truncated archive raises anything from EOFError to OSError
        raise UserError(f"{path} is damaged, or not a .pth file ({type(error).__name__})") from error
    if not isinstance(stored, Mapping) or not all(isinstance(v, Tensor) for k, v in stored.items() if k != "_metadata"):
        raise UserError(f"{path} is not a bare state_dict, names with tensors, as the reference saves its networks")
    tensors = {str(key).removeprefix("module."): value for key, value in stored.items() if key != "_metadata"}
    _check_tensors(tensors, content.getbuffer().nbytes, path)
    return tensors


def _check_archive(content: io.BytesIO, path: Path) -> None:
    """Compares the parts of a .pth with their checksums, which torch does not; older ones are no archive and have none.

    Raises:
        UserError: A part differs; or the parts would take more memory than the file, as none that torch packs do.
        BadZipFile: It is a damaged archive.
    """
    is_archive = content.read(4) == b"PK\3\4"
    if is_archive:
        with zipfile.ZipFile(content) as archive:
            parts = archive.infolist()
            size = sum(part.file_size for part in parts)
            if any(part.compress_type for part in parts) or size > content.getbuffer().nbytes:
                raise UserError(f"{path} is an archive that torch.save has not written: it is refused")
            if damaged := archive.testzip():
                raise UserError(
                    f"{path} is damaged: the checksum of {damaged} differs; copy the file again from where it came, or "
                    "save it again"
                )
    content.seek(0)


def _check_tensors(tensors: Mapping[str, Tensor], size: int, path: Path) -> None:
    """Refuses tensors that no network has: without values, or with more of them than the file holds.

    A view that repeats one value may have any shape, and a network would take the memory that the shape asks for.
    """
    for name, tensor in tensors.items():
        dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not dense or tensor.is_complex() or tensor.dtype == torch.bool:
            raise UserError(f"{path}: {shown(name)} is no tensor of plain numbers, as the reference saves them")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > size:
        raise UserError(f"{path} has tensors of more values than it holds, as torch.save makes of views: it is refused")


def to_reference(network: nn.Module) -> OrderedDict[str, Tensor]:
    """Weights of one of our networks under the reference's names; contiguous copies on the CPU."""
    theirs = dict(_positions(network))
    named = OrderedDict()
    for name, tensor in read_weights(network).items():
        module, leaf = name.rsplit(".", 1)
        named[f"{theirs[module]}.{leaf}"] = tensor
    return named


def from_reference(network: nn.Module, tensors: Mapping[str, Tensor], source: str = "the file") -> dict[str, Tensor]:
    """Renames the reference's tensors as `network`, one of ours, names them; names it lacks stay as they are.

    Running statistics of instance norms, which old files carry and nothing uses, are dropped with a warning.
    """
    ours = {theirs: module for module, theirs in _positions(network)}
    named, dropped = {}, 0
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf in _RUNNING and f"{module}.weight" not in tensors:  # a batch norm has a weight as well
            dropped += 1
        else:
            named[f"{ours[module]}.{leaf}" if module in ours else name] = tensor
    if dropped:
        log.warning("%s: %d running statistics of instance norms are dropped; nothing uses them", source, dropped)
    return named


def infer_model_config(tensors: Mapping[str, Tensor], source: str = "the file") -> ModelConfig:
    """Reads a generator's settings from the names and shapes of its state_dict, as if it were G_A.

    A U-Net's dropout leaves no trace in the names: it comes back as off, which is the same network in evaluation.

    Raises:
        UserError: It is not a generator of the reference.
    """
    try:
        if "model.model.0.weight" in tensors:
            return _infer_unet(tensors)
        return _infer_resnet(tensors)
    except UserError:
        raise
    except (KeyError, ValueError) as error:
        raise UserError(f"{source} is not a generator of the reference (resnet_<N>blocks or unet_<side>)") from error


def _infer_resnet(tensors: Mapping[str, Tensor]) -> ModelConfig:
    blocks = 1 + max(int(m[1]) for key in tensors if (m := re.match(r"model\.(\d+)\.conv_block\.", key))) - 10
    ngf, into = tensors["model.1.weight"].shape[:2]
    return ModelConfig(
        generator=f"resnet_{blocks}blocks",
        ngf=ngf,
        channels_A=into,
        channels_B=tensors[f"model.{17 + blocks}.weight"].shape[0],
        norm=_infer_norm(tensors, conv="model.1", norm="model.2"),
        dropout="model.10.conv_block.6.weight" in tensors and tensors["model.10.conv_block.6.weight"].dim() == 4,
    )


def _infer_unet(tensors: Mapping[str, Tensor]) -> ModelConfig:
    depth = max(key.count(".model") for key in tensors)  # levels lie within each other
    ngf, into = tensors["model.model.0.weight"].shape[:2]
    return ModelConfig(
        generator=f"unet_{2**depth}",
        ngf=ngf,
        channels_A=into,
        channels_B=tensors["model.model.3.weight"].shape[1],
        norm=_infer_norm(tensors, conv="model.model.0", norm="model.model.1.model.2"),
    )


def _infer_norm(tensors: Mapping[str, Tensor], conv: str, norm: str) -> Norm:
    """The norm after a convolution: a batch norm has weights; before an instance norm the convolution has a bias."""
    if f"{norm}.weight" in tensors:
        return "batch"
    return "instance" if f"{conv}.bias" in tensors else "none"


def _positions(network: nn.Module) -> Iterator[tuple[str, str]]:
    """(our module, the reference's) for everything in a network that can hold weights."""
    if isinstance(network, ResnetGenerator):
        return _resnet_positions(network)
    if isinstance(network, UnetGenerator):
        return _unet_positions(network)
    if isinstance(network, NLayerDiscriminator):
        return _n_layer_positions(network)
    if isinstance(network, PixelDiscriminator):
        return iter([("first", "net.0"), ("middle", "net.2"), ("norm.norm", "net.3"), ("last", "net.5")])
    raise TypeError(f"the reference has no network like {type(network).__name__}")


def _resnet_positions(network: ResnetGenerator) -> Iterator[tuple[str, str]]:
    yield from [("stem", "model.1"), ("stem_norm.norm", "model.2")]
    for i, at in enumerate((4, 7)):
        yield from [(f"down.{i}", f"model.{at}"), (f"down_norm.{i}.norm", f"model.{at + 1}")]
    for i, block in enumerate(network.blocks):
        ours, theirs = f"blocks.{i}", f"model.{10 + i}.conv_block"
        second = 5 if block.dropout is None else 6
        yield from [(f"{ours}.conv1", f"{theirs}.1"), (f"{ours}.norm1.norm", f"{theirs}.2")]
        yield from [(f"{ours}.conv2", f"{theirs}.{second}"), (f"{ours}.norm2.norm", f"{theirs}.{second + 1}")]
    up = 10 + len(network.blocks)
    for i, at in enumerate((up, up + 3)):
        yield from [(f"up.{i}", f"model.{at}"), (f"up_norm.{i}.norm", f"model.{at + 1}")]
    yield "head", f"model.{up + 7}"


def _unet_positions(network: UnetGenerator) -> Iterator[tuple[str, str]]:
    """Each level of the reference's U-Net lies within the one before: at 1 in the outermost, at 3 in the others."""
    last = len(network.down) - 1
    yield from [("down.0", "model.model.0"), ("head", "model.model.3")]
    at = "model.model.1.model"
    for level in range(1, last):
        yield from [(f"down.{level}", f"{at}.1"), (f"down_norm.{level - 1}.norm", f"{at}.2")]
        yield from [(f"up.{last - level}", f"{at}.5"), (f"up_norm.{last - level}.norm", f"{at}.6")]
        at = f"{at}.3.model"
    yield from [(f"down.{last}", f"{at}.1"), ("up.0", f"{at}.3"), ("up_norm.0.norm", f"{at}.4")]


def _n_layer_positions(network: NLayerDiscriminator) -> Iterator[tuple[str, str]]:
    yield "first", "model.0"
    for i in range(len(network.middle)):
        yield from [(f"middle.{i}", f"model.{2 + 3 * i}"), (f"norms.{i}.norm", f"model.{3 + 3 * i}")]
    yield "last", f"model.{2 + 3 * len(network.middle)}"
