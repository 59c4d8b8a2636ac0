"""What a resumed run takes from its checkpoint, what it may change, and what it must not."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from cyclegan_fast.checkpoint import Settings, latest_checkpoint, read_settings
from cyclegan_fast.config import PixelFormat, RunConfig, TrainConfig, from_dict, to_dict, with_settings
from cyclegan_fast.data.locations.folders import is_run
from cyclegan_fast.errors import UserError
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.monitoring.run_report import SETTINGS_NAME
from cyclegan_fast.monitoring.run_report import read_settings as read_run_settings

log = logging.getLogger(__name__)

# Settings that may differ, by group; every other one shapes what is continued.
FREE_ON_RESUME = {
    "optim": {"n_epochs", "n_epochs_decay"},
    "data": {"data", "data_A", "data_B", "test_A", "test_B", "loader", "cache_share", "workers"},
    "run": {field.name for field in dataclasses.fields(RunConfig)} - {"seed", "amp"},
}


def settings_to_continue(out: Path) -> TrainConfig | None:
    """Returns the settings of the run in the folder `out`; None if it holds no run.

    They are those of its newest checkpoint, or of its settings file where it ended before the first one.

    Raises:
        UserError: They are damaged.
    """
    newest = latest_checkpoint(out)
    if newest is not None:
        return with_settings(read_settings(newest).config, {"out": out})
    if not is_run(out):
        return None
    stored = from_dict(TrainConfig, read_run_settings(out), where=str(out / SETTINGS_NAME))
    return with_settings(stored, {"out": out})


def checkpoint_to_continue(config: TrainConfig) -> Path | None:
    """Returns the newest checkpoint in the folder of a run; None for a run that starts afresh.

    Raises:
        UserError: The folder holds a run which is not to be resumed, or whose settings rule that out.
    """
    out, newest = config.run.out, latest_checkpoint(config.run.out)
    if config.run.resume != "auto":
        if newest is not None:
            raise UserError(f"{out} holds a run already: continue it with --resume auto, or choose another --out")
        if is_run(out) and read_events(out):  # a start would empty its log
            raise UserError(
                f"{out} holds a run already, without a checkpoint: start it again with --resume auto, or choose "
                "another --out"
            )
    elif newest is not None:
        refuse(newest, config, setting_differences(read_settings(newest).config, config))
    return newest


def refuse_nothing_to_continue(config: TrainConfig) -> None:
    """Refuses to resume a run that names no images where there is none: the folder is likely misspelt.

    Raises:
        UserError: That is so.
    """
    out = config.run.out
    if config.run.resume == "auto" and not (latest_checkpoint(out) or is_run(out)):
        raise UserError(
            f"nothing to continue in {out}, and no --data: name the --out of a run, or leave out --resume to train on "
            "rendered scenes"
        )


def log_fresh_start(config: TrainConfig) -> None:
    """Logs that a run which is to be resumed starts at step 0, as there is no checkpoint."""
    out = config.run.out
    if config.run.resume != "auto":
        return
    if is_run(out):
        log.info("%s has no checkpoint yet: starting again from step 0 with its settings", out)
    else:
        log.info("nothing to continue in %s: starting afresh", out)


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
    if stored.progress.get("images") != list(image_counts):
        differences.append(f"images were {stored.progress.get('images')}, now {list(image_counts)}")
    return differences
