"""python -m cyclegan_fast.export: turns a checkpoint into a file that travels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclegan_fast.cli import run_command


def export(checkpoint: Path, out: Path, *, direction: Literal["AtoB", "BtoA"] | None = None) -> None:
    """Exports one trained generator as .onnx, .safetensors or .pth; the name of --out tells which.

    Example: python -m cyclegan_fast.export --checkpoint runs/horse2zebra --direction AtoB --out horse2zebra.onnx

    An .onnx file runs in any ONNX Runtime, on any batch size and picture size; it is compared with torch before it is
    written, and <out>.json beside it tells its settings. A .safetensors file holds the weights and their settings. A
    .pth file is what the authors' PyTorch implementation reads.

    Args:
        checkpoint: A run's folder (its newest checkpoint), a checkpoint, a .safetensors file or a .pth file.
        out: File to write; an older one is replaced.
        direction: AtoB or BtoA, as in trainA and trainB. By default what the checkpoint holds; AtoB if both.
    """
    from cyclegan_fast.engine import export_engine

    export_engine(checkpoint, out, direction)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(export)
