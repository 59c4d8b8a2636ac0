"""The report of a run: from its files, while it trains, and however it ends."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cyclegan_fast.config import PixelFormat, TrainConfig, to_dict
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import try_lock
from cyclegan_fast.monitoring.banner import draw_banner
from cyclegan_fast.monitoring.events import EventLog
from cyclegan_fast.monitoring.markup import to_html
from cyclegan_fast.monitoring.run_report import MAX_SHARE, RunReport, channels_note, thinned, write_run_report
from cyclegan_fast.monitoring.run_status import RunStatus, read_status, write_status
from cyclegan_fast.monitoring.samples import SampleRow, save_samples
from cyclegan_fast.monitoring.training_progress import TrainingProgress
from tests.monitoring.test_report import Page

RUNNING = RunStatus(state="running", step=1200, total_steps=5000, seconds_left=754, written=1.8e9)


def rows(shade: int) -> list[SampleRow]:
    images = [Image.new("RGB", (32, 32), (shade, level, 0)) for level in (0, 100, 200)]
    return [SampleRow(domain, f"test{domain}/{i}.png", images) for domain in "AB" for i in range(2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 50 records and 12 grids."""
    folder = tmp_path / "horses"
    with EventLog(folder) as log:
        for step in range(10, 501, 10):
            log.write(step, losses={"G_A": 1 / step}, steps_per_second=5.0, data_wait_percent=0.4)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(TrainConfig())))
    for step in range(0, 600, 50):
        save_samples(folder, step, rows(step // 3))
    return folder


def text_of(path: Path) -> str:
    return " ".join("".join(Page(path.read_text(encoding="utf-8")).texts).split())


def refreshes(path: Path) -> bool:
    return 'http-equiv="refresh"' in path.read_text(encoding="utf-8")


def test_a_report_is_made_from_the_files_of_a_run(folder: Path) -> None:
    report = write_run_report(folder, RUNNING)
    page, text = Page(report.read_text(encoding="utf-8")), text_of(report)
    for part in ("CycleGAN horses", "A → B → A, step 550", "Step by step", "Time spent waiting for data", "0.4%"):
        assert part in text
    alts = [image["alt"] for image in page.all("img")]
    assert alts.count("A → B → A, step 550: translation, testA/1.png") == 1
    of_one_image = [alt for alt in alts if alt and alt.startswith("B → A: ") and alt.endswith(", testB/0.png")]
    assert of_one_image == [
        f"B → A: {column}, testB/0.png"
        for column in ("input", *(f"step {step}" for step in (0, 100, 150, 250, 300, 400, 450, 550)))
    ]
    assert len(alts) == 2 * 2 * 3 + 2 * 2 * 9


def test_code_that_loads_a_checkpoint_is_shown_once_there_is_one(folder: Path) -> None:
    assert "load_engine" not in text_of(write_run_report(folder, RUNNING))
    checkpoint = folder / "checkpoints" / "step_00000500"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    assert f'load_engine("{folder}", direction="AtoB")' in text_of(write_run_report(folder, RUNNING))


def test_a_short_run_without_grids_has_a_report(folder: Path) -> None:
    for grid in (folder / "samples").iterdir():
        grid.unlink()
    (folder / "events.jsonl").write_text("")
    page = Page(write_run_report(folder).read_text(encoding="utf-8"))
    assert page.all("img") == page.all("svg") == []


def test_the_scores_of_the_command_evaluate_are_shown(folder: Path) -> None:
    scores = {direction: {"pixel_accuracy": 0.9412} for direction in ("photo_to_labels", "labels_to_photo")}
    other = {direction: {"pixel_accuracy": 0.1} for direction in scores}  # of engines, beside those of the checkpoint
    for content, shown in ((scores, True), (other | {"checkpoint": scores}, True), ({"mine": {"a": "b"}}, False)):
        (folder / "scores.json").write_text(json.dumps(content))
        text = text_of(write_run_report(folder))
        assert ("photo → labels" in text and "0.941" in text) == shown and "0.100" not in text
    del scores["photo_to_labels"]  # of a model of one direction
    (folder / "scores.json").write_text(json.dumps(scores))
    text = text_of(write_run_report(folder))
    assert "labels → photo" in text and "0.941" in text and "photo → labels" not in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Running: step 1,200 of 5,000, 12 min 34 s left."),
        ({"seconds_left": None}, "Running: step 1,200 of 5,000."),
        ({"state": "finished", "step": 5000}, "Finished: all 5,000 steps."),
        ({"state": "stopped"}, "Stopped after step 1,200 of 5,000, with a checkpoint; --resume auto continues."),
        (
            {"state": "failed", "message": "step 1201: <G_A> is bad."},
            "after step 1,200 of 5,000: step 1201: <G_A> is bad.",
        ),
        ({"state": "killed"}, "Ended unexpectedly after step 1,200 of 5,000: its process was killed"),
        ({"state": "killed"}, "from the newest checkpoint, or starts again where there is none yet."),
    ],
)
def test_the_page_says_how_far_the_run_is_and_when_that_was(folder: Path, changes: dict, sentence: str) -> None:
    status = dataclasses.replace(RUNNING, **changes)
    report = write_run_report(folder, status)
    assert sentence in text_of(report)
    assert re.search(r"Written 2027-01-1\d \d\d:\d\d:\d\d", text_of(report))
    assert refreshes(report) == (status.state == "running")


