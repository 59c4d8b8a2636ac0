"""The three ways to cut a large image: how long each takes, and how far it is from the image in one piece.

python -m benchmarks.bench_tiles --checkpoint runs/demo --side 1536

The image is a mosaic of scenes, so that its parts differ; the table goes into docs/large_images.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.measure import BEGIN, END
from cyclegan_fast.data.scenes import draw_scene, render_photo
from cyclegan_fast.engine import Tiling, load_engine
from cyclegan_fast.engine.tiling.rows import TensorRows
from cyclegan_fast.engine.tiling.tiles import translate_rows
from cyclegan_fast.monitoring.machine import machine_facts

ROUNDS = 3
PAGE = Path(__file__).resolve().parent.parent / "docs" / "large_images.md"


def mosaic(side: int, across: int = 4) -> torch.Tensor:
    """float32 [3, side, side] in [-1, 1]."""
    part = side // across
    rows = [
        torch.cat([torch.from_numpy(render_photo(draw_scene(i, j), part)) for j in range(across)], 1)
        for i in range(across)
    ]
    return torch.cat(rows).permute(2, 0, 1).float() / 127.5 - 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained run that translates scenes")
    parser.add_argument("--side", type=int, default=1536, help="pixels of the image's sides")
    arguments = parser.parse_args()
    engine = load_engine(arguments.checkpoint, direction="BtoA")
    image = mosaic(arguments.side)
    tilings = {
        "exact, strips of 256x256 pixels": Tiling("exact", 256),
        "reduced, tiles of 256": Tiling("reduced", 256),
        "tile, tiles of 512, overlap 128": Tiling("tile", 512, 128),
        "tile, tiles of 256, overlap 128": Tiling("tile", 256, 128),
        "tile, tiles of 256, overlap 0": Tiling("tile", 256, 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("one piece", *tilings)}
    made = {}
    for _ in range(ROUNDS):
        for name in seconds:
            began = time.perf_counter()
            if name == "one piece":
                made[name] = engine.run(image[None])[0].cpu()
            else:
                made[name] = torch.cat(list(translate_rows(engine, TensorRows(image), tilings[name])), 1).cpu()
            seconds[name].append(time.perf_counter() - began)
    machine = machine_facts()
    lines = [
        f"{arguments.side}x{arguments.side} pixels, a mosaic of 16 scenes, through the demo's generator on "
        f"{machine['cores']} cores of {machine['gpu'] or machine['cpu']}; the best of {ROUNDS} rounds. Distances are "
        "from the result in one piece, with values in [-1, 1]. Written by `python -m benchmarks.bench_tiles`.",
        "",
        "| | seconds | of one piece | mean distance | largest |",
        "|---|---|---|---|---|",
    ]
    for name, taken in seconds.items():
        apart = (made[name] - made["one piece"]).abs()
        cells = [name, f"{min(taken):.2f}", f"{min(taken) / min(seconds['one piece']):.2f}"]
        lines.append(f"| {' | '.join(cells)} | {apart.mean():.2g} | {apart.max():.2g} |")
    print("\n".join(lines))
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text("\n".join([head + BEGIN, "", *lines, "", END]) + rest.partition(END)[2])


if __name__ == "__main__":
    main()
