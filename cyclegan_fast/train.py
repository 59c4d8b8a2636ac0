"""python -m cyclegan_fast.train: trains a CycleGAN on two folders of images."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan_fast.cli import with_errors
from cyclegan_fast.config import TrainConfig, from_dict, to_dict
from cyclegan_fast.errors import UserError

DESCRIPTION = """Trains a CycleGAN on two folders of images, trainA and trainB.

Example: python -m cyclegan_fast.train --data horse2zebra --out runs/horse2zebra --amp --cuda-graphs

--amp alone means bf16 and --cuda-graphs alone means on. The same command with --resume auto continues a run exactly.
In --out: checkpoints/, samples/, events.jsonl, config.yaml, report.html."""

BARE_FLAGS = {"--amp": "bf16", "--resume": "auto"} | {
    f"--{name.replace('_', sign)}": "on" for name in ("cuda_graphs", "side_by_side") for sign in "-_"
}


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

    words = _complete_bare_flags(words)
    return tyro.cli(
        TrainCommand,
        args=words,
        default=_from_file(_config_file(words)),
        prog="python -m cyclegan_fast.train",
        description=DESCRIPTION,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def train(words: list[str]) -> int:
    """Trains as the command line `words` says; returns the exit status."""
    import yaml

    command = parse(words)
    if command.print_config:
        print(yaml.safe_dump(to_dict(command.settings()), sort_keys=False), end="")
        return 0
    from cyclegan_fast.training.trainer import EXIT_STOPPED, Trainer

    status = Trainer(command.settings()).run()
    if status == EXIT_STOPPED:
        print("stopped by a signal after a checkpoint; the same command with --resume auto continues")
    return status


def _complete_bare_flags(words: list[str]) -> list[str]:
    """Gives ``--amp`` and its like their usual value where none follows."""
    completed: list[str] = []
    for i, word in enumerate(words):
        completed.append(word)
        if word in BARE_FLAGS and (i + 1 == len(words) or words[i + 1].startswith("-")):
            completed.append(BARE_FLAGS[word])
    return completed


def _config_file(words: list[str]) -> Path | None:
    found = None
    for i, word in enumerate(words):  # the last one counts, as for every flag
        if word == "--config" and i + 1 < len(words):
            found = Path(words[i + 1])
        elif word.startswith("--config="):
            found = Path(word.removeprefix("--config="))
    return found


def _from_file(path: Path | None) -> TrainCommand:
    if path is None:
        return TrainCommand()
    import yaml

    try:
        values: Any = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected groups of settings (model, objective, optim, data, run)")
    return TrainCommand(**vars(from_dict(TrainConfig, values, where=str(path))))


if __name__ == "__main__":
    with_errors(lambda: train(sys.argv[1:]))
