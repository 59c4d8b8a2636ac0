"""What a resumed run may change, and what it must not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from cyclegan_fast.checkpoint import Settings
from cyclegan_fast.config import PixelFormat, RunConfig, TrainConfig, to_dict

# Settings that may differ, by group; every other one shapes what is continued.
FREE_ON_RESUME = {
    "optim": {"n_epochs", "n_epochs_decay"},
    "data": {"data", "data_A", "data_B", "loader", "cache_share", "workers"},
    "run": {field.name for field in dataclasses.fields(RunConfig)} - {"seed", "amp"},
}


def resume_differences(
    stored: Settings, config: TrainConfig, pixel_formats: Mapping[str, PixelFormat], image_counts: Sequence[int]
) -> list[str]:
    """Lists what rules an exact resume out, each as ``name was <stored>, now <given>``; empty if nothing does.

    Args:
        stored: The settings of the checkpoint.
        config: The settings of the run that wants to continue it.
        pixel_formats: Its pixel formats of A and B.
        image_counts: Its numbers of training images of A and B.
    """
    before, now = to_dict(stored.config), to_dict(config)
    differences = [
        f"{name} was {before[group][name]}, now {now[group][name]}"
        for group in now
        for name in now[group]
        if name not in FREE_ON_RESUME.get(group, set()) and before[group][name] != now[group][name]
    ]
    for domain, pixel_format in pixel_formats.items():
        before, now = to_dict(stored.pixel_formats[domain]), to_dict(pixel_format)
        differences += [
            f"{key} of {domain} was {before[key]}, now {now[key]}" for key in now if before[key] != now[key]
        ]
    if stored.progress["images"] != list(image_counts):
        differences.append(f"images were {stored.progress['images']}, now {list(image_counts)}")
    return differences
