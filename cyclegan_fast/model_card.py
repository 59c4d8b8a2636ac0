"""python -m cyclegan_fast.model_card: a trained model as a folder that is ready to publish."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cyclegan_fast.cli import run_command


def model_card(
    checkpoint: Path,
    out: Path,
    *,
    images_A: Path | None = None,
    images_B: Path | None = None,
    title: str | None = None,
    licence: str | None = None,
    device: str = "auto",
) -> None:
    """Writes a folder with a model card: weights, settings, sample images, scores, and how to run it.

    Example: python -m cyclegan_fast.model_card --checkpoint runs/horse2zebra --out zebras --licence cc-by-4.0

    The card is README.md with the head that model hubs read. Weights are .safetensors, which load_engine, translate and
    export take. Places on this machine are left out of the settings. Scores are those that
    python -m cyclegan_fast.evaluate left as scores.json in the run's folder, or else those of the training.

    Args:
        checkpoint: A run's folder (its newest checkpoint), a checkpoint, a .safetensors or .pth file.
        out: Folder to write; it must not exist.
        images_A: Images of domain A to show translated; by default testA of the training set, if it is there.
        images_B: The same of domain B, and testB.
        title: Heading of the card; by default the folder's name.
        licence: Under which the weights are published, as an SPDX name.
        device: What translates the images: auto (CUDA where there is one), cpu, cuda or cuda:<index>.
    """
    from cyclegan_fast.engine.export.model_card import write_card
    from cyclegan_fast.metrics import Direction

    given: dict[Direction, Path | None] = {"AtoB": images_A, "BtoA": images_B}
    images = {direction: path for direction, path in given.items() if path is not None} or None
    folder = write_card(checkpoint, out, images=images, title=title, licence=licence, device=device)
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command(model_card, words)


if __name__ == "__main__":
    main()
