"""A step and an engine on fake tensors of a CUDA device: one device, one layout, no synchronisation, few launches.

Both run in processes of their own: the fake device is registered before torch is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.time_model import EFFICIENCY, GAP, PEAK, Launch, launches_of, one_after_the_other, side_by_side

# A CUDA build of torch has hooks of its own.
pytestmark = pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch that was built without CUDA")

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "launches.md"

PLANTED = """
import tests.fake_cuda
import torch
from benchmarks.launches import _images, watch_step, Watch
from cyclegan_fast.training.step import CycleGANStep
from tests.fake_cuda import device

SMALL = {"generator": "resnet_1blocks", "ngf": 4, "ndf": 4}
update_weights = CycleGANStep.update_weights

def with_a(fault):
    def planted(self, losses, **gradients):
        fault(self, losses["G_A"])
        return update_weights(self, losses, **gradients)
    CycleGANStep.update_weights = planted
    try:
        return watch_step({"amp": "off"}, **SMALL)
    except Exception as error:
        return error

print("clean", watch_step({"amp": "off"}, **SMALL).launches.total())
print("launch", with_a(lambda self, loss: loss + loss).launches.total())
print("sync", type(with_a(lambda self, loss: loss.item())).__name__)
print("device", sorted(with_a(lambda self, loss: loss.cpu()).devices))
print("layout", len(with_a(lambda self, loss: self.pools['pool_A'].images.contiguous()).layout_changes))
"""


def run(*words: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return json.loads(run("-m", "benchmarks.launches", "--json"))


def test_everything_is_on_the_gpu_and_keeps_its_layout(found: dict[str, Any]) -> None:
    """A synchronisation would have ended the program: fake tensors have no values."""
    assert len(found) == 8
    for name, one in found.items():
        assert one["devices"] == ["cuda:0"], name
        assert one["layout_changes"] == [], name


def test_launches_stay_within_the_budget(found: dict[str, Any]) -> None:
    """The budget is the page. One that is undercut is written anew: python -m benchmarks.launches --out <the page>."""
    counts, _ = PAGE.read_text("utf-8").split("## A prediction")
    (_, *kinds), *rows = [line.strip("|").split("|") for line in counts.splitlines() if line.startswith("| ")]
    kinds = [kind.strip() for kind in kinds]
    budget = {name.strip(): dict(zip(kinds, map(int, numbers), strict=True)) for name, *numbers in rows}
    assert budget.keys() == found.keys()
    for name, one in found.items():
        counted = one["launches"] | {"together": sum(one["launches"].values())}
        over = {kind: (n, budget[name].get(kind, 0)) for kind, n in counted.items() if n > budget[name].get(kind, 0)}
        assert not over, name


def test_planted_faults_are_found() -> None:
    lines = dict(line.split(" ", 1) for line in run("-c", PLANTED).splitlines())
    assert int(lines["launch"]) == int(lines["clean"]) + 1
    assert lines["sync"] == "DataDependentOutputException"
    assert lines["device"] == "['cpu', 'cuda:0']"
    assert int(lines["layout"]) == 1


def test_two_streams_share_the_device_in_the_model_of_time() -> None:
    full, half = (Launch("norm", 10.0 - GAP, filled) for filled in (1.0, 0.5))
    alone = one_after_the_other([full] * 4)
    assert alone == 40
    assert side_by_side([half] * 4, [half] * 4) == pytest.approx(alone)  # each leaves the other what it needs
    assert alone < side_by_side([full] * 4, [full] * 4) < 2 * alone  # only the gaps are filled
    assert side_by_side([full] * 4, []) == pytest.approx(alone)


def test_the_model_times_a_convolution_by_its_arithmetic() -> None:
    """At batch 64 a layer of the residual blocks fills the device: then it runs at the efficiency of the best tile."""
    x, weight = (
        torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((64, 256, 66, 66), (256, 256, 3, 3))
    )
    y = torch.empty((64, 256, 64, 64), dtype=torch.bfloat16, device="meta")
    arguments = (x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    (launch,) = launches_of("convolution", {"convolution": 1}, [x, weight], [y], arguments)
    micros = 2 * 64 * 64 * 64 * 256 * 256 * 9 / (PEAK[2] * EFFICIENCY) * 1e6
    assert micros < launch.micros < 1.1 * micros
    assert launch.filled == 1
