"""Ways to cut a large image: how long each takes, and how far it is from the image in one piece.

pytest benchmarks/bench_tiles.py --benchmark-only                      each on a small generator
python -m benchmarks.bench_tiles --checkpoint runs/demo --side 1536    all taking turns; writes docs/large_images.md

The image is a mosaic of scenes, so that its parts differ.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.bench_infer import Subject
from benchmarks.harness import DEVICE, timed_rounds
from benchmarks.results import write_between_markers
from cyclegan_fast.data.scenes import draw_scene, render_photo
from cyclegan_fast.engine import Engine, Tiling, load_engine
from cyclegan_fast.engine.tiling.rows import TensorRows
from cyclegan_fast.engine.tiling.tiles import translate_rows
from cyclegan_fast.monitoring.machine import machine_info

ROUNDS = 3
SIDE = 256 if harness.quick else 768  # pixels, of pytest's image
PAGE = Path(__file__).resolve().parent.parent / "docs" / "large_images.md"
ONE_PIECE = "one piece"
TILINGS = {
    ONE_PIECE: None,
    "exact, strips of 256x256 pixels": Tiling("exact", 256),
    "reduced, tiles of 256": Tiling("reduced", 256),
    "tile, tiles of 512, overlap 128": Tiling("tile", 512, 128),
    "tile, tiles of 256, overlap 128": Tiling("tile", 256, 128),
    "tile, tiles of 256, overlap 0": Tiling("tile", 256, 0),
}


def mosaic(side: int, across: int = 4) -> Tensor:
    """float32 [3, side, side] in [-1, 1]."""
    part = side // across
    rows = [
        torch.cat([torch.from_numpy(render_photo(draw_scene(i, j), part)) for j in range(across)], 1)
        for i in range(across)
    ]
    return torch.cat(rows).permute(2, 0, 1).float() / 127.5 - 1.0


def translated(engine: Engine, image: Tensor, tiling: Tiling | None) -> Tensor:
    """The translation of `image` [3, H, W], cut or in one piece, on the CPU."""
    if tiling is None:
        return engine.run(image[None])[0].cpu()
    return torch.cat(list(translate_rows(engine, TensorRows(image), tiling)), 1).cpu()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load_engine(Subject(tmp_path_factory.mktemp("subject"), blocks=3, channels=16).run, device=DEVICE.type)


@pytest.mark.parametrize("name", TILINGS)
def test_tiling(benchmark: Any, engine: Engine, name: str) -> None:
    run = functools.partial(translated, engine, mosaic(SIDE), TILINGS[name])
    result = benchmark.pedantic(run, rounds=timed_rounds(3), warmup_rounds=1)
    assert result.shape == (3, SIDE, SIDE)


def measure_tilings(engine: Engine, side: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Seconds of the best round of each tiling, and its result's distance [3, side, side] from that of one piece."""
    image = mosaic(side)
    seconds = dict.fromkeys(TILINGS, float("inf"))
    results: dict[str, Tensor] = {}
    for _ in range(ROUNDS):
        for name, tiling in TILINGS.items():
            began = time.perf_counter()
            results[name] = translated(engine, image, tiling)
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds, {name: (result - results[ONE_PIECE]).abs() for name, result in results.items()}


def page(side: int, seconds: dict[str, float], distances: dict[str, Tensor]) -> list[str]:
    """The table, in Markdown."""
    machine = machine_info()
    lines = [
        f"{side}x{side} pixels, a mosaic of 16 scenes, through the demo's generator on {machine['cores']} cores of "
        f"{machine['gpu'] or machine['cpu']}; the best of {ROUNDS} rounds. Distances are from the result in one piece, "
        "with values in [-1, 1]. Written by `python -m benchmarks.bench_tiles`.",
        "",
        "| | seconds | of one piece | mean distance | max distance |",
        "|---|---|---|---|---|",
    ]
    for name, best in seconds.items():
        cells = [name, f"{best:.2f}", f"{best / seconds[ONE_PIECE]:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {distances[name].mean():.2g} | {distances[name].max():.2g} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained run that translates scenes")
    parser.add_argument("--side", type=int, default=1536, help="pixels of the image's sides")
    arguments = parser.parse_args()
    engine = load_engine(arguments.checkpoint, direction="BtoA")
    lines = page(arguments.side, *measure_tilings(engine, arguments.side))
    print("\n".join(lines))
    write_between_markers(PAGE, lines)


if __name__ == "__main__":
    main()
