"""One trained generator as a file that travels: ONNX, safetensors, or the reference's .pth."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.checkpoint import save_reference_network
from cyclegan_fast.engine.generator import Generator, dump_safetensors, load_generator
from cyclegan_fast.engine.onnx import OnnxBackend, make_sidecar, sidecar_of
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically
from cyclegan_fast.nn import Direction

OPSET = 18
ALLOWED_ERROR = 1e-3  # between torch and the exported graph, on images in [-1, 1]


def export_engine(checkpoint: Path, out: Path, direction: Direction | None = None) -> Path:
    """Exports one generator; the suffix of `out` names the format.

    Args:
        checkpoint: Whatever `load_generator` takes: a run folder, a checkpoint, a .safetensors or .pth file.
        out: File to write, in one move: .onnx (any batch size and any sides the network allows; beside it
            ``<out>.json`` with its settings and sha256), .safetensors (weights with their settings), or .pth (as the
            reference reads it).
        direction: AtoB or BtoA, after the folders trainA and trainB; by default what `checkpoint` holds, or AtoB.

    Returns:
        `out`.

    Raises:
        UserError: The suffix is unknown, the checkpoint cannot be used, a library is missing, or the exported graph
            does not compute what torch computes; nothing is written then.
    """
    out = Path(out)
    if out.suffix not in _WRITERS:
        raise UserError(f"{out}: the name must end in {', '.join(_WRITERS)}, which tells the format")
    _WRITERS[out.suffix](load_generator(checkpoint, direction), out)
    return out


def _write_safetensors(generator: Generator, out: Path) -> None:
    write_atomically(out, dump_safetensors(generator))


def _write_reference(generator: Generator, out: Path) -> None:
    if "float" in (generator.in_form.depth, generator.out_form.depth):
        raise UserError(f"{out}: a .pth file cannot tell the range of floating-point images: use .safetensors or .onnx")
    save_reference_network(out, generator.network)


def _write_onnx(generator: Generator, out: Path) -> None:
    content = to_onnx(generator)
    check_onnx(content, generator)
    facts = generator.facts() | {
        "in_channels": generator.in_channels,
        "out_channels": generator.out_channels,
        "multiple": generator.multiple,
        "smallest": generator.smallest,
        "opset": OPSET,
    }
    write_atomically(out, content)
    write_atomically(sidecar_of(out), make_sidecar(content, facts))


_WRITERS: dict[str, Callable[[Generator, Path], None]] = {
    ".onnx": _write_onnx,
    ".safetensors": _write_safetensors,
    ".pth": _write_reference,
}


def to_onnx(generator: Generator) -> bytes:
    """The ONNX file's content: input "image", output "translated", [N, C, multiple * h, multiple * w]."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("exporting to ONNX needs more packages: pip install 'cyclegan-fast[onnx]'") from error
    unit = generator.multiple
    least = -(-generator.smallest // unit)
    sides = {2: unit * torch.export.Dim("h", min=least), 3: unit * torch.export.Dim("w", min=least)}
    example = _images(generator, 2, 4 * unit, 6 * unit)  # sizes of 1 would be taken for constants
    with ops.use_reference(), torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            generator.network,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["translated"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)} | sides,),
        )
    assert program is not None  # dynamo=True without a file
    return program.model_proto.SerializeToString()


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps what torch's exporter says about itself from the user."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def check_onnx(content: bytes, generator: Generator) -> None:
    """Compares the graph with torch on fresh images of a size that it was not traced with.

    Raises:
        UserError: They differ by more than `ALLOWED_ERROR`.
    """
    unit = generator.multiple
    images = _images(generator, 1, 3 * unit, 5 * unit)
    with torch.inference_mode():
        expected = generator.network(images)
    made = OnnxBackend(content, {}, name="the exported graph", device="cpu").run(images)
    error = (made - expected).abs().max().item()
    if not error <= ALLOWED_ERROR:
        raise UserError(f"the exported graph differs from torch by {error:.2g} (at most {ALLOWED_ERROR:g} is allowed)")


def _images(generator: Generator, n: int, height: int, width: int) -> Tensor:
    """Random images in [-1, 1], [n, in_channels, height, width], that leave torch's own stream of numbers alone."""
    fresh = torch.Generator()
    fresh.seed()
    return torch.rand(n, generator.in_channels, height, width, generator=fresh) * 2 - 1
