"""A task beside the caller: one at a time, none is lost, and what it raises arrives."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest

from cyclegan_fast.checkpoint.background import Background
from cyclegan_fast.errors import UserError


def fail() -> None:
    raise UserError("the disk is full")


def test_never_two_at_once_and_all_of_them_in_their_order() -> None:
    running, done = threading.Lock(), []

    def task(number: int) -> None:
        assert running.acquire(blocking=False)
        done.append(number)
        running.release()

    with Background("test") as background:
        for number in range(50):
            background.start(lambda number=number: task(number))  # type: ignore[misc]
        background.wait()
        assert done == list(range(50))


def test_the_caller_goes_on_while_a_task_runs() -> None:
    go_on, began = threading.Event(), threading.Event()

    def task() -> None:
        began.set()
        assert go_on.wait(60)

    with Background("test") as background:
        background.start(task)
        assert began.wait(60) and background.busy
        background.check()
        go_on.set()
    assert not background.busy


@pytest.mark.parametrize("call", ["check", "wait", "start", "exit"])
def test_what_a_task_raises_is_raised_to_the_caller_once(call: str) -> None:
    background = Background("test")
    background.start(fail)
    background.join()
    calls = {
        "check": background.check,
        "wait": background.wait,
        "start": lambda: background.start(fail),
        "exit": lambda: background.__exit__(None, None, None),
    }
    with pytest.raises(UserError, match="the disk is full"):
        calls[call]()
    background.check()
    background.wait()


def test_a_block_that_fails_waits_for_the_task_and_keeps_its_own_error(caplog: pytest.LogCaptureFixture) -> None:
    go_on, done = threading.Event(), []

    def task() -> None:
        assert go_on.wait(60)
        done.append(1)
        fail()

    with pytest.raises(ZeroDivisionError), Background("test") as background, caplog.at_level(logging.WARNING):
        background.start(task)
        threading.Timer(0.05, go_on.set).start()
        raise ZeroDivisionError
    assert done == [1]
    assert caplog.messages == ["the disk is full"]


def test_a_process_that_ends_waits_for_the_task() -> None:
    program = """
import threading, time
from cyclegan_fast.checkpoint.background import Background

def task():
    threading.main_thread().join()
    print("done")

Background("test").start(task)
raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (7, "done\n", "")
