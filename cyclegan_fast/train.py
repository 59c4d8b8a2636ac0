"""python -m cyclegan_fast.train: trains a CycleGAN on two folders of images."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan_fast.cli import with_errors
from cyclegan_fast.config import TrainConfig, from_dict, to_dict
from cyclegan_fast.errors import UserError, reading_error

log = logging.getLogger(__name__)

PROG = "python -m cyclegan_fast.train"
DESCRIPTION = """Trains a CycleGAN on two folders of images, trainA and trainB.

Example: python -m cyclegan_fast.train --data horse2zebra --out runs/horse2zebra --amp --cuda-graphs

--amp alone means bf16 and --cuda-graphs alone means on. The same command with --resume auto continues a run exactly.
In --out: checkpoints/, samples/, events.jsonl, config.yaml, report.html.

Ctrl-C and SIGTERM end the run after its step, with a checkpoint and status 3; a second one ends it at once. In the
background of a script, where a shell ignores Ctrl-C's signal, only SIGTERM (kill <pid>) does."""

FLAGS_WITH_OPTIONAL_VALUE = {"amp": "bf16", "resume": "auto", "cuda_graphs": "on", "side_by_side": "on"}


@dataclass(frozen=True, kw_only=True)
class TrainCommand(TrainConfig):
    """All settings, and where to read and show them."""

    config: Path | None = None
    """YAML file of settings (as --print-config shows them); flags override it."""
    print_config: bool = False
    """Print the resolved settings as YAML and stop."""

    def settings(self) -> TrainConfig:
        """The settings alone."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainConfig)})


def parse(words: list[str]) -> TrainCommand:
    """Reads the settings: defaults, then the --config file, then the flags.

    Raises:
        UserError: The config file is missing, no YAML, or holds an unknown setting.
    """
    import tyro

    config_file, words = _read_ahead(words)
    return tyro.cli(
        TrainCommand,
        args=words,
        default=_from_file(config_file),
        prog=PROG,
        description=DESCRIPTION,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def train(words: list[str]) -> int:
    """Trains with the settings of the command line `words`; returns the exit status."""
    import yaml

    command = parse(words)
    if command.print_config:
        print(yaml.safe_dump(to_dict(command.settings()), sort_keys=False), end="")
        return 0
    from cyclegan_fast.training.trainer import EXIT_STOPPED, Trainer

    status = Trainer(command.settings()).run()
    if status == EXIT_STOPPED:
        log.info("stopped by a signal after a checkpoint; the same command with --resume auto continues")
    return status


def _read_ahead(words: list[str]) -> tuple[Path | None, list[str]]:
    """Returns the --config file, whose values are the defaults, and the words with every optional value filled in."""
    parser = argparse.ArgumentParser(
        prog=PROG, usage="%(prog)s [flags]; --help lists them", add_help=False, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path)
    for name, value in FLAGS_WITH_OPTIONAL_VALUE.items():
        spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        parser.add_argument(*spellings, dest=name, nargs="?", const=value)
    known, rest = parser.parse_known_args(words)
    given = {name: value for name, value in vars(known).items() if value is not None}
    return known.config, [*rest, *(f"--{name.replace('_', '-')}={value}" for name, value in given.items())]


def _from_file(path: Path | None) -> TrainCommand:
    if path is None:
        return TrainCommand()
    import yaml

    try:
        values: Any = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise reading_error(f"--config {path}: {error.strerror}", error) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected groups of settings (model, objective, optim, data, run)")
    return TrainCommand(**vars(from_dict(TrainConfig, values, where=str(path))))


if __name__ == "__main__":
    with_errors(lambda: train(sys.argv[1:]))
