"""What a run shows of its images: grids while it trains, and the report at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cyclegan_fast.config import PixelFormat, TrainConfig, to_dict
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.monitoring.grids import shown_channels
from cyclegan_fast.monitoring.machine import machine_info
from cyclegan_fast.monitoring.report import ImageBlock, write_report
from cyclegan_fast.training.step import Images

MAX_ROWS = 4  # images of each domain
STAGES = (  # caption, image of the row that starts in A, of the row that starts in B
    ("real", "real_A", "real_B"),
    ("translated", "fake_B", "fake_A"),
    ("reconstructed", "rec_A", "rec_B"),
    ("identity", "idt_B", "idt_A"),
)
USAGE = """import cyclegan_fast

engine = cyclegan_fast.load_engine("{out}", direction="{direction}")
image = cyclegan_fast.infer(engine, "a.jpg")"""


def image_rows(images: Images) -> tuple[list[str], list[list[Tensor]]]:
    """Returns captions and rows of images [C, H, W]: A -> B -> A and B -> A -> B in turn."""
    stages = [stage for stage in STAGES if all(name in images for name in stage[1:])]
    count = min(MAX_ROWS, len(images["real_A"])) if images else 0
    rows = [[images[stage[domain]][i].cpu() for stage in stages] for i in range(count) for domain in (1, 2)]
    return [caption for caption, *_ in stages], rows


def channels_note(pixel_formats: Mapping[str, PixelFormat]) -> str:
    """Returns which channels of A and B are shown where an image has more than people can see; empty if all are."""
    return "; ".join(
        f"of the {pixel_format.channels} channels of {domain} {shown}"
        for domain, pixel_format in pixel_formats.items()
        if (shown := shown_channels(pixel_format.channels))
    )


def write_run_report(config: TrainConfig, images: Images, note: str) -> Path:
    """Writes report.html of a run into its folder.

    Args:
        config: The run's settings.
        images: Those of its last step; may be empty.
        note: What the images' title adds, from `channels_note`.

    Returns:
        The report's path.
    """
    columns, rows = image_rows(images)
    out = config.run.out
    title = "Images of the last step" + f" ({note})" * bool(note)
    return write_report(
        out / "report.html",
        title=f"CycleGAN {out.name}",
        settings=to_dict(config),
        machine=machine_info(),
        events=read_events(out),
        images=[ImageBlock(title=title, columns=columns, rows=rows)] if rows else [],
        usage=USAGE.format(out=out, direction=config.data.direction),
    )
