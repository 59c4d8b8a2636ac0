"""cyclegan_fast.fit: what it returns, how it ends, and that nothing of it stays behind in the process."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cyclegan_fast
from cyclegan_fast import Run, UserError, fit, train
from cyclegan_fast.api.settings import FitSettings
from cyclegan_fast.training.trainer import Trainer
from tests.commands import run_in_process


def test_a_run_comes_back_with_all_that_it_wrote(small: FitSettings, tmp_path: Path) -> None:
    logged: list[dict[str, Any]] = []
    seen: list[str] = []

    def watch(record: dict[str, Any]) -> None:
        logged.append(record)
        seen.append(Run(tmp_path / "run").describe())

    run = fit(**small, out=tmp_path / "run", max_steps=4, on_log=watch)
    assert seen == [f"step {step} of 4, running" for step in (1, 2, 3, 4)]
    assert run.finished and (run.step, run.total_steps) == (4, 4)
    assert run.steps.tolist() == [1, 2, 3, 4] == [record["step"] for record in logged]
    assert set(run.losses) == {"G_A", "G_B", "cycle_A", "cycle_B", "idt_A", "idt_B", "D_A", "D_B"}
    assert run.losses["cycle_B"].tolist() == [record["losses"]["cycle_B"] for record in logged]
    assert [record.keys() for record in logged] == [record.keys() for record in run.records]
    assert run.losses["G_A"].dtype == np.float64
    assert np.all(run.curves["lr"] == 2e-4) and np.all(run.curves["steps_per_second"] > 0)
    assert run.checkpoint == run.out / "checkpoints" / "step_00000004"
    assert [path.name for path in run.samples] == [f"step_{step:08d}.jpg" for step in (0, 2, 4)]
    assert run.report == run.out / "report.html"
    assert run.config.model.ngf == 4
    with run.engine("BtoA", device="cpu") as engine:
        assert engine.direction == "BtoA"
        assert cyclegan_fast.infer(engine, np.zeros((32, 32, 3), np.uint8)).shape == (32, 32, 3)


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Neither does a look at `fit`, nor at its signature."""
    program = (
        "import sys, cyclegan_fast; print(*sys.modules, sep=', ', end=';'); import inspect; "
        "inspect.signature(cyclegan_fast.fit), cyclegan_fast.Run; print(*sys.modules, sep=', ')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    bare, used = (set(modules.strip().split(", ")) for modules in done.stdout.split(";"))
    assert not bare & {"torch", "numpy", "PIL", "yaml"}
    assert not used & {"torch", "rich", "yaml", "IPython"}


def test_fit_trains_what_the_command_trains(small: FitSettings, tmp_path: Path) -> None:
    run = fit(**small, out=tmp_path / "python", max_steps=3)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in small.items()]
    words += ["--out", str(tmp_path / "command"), "--max-steps", "3"]
    assert run_in_process(lambda: train.main(words)).returncode == 0
    command = Run(tmp_path / "command")
    assert all(np.array_equal(curve, command.losses[name]) for name, curve in run.losses.items())


def test_false_ends_a_run_that_resume_continues(small: FitSettings, tmp_path: Path) -> None:
    straight = fit(**small, out=tmp_path / "straight", max_steps=5)
    stopped = fit(**small, out=tmp_path / "run", max_steps=5, on_log=lambda record: np.int64(record["step"]) < 2)
    assert not stopped.finished and stopped.step == 2
    assert stopped.checkpoint is not None and stopped.checkpoint.name == "step_00000002"
    run = fit(out=tmp_path / "run", resume=True)  # with its own settings
    assert run.finished
    assert run.losses["D_A"].tolist() == straight.losses["D_A"].tolist()


def test_an_exception_of_the_callback_comes_after_a_checkpoint(small: FitSettings, tmp_path: Path) -> None:
    def fail(record: dict[str, Any]) -> None:
        raise ZeroDivisionError("of the caller")

    with pytest.raises(ZeroDivisionError, match="of the caller"):
        fit(**small, out=tmp_path, max_steps=5, on_log=fail)
    assert Run(tmp_path).step == 1 and Run(tmp_path).checkpoint is not None


def test_a_callback_may_return_anything_but_false(small: FitSettings, tmp_path: Path) -> None:
    for name, value in (("none", None), ("zero", 0), ("true", True)):
        assert fit(**small, out=tmp_path / name, max_steps=2, on_log=lambda _, value=value: value).finished  # type: ignore[misc]


