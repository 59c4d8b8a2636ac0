"""What a resumed run takes from its checkpoint, what it may change, and what it must not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from cyclegan_fast.checkpoint import Settings, latest_checkpoint, read_settings
from cyclegan_fast.config import PixelFormat, RunConfig, TrainConfig, to_dict, with_settings
from cyclegan_fast.errors import UserError

# Settings that may differ, by group; every other one shapes what is continued.
FREE_ON_RESUME = {
    "optim": {"n_epochs", "n_epochs_decay"},
    "data": {"data", "data_A", "data_B", "loader", "cache_share", "workers"},
    "run": {field.name for field in dataclasses.fields(RunConfig)} - {"seed", "amp"},
}


def settings_to_continue(out: Path) -> TrainConfig | None:
    """Returns the settings of the run in the folder `out`, from its newest checkpoint; None if there is none."""
    newest = latest_checkpoint(out)
    return None if newest is None else with_settings(read_settings(newest).config, {"out": out})


def checkpoint_to_continue(config: TrainConfig) -> Path | None:
    """Returns the newest checkpoint in the folder of a run; None for a run that starts afresh.

    Raises:
        UserError: There is one, and the run is not to be resumed, or its settings rule that out.
    """
    newest = latest_checkpoint(config.run.out)
    if newest is None:
        return None
    if config.run.resume != "auto":
        raise UserError(
            f"{config.run.out} holds a run already: continue it with --resume auto, or choose another --out"
        )
    refuse(newest, config, setting_differences(read_settings(newest).config, config))
    return newest


def refuse(checkpoint: Path, config: TrainConfig, differences: Sequence[str]) -> None:
    """Refuses to continue a checkpoint if anything differs.

    Raises:
        UserError: Something does.
    """
    if differences:
        raise UserError(
            f"{checkpoint} was trained with other settings: {'; '.join(differences)}; leave that as it was, or start "
            f"another run from its weights: --init-from {config.run.out} --out ANOTHER"
        )


def setting_differences(stored: TrainConfig, config: TrainConfig) -> list[str]:
    """Lists the settings that rule an exact resume out, each as ``--name was <stored>, now <given>``."""
    before, now = to_dict(stored), to_dict(config)
    differences = [
        f"--{name.replace('_', '-')} was {before[group][name]}, now {now[group][name]}"
        for group in now
        for name in now[group]
        if name not in FREE_ON_RESUME.get(group, set()) and before[group][name] != now[group][name]
    ]
    if config.run.init_from not in (None, stored.run.init_from):
        differences.append(f"--init-from was {stored.run.init_from}, now {config.run.init_from}")
    return differences


def image_differences(
    stored: Settings, pixel_formats: Mapping[str, PixelFormat], image_counts: Sequence[int]
) -> list[str]:
    """Lists what of the images rules an exact resume out.

    Args:
        stored: The settings of the checkpoint.
        pixel_formats: The pixel formats of A and B now.
        image_counts: The numbers of training images of A and B now.
    """
    differences = []
    for domain, pixel_format in pixel_formats.items():
        before, now = to_dict(stored.pixel_formats[domain]), to_dict(pixel_format)
        differences += [
            f"{key} of {domain} was {before[key]}, now {now[key]}" for key in now if before[key] != now[key]
        ]
    if stored.progress["images"] != list(image_counts):
        differences.append(f"images were {stored.progress['images']}, now {list(image_counts)}")
    return differences
