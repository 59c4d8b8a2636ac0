"""What a run shows of its images: grids while it trains, and the report at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cyclegan_fast.config import PixelFormat, TrainConfig, to_dict
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.monitoring.grids import shown_channels
from cyclegan_fast.monitoring.machine import machine_info
from cyclegan_fast.monitoring.report import ImageBlock, write_report
from cyclegan_fast.monitoring.samples import COLUMNS, read_samples, sample_steps

USAGE = """import cyclegan_fast

engine = cyclegan_fast.load_engine("{out}", direction="{direction}")
image = cyclegan_fast.infer(engine, "a.jpg")"""


def channels_note(pixel_formats: Mapping[str, PixelFormat]) -> str:
    """Returns which channels of A and B are shown where an image has more than people can see; empty if all are."""
    return "; ".join(
        f"of the {pixel_format.channels} channels of {domain} {shown}"
        for domain, pixel_format in pixel_formats.items()
        if (shown := shown_channels(pixel_format.channels))
    )


def write_run_report(config: TrainConfig, note: str) -> Path:
    """Writes report.html of a run into its folder.

    Args:
        config: The run's settings.
        note: What the images' title adds, from `channels_note`.

    Returns:
        The report's path.
    """
    out = config.run.out
    return write_report(
        out / "report.html",
        title=f"CycleGAN {out.name}",
        settings=to_dict(config),
        machine=machine_info(),
        events=read_events(out),
        images=_last_samples(out, note),
        usage=USAGE.format(out=out, direction=config.data.direction),
    )


def _last_samples(out: Path, note: str) -> list[ImageBlock]:
    """The newest grid, a block for each direction."""
    step = max(sample_steps(out), default=0)
    rows = read_samples(out, step)
    titles = {"A": "A → B → A", "B": "B → A → B"}
    suffix = f", step {step:,}" + f" ({note})" * bool(note)
    return [
        ImageBlock(title=titles[domain] + suffix, columns=COLUMNS, rows=[row.images for row in of_domain])
        for domain in "AB"
        if (of_domain := [row for row in rows if row.domain == domain])
    ]
