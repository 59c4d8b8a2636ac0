"""The event file: records survive kills, resumes and full disks, and are always valid JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.errors import UserError
from cyclegan_fast.monitoring.events import EventLog, read_events


def steps(folder: Path) -> list[int]:
    return [event["step"] for event in read_events(folder)]


def test_a_record_is_on_the_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.write(50, losses={"G_A": 0.25}, epoch=1, lr=2e-4, steps_per_second=8.0)
        (event,) = read_events(tmp_path)
    assert event.pop("time") > 1.6e9
    assert event == {"step": 50, "losses": {"G_A": 0.25}, "epoch": 1, "lr": 2e-4, "steps_per_second": 8.0}


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.write(1, losses={"a": math.nan, "b": math.inf, "c": torch.tensor(-math.inf)}, d=np.float32(0.5), e=None)
    text = (tmp_path / "events.jsonl").read_text()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    event = json.loads(text, parse_constant=refuse)
    assert event["losses"] == {"a": None, "b": None, "c": None}
    assert (event["d"], event["e"]) == (0.5, None)


def test_resume_cuts_what_will_be_done_again(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        for step in (10, 20, 30, 40):
            log.write(step)
    with EventLog(tmp_path, resume_step=25) as log:
        assert steps(tmp_path) == [10, 20]
        log.write(30)
    assert steps(tmp_path) == [10, 20, 30]
    EventLog(tmp_path, resume_step=30).close()
    assert steps(tmp_path) == [10, 20, 30]
    EventLog(tmp_path).close()  # a new run
    assert steps(tmp_path) == []


def test_a_line_torn_by_a_kill_is_left_out_and_cut_on_resume(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.write(10)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"step": 20, "los')
    assert steps(tmp_path) == [10]
    with EventLog(tmp_path, resume_step=20) as log:
        log.write(20)
    assert steps(tmp_path) == [10, 20]


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"epoch": 1}', '{"step": "x"}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "events.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(UserError, match="line 2"):
        read_events(tmp_path)


def test_a_run_without_events_has_none(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file of this process may become longer than so many bytes; messages go nowhere, as stderr may be one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("cyclegan_fast"), "handlers", [])
        patch.setattr(logging.getLogger("cyclegan_fast"), "propagate", True)  # to caplog alone
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_warning_and_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with EventLog(tmp_path) as log:
        log.write(1)
        with files_limited_to(100):  # bytes; of the second record a part fits
            for step in (2, 3):
                log.write(step, text="x" * 200, losses={"G_A": 0.5})
                log.image(step, "samples", Image.new("RGB", (64, 64)))
                assert steps(tmp_path) == [1]  # and nothing torn behind it
        assert log.write(4)["step"] == 4
        assert steps(tmp_path) == [1, 2, 3, 4]
        with files_limited_to(100):
            log.write(5)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]  # at the end there was room
    of_events, *of_tensorboard = caplog.messages
    assert re.fullmatch(
        rf"cannot write {tmp_path}/events\.jsonl: (No space left on device|File too large); training goes on, and what "
        "is missing is written as soon as there is room",
        of_events,
    )
    assert len(of_tensorboard) <= 1  # where it is installed
    assert all("tfevents" in line and "records are missing in it" in line for line in of_tensorboard)


def test_tensorboard_is_whole_before_and_after_a_full_disk(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with EventLog(tmp_path) as log:
        for step in range(1, 7):
            with files_limited_to(1) if step in (3, 4) else contextlib.nullcontext():
                log.write(step, losses={"G_A": step / 8})
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(s.step, s.value) for s in board.Scalars("loss/G_A")] == [(i, i / 8) for i in (1, 2, 5, 6)]


def test_tensorboard_shows_the_protocol_of_scores_whenever_it_is_another(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with EventLog(tmp_path) as log:
        for step, protocol in enumerate(["50 images", "50 images", "20 images"]):
            log.write(step, scores={"swd": 1.0}, protocol=protocol)
            log.write(step, losses={"G_A": 1.0})
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = board.Tensors("protocol/text_summary")
    assert [(text.step, text.tensor_proto.string_val[0].decode()) for text in shown] == [
        (0, "50 images"),
        (2, "20 images"),
    ]
    assert [scalar.step for scalar in board.Scalars("scores/swd")] == [0, 1, 2]


def test_a_tensorboard_that_does_not_work_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("a file in the place of its folder")
    with EventLog(tmp_path) as log:
        log.write(1, losses={"G_A": 0.5})
    (warning,) = caplog.messages
    assert warning.startswith("TensorBoard does not show all: ") and warning.endswith("; training goes on")
    assert steps(tmp_path) == [1]


def test_tensorboard_shows_scalars_and_images_and_forgets_what_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with EventLog(tmp_path) as log:
        for step in (10, 20, 30):
            log.write(step, losses={"G_A": step / 100}, lr=0.5)
        log.image(30, "samples", Image.new("RGB", (5, 4), (255, 0, 0)))
    later = time.time() + 2  # TensorBoard reads its files in the order of the seconds in their names
    monkeypatch.setattr("time.time", lambda: later)
    with EventLog(tmp_path, resume_step=20) as log:
        log.write(30, losses={"G_A": 9.0})
        log.image(30, "samples", Image.new("RGB", (5, 4), (0, 0, 255)))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {s.step: s.value for s in board.Scalars("loss/G_A")} == pytest.approx({10: 0.1, 20: 0.2, 30: 9.0})
    assert [s.step for s in board.Scalars("lr")] == [10, 20]
    (image,) = board.Images("samples")
    assert (image.step, image.width, image.height) == (30, 5, 4)


def test_the_wait_of_an_earlier_version_becomes_percent(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(
        '{"step": 1, "data_wait_share": 0.004}\n{"step": 2, "data_wait_share": null}\n'
    )
    assert read_events(tmp_path) == [
        {"step": 1, "data_wait_percent": pytest.approx(0.4)},
        {"step": 2, "data_wait_percent": None},
    ]
