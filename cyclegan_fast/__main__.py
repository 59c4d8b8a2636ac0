"""cyclegan-fast <command>, and python -m cyclegan_fast <command>: lists the commands, and runs them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cyclegan_fast.cli import with_errors
from cyclegan_fast.cli.help import list_page
from cyclegan_fast.cli.parse import choose
from cyclegan_fast.cli.program import typed_root
from cyclegan_fast.cli.run import asks_for_help
from cyclegan_fast.version import __version__

COMMANDS = {
    "train": "train a CycleGAN on two folders of images",
    "translate": "translate an image, or a folder of them",
    "serve": "serve engines over HTTP, with a page to try them",
    "export": "turn a checkpoint into an engine or a file of weights",
    "model_card": "publish a trained model: a folder with weights, samples, scores and a model card",
    "evaluate": "score checkpoints, engines or a folder of images",
    "report": "write a run's report again, or compare several runs on one page",
    "dataset": "render synthetic scenes, check a folder of images, plan a training",
    "experiments": "train the paper's tables again, with spreads over seeds",
    "demo": "the whole way in one command, with a report",
    "doctor": "what is here, what is missing, and how to get it",
}


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command that the first of the words names; without one, lists all."""
    words = list(sys.argv[1:] if words is None else words)
    with_errors(lambda: _run(words))


def _run(words: list[str]) -> Any:
    prog = typed_root().rstrip(".")
    if words == ["--version"]:
        print(__version__)
    elif not words or (words[0].startswith("-") and asks_for_help(words)):
        entries = {name.replace("_", "-"): text for name, text in COMMANDS.items()}
        print(list_page(prog, entries, ["python -m cyclegan_fast.train --amp --cuda-graphs --max-steps 20"]))
    else:
        verb = choose(words, list(COMMANDS), prog)
        importlib.import_module(f"cyclegan_fast.{verb}").main(words[1:])


if __name__ == "__main__":
    main()
