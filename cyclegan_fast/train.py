"""python -m cyclegan_fast.train: trains a CycleGAN on two folders of images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cyclegan_fast.cli import EXIT_USER_ERROR, run_command
from cyclegan_fast.config import TrainConfig, check_ranges, from_dict, to_dict
from cyclegan_fast.documents import MAX_YAML_BYTES, DocumentError, parse_yaml, read_limited
from cyclegan_fast.errors import AgreedError, MissingFileError, UserError
from cyclegan_fast.logs import show_warnings_only, stream_errors_ignored
from cyclegan_fast.models import with_given
from cyclegan_fast.training.process import EXIT_STOPPED, StopSignal

log = logging.getLogger(__name__)

MOST_USED = (
    *("data", "out", "load_size", "crop_size", "n_epochs", "n_epochs_decay", "max_steps", "batch_size"),
    *("amp", "cuda_graphs", "device", "resume", "init_from"),
)


def train(*, config: Path | None = None, print_config: bool = False, estimate: bool = False, **given: Any) -> int:
    """Trains a CycleGAN on two folders of images, trainA and trainB.

    For example:
        python -m cyclegan_fast.train --amp --cuda-graphs
        python -m cyclegan_fast.train --data horse2zebra --out runs/horse2zebra --amp --cuda-graphs
        python -m cyclegan_fast.train --out runs/horse2zebra --resume auto

    Without --data it trains on rendered scenes. --resume auto continues the run in --out exactly, with its settings.
    In --out: report.html, samples/, checkpoints/, events.jsonl, status.json, config.yaml, and tensorboard/ where
    TensorBoard is installed.

    Ctrl-C and SIGTERM end the run after its step, with a checkpoint and status 3, or at once and with the same status
    while there is no step yet; a second one ends it at once, with status 130 (Ctrl-C) or 143. In the background of a
    script, where a shell ignores Ctrl-C's signal, only SIGTERM (kill <pid>) does.

    Args:
        config: YAML file of settings (as --print-config shows them); flags override it.
        print_config: Print the resolved settings as YAML and stop.
        estimate: Print the time, memory and disk that the run will take, and stop: measured in a few steps of it, or
            with --device cuda where there is no GPU a prediction.
        given: Settings by name.
    """
    import yaml

    settings = resolve(config, given)
    if print_config:
        print(yaml.safe_dump(to_dict(settings), sort_keys=False), end="")
        return 0
    if estimate:
        _refuse_ranks("--estimate")
        _print_estimate(settings)
        return 0
    with StopSignal(at_once=True) as stop, stream_errors_ignored():
        try:
            from cyclegan_fast.training.meeting import find_place
            from cyclegan_fast.training.trainer import Trainer

            place = find_place()
            if place.rank:
                show_warnings_only()
            status = Trainer(settings).run(stop)
        except AgreedError:
            if place.local_rank == 0:
                raise
            return EXIT_USER_ERROR  # the first process of this host reports it
        except KeyboardInterrupt:
            if not stop.at_once:
                raise
            log.info("stopped by a signal before the first step: the same command starts it again")
            return EXIT_STOPPED
        if status == EXIT_STOPPED:
            log.info("stopped by a signal after a checkpoint; the same command with --resume auto continues")
    return status


def _refuse_ranks(flag: str) -> None:
    from cyclegan_fast.training.meeting import find_place

    if find_place().world > 1:
        raise UserError(f"{flag} is about one process: run it without torchrun")


def _print_estimate(settings: TrainConfig) -> None:
    from cyclegan_fast.training.plan import estimate, prediction

    if prediction.is_all_there_is(settings.run.device):
        log.info("no GPU is here: what follows is counted and predicted, not measured")
        lines = prediction.as_text(prediction.predict(settings))
    else:
        log.info("training a few steps, of which nothing is kept")
        lines = estimate.as_text(estimate.estimate(settings), settings.run.out)
    for line in lines:
        print(line)


def resolve(config: Path | None, given: dict[str, Any]) -> TrainConfig:
    """Returns the settings of a run: the defaults, then a YAML file, then the flags.

    The defaults are those of the model. With ``resume`` the settings of the run that is continued take their place.

    Raises:
        UserError: The file is missing, no YAML, or holds an unknown setting; or a number is out of its range.
    """
    given = (_read(config) if config else {}) | given
    settings = TrainConfig()
    if given.get("resume") == "auto":
        from cyclegan_fast.training.resume import settings_to_continue

        settings = settings_to_continue(given.get("out", settings.run.out)) or settings
    settings = with_given(settings, given)
    check_ranges(settings)
    return settings


def _read(path: Path) -> dict[str, Any]:
    """Returns the settings that a YAML file holds, by name."""
    try:
        values = parse_yaml(read_limited(path, MAX_YAML_BYTES, pipes=True)) or {}
    except FileNotFoundError as error:
        raise MissingFileError(
            f"--config {path} does not exist; it is a YAML file of settings, as --print-config shows them"
        ) from error
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror}); make it readable") from error
    except DocumentError as error:
        raise UserError(f"--config {path} cannot be used: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected groups of settings (model, objective, optim, data, run)")
    settings = from_dict(TrainConfig, values, where=str(path))
    return {name: getattr(getattr(settings, group), name) for group, names in values.items() for name in names}


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command(train, words, settings=TrainConfig, first=MOST_USED, interrupted=EXIT_STOPPED)


if __name__ == "__main__":
    main()