def test_a_killed_run_does_not_claim_to_be_alive(folder: Path) -> None:
    write_status(folder, RUNNING)
    with (folder / ".lock").open("a") as lock:
        try_lock(lock)
        status = read_status(folder)
        assert status is not None and status.state == "running"
        assert refreshes(write_run_report(folder))
    report = write_run_report(folder)
    assert "Ended unexpectedly after step 1,200" in text_of(report) and not refreshes(report)
    write_status(folder, dataclasses.replace(RUNNING, step=300))  # its last report is older than its last record
    assert "Ended unexpectedly after step 500" in text_of(write_run_report(folder))


@pytest.mark.parametrize("content", ["{", "[]", '{"state": "running"}', '{"speed": 3}'])
def test_a_damaged_status_is_one_sentence(folder: Path, content: str) -> None:
    (folder / "status.json").write_text(content)
    with pytest.raises(UserError, match=r"status\.json cannot be used .*: delete it"):
        write_run_report(folder)


def test_a_folder_that_is_no_run_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"is no run's folder, which has config\.yaml and events\.jsonl"):
            write_run_report(wrong)
    for content in ("{", "3"):
        (folder / "config.yaml").write_text(content)
        with pytest.raises(UserError, match=r"config\.yaml (cannot be read|holds no settings)"):
            write_run_report(folder)


def test_long_runs_have_small_reports(folder: Path) -> None:
    grid = (folder / "samples" / "step_00000000.jpg").read_bytes()
    for step in range(600, 40_000, 100):
        (folder / "samples" / f"step_{step:08d}.jpg").write_bytes(grid)
    line = '{"step": %d, "losses": {"G_A": %g, "D_A": %g}, "lr": 2e-4, "steps_per_second": 5.0}\n'
    events = "".join(line % (i, i % 7, i % 11) for i in range(20_000))
    (folder / "events.jsonl").write_text(events)
    assert write_run_report(folder, RUNNING).stat().st_size < 500_000


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (8, list(range(8))), (400, None)])
def test_thinning_keeps_the_first_and_the_last(count: int, expected: list[int] | None) -> None:
    chosen = thinned(range(count), 8)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, count - 1, min(count, 8))
    assert expected is None or chosen == expected
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("cost", [0.05, 1.0, 30.0])
def test_reports_take_a_fiftieth_of_the_time_at_most(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cost: float
) -> None:
    now, written = 0.0, []

    def write(*_: object) -> None:
        nonlocal now
        now += cost
        written.append(now)

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("cyclegan_fast.monitoring.run_report.write_run_report", write)
    with TrainingProgress(10_000) as progress, RunReport(folder, progress) as report:
        for _ in range(10_000):
            now += 0.5
            report.update()
            assert cost * len(written) <= max(MAX_SHARE * now, cost)
    assert len(written) > 0.9 * MAX_SHARE * 5000 / cost  # and it uses what it has; the last one always comes


def interrupted(progress: TrainingProgress) -> None:
    raise KeyboardInterrupt


def broken(progress: TrainingProgress) -> None:
    raise ZeroDivisionError("division\nby zero")


def faulty(progress: TrainingProgress) -> None:
    raise UserError("step 4: the loss G_A is not finite; lower --lr")


def stopped(progress: TrainingProgress) -> None:
    progress.update(3)


def complete(progress: TrainingProgress) -> None:
    progress.update(10)


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        (complete, "Finished: all 10 steps."),
        (stopped, "Stopped after step 3 of 10, with a checkpoint"),
        (faulty, "Failed after step 2 of 10: step 4: the loss G_A is not finite; lower --lr."),
        (broken, "Failed after step 2 of 10: ZeroDivisionError: division by zero."),
        (interrupted, "Failed after step 2 of 10: it was interrupted."),
    ],
)
def test_the_last_report_shows_how_the_run_ended(folder: Path, training: object, sentence: str) -> None:
    caught: BaseException | None = None
    try:
        with TrainingProgress(10) as progress, RunReport(folder, progress, "of the 6 channels of A") as report:
            progress.update(2)
            report.update()
            assert "Running: step 2 of 10" in text_of(folder / "report.html") and refreshes(folder / "report.html")
            assert "A → B → A, step 550 (of the 6 channels of A)" in text_of(folder / "report.html")
            training(progress)  # type: ignore[operator]
    except BaseException as error:
        caught = error
    assert (caught is None) == (training in (complete, stopped))
    assert sentence in text_of(folder / "report.html") and not refreshes(folder / "report.html")
    status = read_status(folder)
    assert status is not None and status.machine["torch"] and status.state == sentence.split()[0].lower().rstrip(":")


def test_a_report_that_cannot_be_written_ends_no_run_and_hides_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise UserError("cannot write report.html: No space left on device")

    monkeypatch.setattr("cyclegan_fast.monitoring.run_report.write_run_report", full)
    with pytest.raises(ZeroDivisionError), TrainingProgress(10) as progress, RunReport(folder, progress) as report:
        report.update()
        broken(progress)

    def warnings() -> list[str]:  # the lines of the progress are there where an earlier command shows them
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    assert len(warnings()) == 2 and "the report is not up to date: cannot write" in warnings()[0]
    with TrainingProgress(10) as progress, RunReport(folder, progress) as report:
        for _ in range(3):
            report.update()
        progress.update(10)
    assert len(warnings()) == 4  # one of the upkeep, one of the end


def test_what_a_message_holds_is_escaped() -> None:
    banner = to_html(draw_banner(dataclasses.replace(RUNNING, state="failed", message="<script>x</script>")))
    assert "<script>" not in banner


def test_channels_that_are_not_shown_are_named() -> None:
    formats = {"A": PixelFormat(channels=6), "B": PixelFormat(channels=3)}
    assert channels_note(formats) == "of the 6 channels of A the first three, as RGB"
