"""cyclegan_fast.fit: trains from Python, as python -m cyclegan_fast.train does from a command line."""

from __future__ import annotations

import contextlib
import inspect
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from cyclegan_fast.api.keywords import GROUPS, TYPES, config_from_keywords, errors_in_keywords, in_keywords
from cyclegan_fast.api.run import Run
from cyclegan_fast.api.settings import FitSettings
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import logs_shown
from cyclegan_fast.monitoring.notebook import CellOutput, in_notebook
from cyclegan_fast.monitoring.progress import progress_hidden

if TYPE_CHECKING:
    from cyclegan_fast.training.process import StopSignal

log = logging.getLogger(__name__)

OnLog = Callable[[dict[str, Any]], bool | None]


def fit(
    *,
    config: TrainConfig | None = None,
    on_log: OnLog | None = None,
    progress: bool = True,
    **settings: Unpack[FitSettings],
) -> Run:
    """Trains a CycleGAN and returns its run.

    Example: ``run = fit(data="horse2zebra", out="runs/horse2zebra", amp=True)``. Without data it trains on rendered
    scenes.

    Ctrl-C (a notebook's interrupt) ends the run after its step, with a checkpoint. Where somebody is at a prompt, a
    notebook or an interactive Python, the run is then returned; in a script KeyboardInterrupt is raised after the
    checkpoint, and SIGTERM goes on to do what it did before. `resume` continues the run. Signal handlers, log handlers,
    torch's random state, number of threads and cuDNN settings are afterwards as they were.

    Args:
        config: The settings to start from, such as the `config` of an earlier `Run`; by default those of the paper, or
            with `resume` those of the run in `out`.
        on_log: Called with each log record, every `log_every` steps: ``{"step": 50, "time": 1790000000.5, "epoch": 1,
            "lr": 2e-4, "steps_per_second": 4.1, "data_wait_percent": 1.2, "peak_memory_gib": 1.5, "losses": {"G_A":
            0.4, ...}}``, the time in seconds since 1970, the losses as means since the record before. Returning False
            ends the run after a checkpoint; so does an exception, which is then raised.
        progress: Show a progress bar (in a notebook the newest sample grid, too), and what is logged where the program
            has not set up logging.
        settings: Every flag of ``python -m cyclegan_fast.train`` by its name, checked as there: see `FitSettings`.
            A flag that may stand alone, such as --amp, may be True.

    Returns:
        The run: its folder, losses, checkpoints, and the engine that translates.

    Raises:
        UserError: An unknown setting, a wrong value, an `on_log` that cannot be called, images that cannot be trained
            on, a loss that is not finite.
    """
    with errors_in_keywords(), contextlib.ExitStack() as stack:
        stack.enter_context(logs_shown(in_keywords) if progress else progress_hidden())
        if on_log is not None and not callable(on_log):
            raise UserError(f"fit: on_log takes a function, which is called with each log record, got {on_log!r}")
        resolved = _resolve(config, settings)
        stop = _train(resolved, on_log, show_grids=progress and in_notebook())
        run = Run(resolved.run.out)
        if not run.finished:
            log.info("stopped after a checkpoint; fit with the same out and resume=True continues")
    if stop.signal is not None and not (stop.signal == signal.SIGINT and _is_interactive()):
        signal.raise_signal(stop.signal)  # as it would have ended the program
    return run


def _resolve(config: TrainConfig | None, settings: Mapping[str, Any]) -> TrainConfig:
    """Returns `config` with other values of some settings; with ``resume`` the run's own take the defaults' place."""
    resolved = config_from_keywords(settings, config)
    if config is not None or resolved.run.resume == "off":
        return resolved
    from cyclegan_fast.training.resume import settings_to_continue

    return config_from_keywords(settings, settings_to_continue(resolved.run.out))


def _train(config: TrainConfig, on_log: OnLog | None, *, show_grids: bool) -> StopSignal:
    """Trains to the end or until something asks for a stop; returns what noted that."""
    from cyclegan_fast.training.process import StopSignal
    from cyclegan_fast.training.trainer import Trainer

    stop = StopSignal(owns_process=False)
    failures: list[Exception] = []
    grids = _GridView(config.run.out) if show_grids else None

    def after_log(record: dict[str, Any]) -> None:
        if grids:
            grids.update()
        try:
            goes_on = on_log(record) if on_log else True
        except Exception as error:  # the run is saved first
            failures.append(error)
        if failures or (isinstance(goes_on, bool | np.bool_) and not goes_on):
            stop.requested = True

    with torch_state_restored():
        Trainer(config, on_log=after_log).run(stop)
    if failures:
        raise failures[0]
    return stop


@contextlib.contextmanager
def torch_state_restored() -> Iterator[None]:
    """Restores what training changes for the whole process: random state, number of threads, choice of algorithms."""
    import torch

    cudnn, threads = torch.backends.cudnn.benchmark, torch.get_num_threads()
    random, seed = torch.get_rng_state(), torch.initial_seed()
    cuda_random = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = cudnn
        torch.set_num_threads(threads)  # threads that a step starts set MKL's for all
        torch.set_rng_state(random)
        if cuda_random is not None:
            torch.cuda.set_rng_state_all(cuda_random)
        elif torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)  # with which CUDA would have begun


class _GridView:
    """Shows the newest sample grid in the cell that trains."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shown, self.output = folder, "", CellOutput()

    def update(self) -> None:
        from IPython.display import Image

        from cyclegan_fast.monitoring.samples import sample_files

        newest = next(reversed(sample_files(self.folder)), None)
        if newest is not None and newest.name != self.shown:
            self.shown = newest.name
            self.output.update(Image(newest.read_bytes()))


def _is_interactive() -> bool:
    """Whether somebody is at a prompt, who goes on after an interrupt: a notebook, IPython, or `python` alone."""
    ipython = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or (ipython is not None and ipython.get_ipython() is not None)


def _signature() -> inspect.Signature:
    """The signature with every setting and its default, for help() and completion at a prompt."""
    defaults = {name: getattr(group(), name) for group in GROUPS.values() for name in group.__dataclass_fields__}
    own = [p for p in inspect.signature(fit).parameters.values() if p.kind is p.KEYWORD_ONLY]
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=TYPES[name])
        for name, default in defaults.items()
    ]
    return inspect.Signature([*flags, *own], return_annotation=Run)


fit.__signature__ = _signature()  # type: ignore[attr-defined]