def test_faults_are_user_errors_that_name_keywords(small: FitSettings, tmp_path: Path) -> None:
    fit(**small, out=tmp_path / "run", max_steps=1)
    with pytest.raises(UserError, match="resume=True, or choose another out"):
        fit(**small, out=tmp_path / "run", max_steps=1)
    with pytest.raises(UserError, match=r"fit: unknown setting 'lamda_A', did you mean 'lambda_A'\?"):
        fit(**small, lamda_A=3)  # type: ignore[call-arg]
    with pytest.raises(UserError, match="amp='bf16'"):
        fit(**small, out=tmp_path / "other", amp="fp16")
    with pytest.raises(UserError, match=r"fit: on_log takes a function, .* got 3"):
        fit(**small, out=tmp_path / "never", on_log=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nix: there is no such data folder"):
        fit(**small | {"data": "nix"}, out=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"nothing to continue in .*, and no data: name the out of a run"):
        fit(out=tmp_path / "never", resume=True)
    assert not (tmp_path / "never").exists()
    with pytest.raises(UserError, match="is not finite"):
        fit(**small, out=tmp_path / "wild", max_steps=200, lr=1e30)


def test_two_runs_leave_the_process_as_it_was(small: FitSettings, tmp_path: Path, monkeypatch: Any) -> None:
    trainers: list[weakref.ref[Trainer]] = []
    init = Trainer.__init__

    def noted(self: Trainer, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        trainers.append(weakref.ref(self))

    monkeypatch.setattr(Trainer, "__init__", noted)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # as many as two cycles side by side need
    try:
        before = process_state()
        for name in ("first", "second"):
            fit(**small, out=tmp_path / name, max_steps=2, side_by_side="on")
        gc.collect()
        for thread in set(threading.enumerate()) - {threading.current_thread()}:
            thread.join(10)  # those that were told to end
        assert process_state() == before
    finally:
        torch.set_num_threads(threads)
    assert [trainer() for trainer in trainers] == [None, None]
    assert torch.rand(3).equal(expected)


def process_state() -> dict[str, Any]:
    loggers = [logging.getLogger(name) for name in ("", "cyclegan_fast")]
    return {
        "threads": {thread.name for thread in threading.enumerate()},
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "loggers": [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers],
        "torch": (torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.is_grad_enabled()),
    }


def test_fit_works_in_another_thread(small: FitSettings, tmp_path: Path) -> None:
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(fit(**small, out=tmp_path, max_steps=2)))
    thread.start()
    thread.join()
    assert runs[0].finished


def test_messages_reach_a_program_without_logging_and_are_quiet_on_demand(small: FitSettings, tmp_path: Path) -> None:
    program = f"""
import logging
from cyclegan_fast import fit
small = {dict(small, data=str(small["data"]))}
fit(**small, out=r"{tmp_path / "shown"}", max_steps=2)
assert not logging.getLogger("cyclegan_fast").handlers and not logging.getLogger().handlers
print("second")
fit(**small, out=r"{tmp_path / "hidden"}", max_steps=2, progress=False)
"""
    shown, hidden = python(program, tmp_path).stdout.split("second\n")
    assert "step 2/2" in shown and "report: " in shown
    assert hidden == ""


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once_where_workers_are_not_forked(small: FitSettings, tmp_path: Path) -> None:
    program = f"""
from cyclegan_fast import fit
from cyclegan_fast.data.loaders import torch as loader
print("the script runs")
loader._start_method = lambda device: "forkserver"  # as beside a GPU
run = fit(**{dict(small, data=str(small["data"]), workers=1)}, loader="torch", out="run", max_steps=2)
assert run.finished
"""
    assert python(program, tmp_path).stdout.count("the script runs") == 1


@pytest.mark.gpu
def test_a_script_without_a_guard_runs_once_on_a_gpu(small: FitSettings, tmp_path: Path) -> None:
    """Its workers come from a fork server; two runs draw the same, and leave the generator of CUDA as it was."""
    program = f"""
import torch
from cyclegan_fast import fit
print("the script runs")
torch.cuda.init()
before = torch.cuda.get_rng_state()
settings = {dict(small, data=str(small["data"]), workers=1, device="cuda")}
first, second = (fit(**settings, loader="torch", cuda_graphs="on", out=out, max_steps=8) for out in "ab")
assert first.finished and second.finished
assert first.losses["G_A"].tolist() == second.losses["G_A"].tolist()
assert torch.cuda.get_rng_state().equal(before)
"""
    assert python(program, tmp_path).stdout.count("the script runs") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_signals_end_a_script_after_a_checkpoint(small: FitSettings, tmp_path: Path) -> None:
    """Ctrl-C raises KeyboardInterrupt in a script and returns the run at a prompt; SIGTERM ends either."""
    program = f"""
import signal, sys
from cyclegan_fast import fit
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job does not have
small = {dict(small, data=str(small["data"]))}
interrupt = lambda record: signal.raise_signal(signal.SIGINT)
try:
    fit(**small, out="script", max_steps=9, on_log=interrupt)
except KeyboardInterrupt:
    print("interrupted")
sys.ps1 = ">>> "
print(fit(**small, out="prompt", max_steps=9, on_log=interrupt))
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
fit(**small, out="terminated", max_steps=9, on_log=lambda record: signal.raise_signal(signal.SIGTERM))
print("not reached")
"""
    done = python(program, tmp_path, status=-signal.SIGTERM)
    lines = [
        line
        for line in done.stdout.splitlines()
        if not line.startswith(("step ", "loader: ", "sample grids: ", "scores: ", "report: "))
    ]
    told = "stopped after a checkpoint; fit with the same out and resume=True continues"
    assert lines == [told, "interrupted", told, "Run('prompt'): step 1 of 9, stopped", "True", told]
    assert all(Run(tmp_path / name).step == 1 for name in ("script", "prompt", "terminated"))


def python(program: str, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own."""
    (folder / "script.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(Path(cyclegan_fast.__file__).parents[1])}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done
