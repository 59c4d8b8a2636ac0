"""Runs a command in the test's own process: what a process of its own would show, without importing torch again."""

from __future__ import annotations

import contextlib
import io
import subprocess
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

import pytest

from cyclegan_fast.cli.flags import flags_of_function, flags_of_settings
from cyclegan_fast.cli.parse import Grammar
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.train import resolve, train


def run_in_process(main: Callable[[], NoReturn]) -> subprocess.CompletedProcess[str]:
    """Runs `main`, which ends as `with_errors` and `run_command` do; returns its exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        warnings.catch_warnings(),  # restores warnings.showwarning, too
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    status = ended.value.code
    assert isinstance(status, int)
    return subprocess.CompletedProcess("in process", status, out.getvalue(), err.getvalue())


def train_settings(words: Sequence[str]) -> TrainConfig:
    """Returns the settings of a command line of ``cyclegan_fast.train``."""
    flags = [*flags_of_settings(TrainConfig), *flags_of_function(train)]
    given = Grammar(prog="train", flags=flags).parse(words)
    return resolve(given.pop("config", None), given)
