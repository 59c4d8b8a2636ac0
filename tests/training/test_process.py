"""What a training process does with its memory, and with signals that torchrun repeats."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from cyclegan_fast.training.process import keep_freed_memory

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.zeros(2**18) for _ in range(64)]  # 64 MiB, 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
first = faults_of_a_step()
later = min(faults_of_a_step() for _ in range(5))  # the system itself may move pages during one of them
keep_freed_memory(False)
print(first, later, faults_of_a_step())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_steps_use_the_memory_of_the_step_before_until_training_ends() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    first, later, afterwards = map(int, done.stdout.split())
    assert 10 * later < first, "a later step's pages were there already"
    assert 10 * later < afterwards, "what was free was returned at the end"


SIGNALS = """
import signal
from cyclegan_fast.training import process

signal.signal(signal.SIGINT, signal.default_int_handler)
with process.StopSignal(owns_process=False) as stop:
    for _ in range(2):
        signal.raise_signal(signal.SIGINT)
    print("noted", stop.requested)
    process.REPEAT_SECONDS = 0
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("another one")
"""


def test_a_signal_that_torchrun_repeats_is_the_same_one() -> None:
    environment = os.environ | {"TORCHELASTIC_RUN_ID": "run"}
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split("\n")[:2] == ["noted True", "another one"]
