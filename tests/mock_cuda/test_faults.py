"""Training runs inside a CUDA graph that meet a fault: where they end, what they say, what they have saved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cyclegan_fast.checkpoint import read_settings, verify
from cyclegan_fast.errors import UserError
from cyclegan_fast.training.trainer import Trainer
from tests.mock_cuda import runtime
from tests.mock_cuda.steps import batch, make_step, warmed_up
from tests.mock_cuda.test_trainer import images, trainer
from tests.reliability import Recorder

__all__ = ["images"]

STEPS = 12  # with a record after every fourth


@pytest.mark.fault(10)
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_losses_that_are_not_finite_inside_a_graph_end_the_run(
    images: Path, tmp_path: Path, amp: str, user_sees: Recorder
) -> None:
    """That such a step changes no weight is tested on the kernel: tests/cpp/test_adam.cpp."""
    out = tmp_path / "run"
    run = trainer(images, out, "--amp", amp, "--max-steps", STEPS, "--checkpoint-every", 4)
    step, steps = run._after_step, iter(range(1, STEPS + 1))

    def after_step() -> None:
        if next(steps) <= 5:
            step()
        else:
            with runtime.nan_on_the_device():
                step()

    run._after_step = after_step  # type: ignore[method-assign]
    names = "G_A and G_B and cycle_A and cycle_B and idt_A and idt_B and D_A and D_B"
    with runtime.recorded() as calls, pytest.raises(UserError) as error:
        run.run()
    user_sees(error.value)
    assert str(error.value).startswith(f"steps 5 to 8: the loss {names} is not finite; the weights of before it are ")
    assert [call.kind for call in calls].count("graph") == 5  # of steps 4 to 8
    assert read_settings(out / "failed").progress["step"] == 8
    (good,) = (out / "checkpoints").iterdir()
    assert good.name == "step_00000004"
    verify(good)


def that_cannot_be_captured(run: Trainer) -> Trainer:
    """A run whose discriminator waits for the device, which no capture allows."""
    run.step.cycle_B.discriminator.register_forward_hook(lambda *_: torch.cuda.synchronize())
    return run


@pytest.fixture
def faults_planted() -> Iterator[None]:
    """What the runtime finds in the test is what it plants."""
    yield
    assert runtime.take_faults()


@pytest.mark.fault(23)
@pytest.mark.usefixtures("faults_planted")
def test_a_capture_that_fails_ends_a_run_that_requires_it(images: Path, tmp_path: Path, user_sees: Recorder) -> None:
    run = that_cannot_be_captured(trainer(images, tmp_path / "run", "--max-steps", STEPS, "--cuda-graphs", "on"))
    with pytest.raises(UserError, match=r"^--cuda-graphs: the step could not be captured: .*; leave it out$") as error:
        run.run()
    user_sees(error.value)


@pytest.mark.fault(23)
@pytest.mark.usefixtures("faults_planted")
def test_a_capture_that_fails_costs_other_runs_the_graph_alone(
    images: Path, tmp_path: Path, user_sees: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    run = that_cannot_be_captured(trainer(images, tmp_path / "run", "--max-steps", STEPS))
    with runtime.recorded() as calls:
        assert run.run() == 0
    assert run.done == STEPS and "graph" not in [call.kind for call in calls]
    (warning,) = [line for line in caplog.messages if "captured" in line]
    user_sees(warning)
    assert warning.startswith("cuda graphs: not for all steps, which take longer so: the step could not be captured: ")


@pytest.mark.fault(23)
@pytest.mark.parametrize("required", [True, False])
def test_batches_of_too_many_shapes(required: bool, user_sees: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    graphed = warmed_up(make_step(), batch)
    graphed.required = required
    for count in (2, 3, 4):
        for _ in range(4):
            graphed(*batch(images=count))
    if required:
        with pytest.raises(UserError, match=r"batches of more than 4 shapes came, the last \[5, 3, 64, 64\]") as error:
            graphed(*batch(images=5))
        user_sees(error.value)
    else:
        with runtime.recorded() as calls:
            for _ in range(6):
                graphed(*batch(images=5))
        assert "graph" not in [call.kind for call in calls]
        (warning,) = caplog.messages
        user_sees(warning)
    with runtime.recorded() as calls:
        graphed(*batch(images=2))  # the others keep theirs
    assert [call.kind for call in calls].count("graph") == 1


@pytest.mark.fault(24)
def test_memory_that_runs_out_in_a_step_ends_the_run(images: Path, tmp_path: Path, user_sees: Recorder) -> None:
    """The allocator's own error: all but 4 MiB of the device are taken before the first step."""
    run = trainer(images, tmp_path / "run", "--max-steps", STEPS, "--batch-size", 2)
    torch.cuda.empty_cache()
    taken = torch.empty(torch.cuda.mem_get_info()[0] - (4 << 20), dtype=torch.uint8, device="cuda")
    with pytest.raises(UserError) as error:
        run.run()
    del taken
    user_sees(error.value)
    asked, free, flags = (
        r"[\d.]+ GiB asked for at once",
        r"[\d.]+ GiB free of [\d.]+ GiB",
        "--batch-size 1 .*--amp bf16 ",
    )
    assert re.match(
        rf"a step of this training needs more memory than cuda has \({asked}, {free}, .*: .*{flags}", str(error.value)
    )
