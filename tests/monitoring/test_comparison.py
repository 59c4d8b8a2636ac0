"""python -m cyclegan_fast.report: one run's report from its files, and several runs on one page."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageOps

from cyclegan_fast import report as command
from cyclegan_fast.config import TrainConfig, to_dict, with_settings
from cyclegan_fast.monitoring.comparison import labels_of
from cyclegan_fast.monitoring.events import EventLog
from cyclegan_fast.monitoring.run_status import RunStatus, write_status
from cyclegan_fast.monitoring.samples import SampleRow, save_samples
from tests.commands import run_in_process
from tests.monitoring.test_report import Page

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(name: str, steps: int = 30, names: str = "123", **settings: Any) -> Path:
        folder = tmp_path / name
        with EventLog(folder) as log:
            for step in range(10, steps + 1, 10):
                log.write(step, losses={"G_A": 1 / step, "D_A": 0.25}, lr=2e-4, steps_per_second=5.0)
        config = with_settings(TrainConfig(), {"out": folder, **settings})
        (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
        write_status(folder, RunStatus(state="finished", step=steps, total_steps=steps, machine={"cpu": "a CPU"}))
        images = [Image.new("RGB", (32, 32), shade) for shade in ("red", "green", "blue")]
        save_samples(folder, steps, [SampleRow(domain, f"{i}.png", images) for domain in "AB" for i in names])
        return folder

    return make


def report(*words: object) -> subprocess.CompletedProcess[str]:
    return run_in_process(lambda: command.main(list(map(str, words))))


def text_of(page: Page) -> str:
    return " ".join("|".join(page.texts).split())


def test_several_runs_on_one_page(make: Make, tmp_path: Path) -> None:
    a, b = make("a", lr=1e-3, gan_mode="hinge"), make("b", steps=60, seed=4)
    done = report(a, b)
    out = tmp_path / "comparison.html"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"report: {out}\n", "")
    page = Page(out.read_text(encoding="utf-8"))
    text = text_of(page)
    for row in ("gan_mode|hinge|lsgan", "lr|0.001|0.0002", "seed|0|4", "a|finished|30 of 30|6 s|5|a CPU"):
        assert row in text
    assert "max_steps|" not in text and str(tmp_path) not in text
    assert "Generators (adversarial): G_A" in text
    lines = [path["data-mean"] for path in page.all("path")]
    assert lines == ["a", "b"] * 4  # two losses, learning rate, steps per second
    assert [image["alt"] for image in page.all("img")][:4] == [
        f"A → B: {column}, {name}.png" for name, columns in (("1", 3), ("2", 1))
        for column in ("input", "a, step 30", "b, step 60")[:columns]
    ]  # fmt: skip
    assert len(page.all("img")) == 2 * 3 * 3


def test_the_page_is_named_as_the_runs_are(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = make("runs/a"), make("runs/b"), make("runs/more/c")
    monkeypatch.chdir(tmp_path)
    for words, name in (
        (["runs/a", "runs/b"], "runs/comparison.html"),
        (["runs/a", "runs/more/c"], "runs/comparison.html"),
        (["runs/a"], "runs/a/report.html"),
        ([a, b], f"{tmp_path}/runs/comparison.html"),
        ([a, "runs/more/c"], f"{tmp_path}/runs/comparison.html"),
    ):
        assert report(*words).stdout == f"report: {name}\n"
    monkeypatch.chdir(c)
    assert report("../../a", "../c").stdout == "report: ../../comparison.html\n"


def test_runs_of_other_images_have_their_own_columns(make: Make, tmp_path: Path) -> None:
    assert report(make("a", names="12"), make("b", names="345"), "--out", tmp_path / "x.html").returncode == 0
    page = Page((tmp_path / "x.html").read_text(encoding="utf-8"))
    alts = [str(image["alt"]) for image in page.all("img")]
    assert len(alts) == 2 * 2 * (2 + 3) and alts[:2] == ["A → B: input, 1.png", "A → B: a, step 30, 1.png"]
    assert "None: the runs have the same settings." in text_of(page)


def test_runs_of_the_same_images_are_side_by_side_whatever_else_there_is(make: Make, tmp_path: Path) -> None:
    runs = [make("a"), make("stray", names="45"), make("b"), make("other"), make("other2"), make("begun", steps=0)]
    for other in runs[3:5]:  # images of the same names
        images = [ImageOps.invert(Image.new("RGB", (32, 32), shade)) for shade in ("red", "green", "blue")]
        save_samples(other, 30, [SampleRow(domain, f"{i}.png", images) for domain in "AB" for i in "123"])
    assert report(*runs).returncode == 0
    page = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    alts = [str(image["alt"]) for image in page.all("img")]
    assert [alt for alt in alts if alt.endswith(", 1.png") and alt.startswith("A → B")] == [
        f"A → B: {column}, 1.png"
        for column in ("input", "a, step 30", "b, step 30", "input", "other, step 30", "other2, step 30")
    ]
    assert [alt for alt in alts if alt.startswith("A → B: stray")] == [f"A → B: stray, step 30, {i}.png" for i in "45"]
    assert len(alts) == 2 * (3 * 3 + 3 * 3 + 2 * 2)
    assert "No grid after step 0: begun." in text_of(page)


def test_copies_of_an_image_by_jpeg_and_by_size_are_the_same(make: Make, tmp_path: Path) -> None:
    a, b = make("a"), make("b")
    photo = Image.effect_noise((96, 96), 60).resize((24, 24)).resize((96, 96)).convert("RGB")
    save_samples(a, 30, [SampleRow("A", "1.png", [photo, photo, photo])])
    half = photo.resize((48, 48))
    save_samples(b, 30, [SampleRow("A", "1.png", [half, half, half])])
    assert report(a, b).returncode == 0
    page = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == 3


def test_long_settings_break_at_their_slashes(make: Make, tmp_path: Path) -> None:
    assert report(make("a", data="sets/horses"), make("b", data="sets/cows")).returncode == 0
    assert "<td>sets/<wbr>horses</td><td>sets/<wbr>cows</td>" in (tmp_path / "comparison.html").read_text("utf-8")


def test_a_pattern_that_names_the_page_too(make: Make, tmp_path: Path) -> None:
    make("a"), make("b")
    for _ in range(2):
        done = report(*sorted(tmp_path.iterdir()))
        assert (done.returncode, done.stderr) == (0, "")
    page = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    assert not [link for link in page.all("a") if link["href"]]  # no report.html is there
    (tmp_path / "a" / "report.html").touch()
    assert report(tmp_path / "a", tmp_path / "b").returncode == 0
    assert Page((tmp_path / "comparison.html").read_text(encoding="utf-8")).all("a") == [{"href": "a/report.html"}]
    assert "is the page itself" in report(tmp_path / "comparison.html", "--out", tmp_path / "comparison.html").stderr


def test_one_run_gets_its_own_report(make: Make, tmp_path: Path) -> None:
    run = make("a")
    done = report(run)
    assert (done.returncode, done.stdout) == (0, f"report: {run / 'report.html'}\n")
    text = text_of(Page((run / "report.html").read_text(encoding="utf-8")))
    assert "Finished|: all 30 steps." in text and "a CPU" in text
    assert report(run, "--out", tmp_path / "elsewhere.html").returncode == 0
    assert (tmp_path / "elsewhere.html").read_text("utf-8") == (run / "report.html").read_text("utf-8")


def test_bad_folders_are_one_sentence(make: Make, tmp_path: Path) -> None:
    good = make("good")
    (tmp_path / "empty").mkdir()
    for words in ([good, tmp_path / "empty"], [tmp_path / "nowhere"], [good, good / "config.yaml"], []):
        done = report(*words)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert re.match(r"error: (.* is no run's folder, which has config|RUNS is missing)", done.stderr)
    (good / "events.jsonl").write_text("nonsense\n")
    assert "line 1 is no event record" in report(good).stderr


def test_a_run_has_one_colour_in_all_charts(make: Make, tmp_path: Path) -> None:
    first, second = make("a"), make("b")
    (first / "events.jsonl").write_text('{"step": 10, "losses": {"G_A": 0.5}}\n')  # no D_A, as one without the GAN loss
    assert report(first, second).returncode == 0
    page = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    colours = {(path["data-mean"], path["class"]) for path in page.all("path")}
    assert colours == {("a", "mean s0"), ("b", "mean s1")}


def test_many_runs_have_lines_of_their_own(make: Make, tmp_path: Path) -> None:
    assert report(*(make(f"{i}", names="1") for i in range(10))).returncode == 0
    page = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    kinds = {(path["data-mean"], path["class"]) for path in page.all("path")}
    assert len({kind for _, kind in kinds}) == 10 == len(kinds)


def test_labels_tell_runs_apart() -> None:
    assert labels_of([Path("/x/a/run"), Path("/x/b/run"), Path("/x/b/other")]) == ["a/run", "b/run", "b/other"]
    assert labels_of([Path("/x/a"), Path("/y/b")]) == ["a", "b"]


def add_score(folder: Path, swd: float, protocol: str) -> None:
    with EventLog(folder, resume_step=30) as log:
        log.write(30, scores={"swd": swd, "swd_AtoB": swd, "swd_BtoA": swd}, protocol=protocol)


def test_scores_of_all_runs_share_a_chart(make: Make, tmp_path: Path) -> None:
    a, b = make("a"), make("b")
    for folder, value in ((a, 40.0), (b, 30.0)):
        add_score(folder, value, "4 + 4 images")
    assert report(a, b).returncode == 0
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "Sliced Wasserstein distance: a ends at 40, b ends at 30" in page
    assert "Generators (adversarial): G_A: a ends at" in page
    assert "do not compare" not in page


def test_scores_are_drawn_as_they_are(make: Make, tmp_path: Path) -> None:
    a, b = make("a", steps=0), make("b", steps=0)
    for folder in (a, b):
        with EventLog(folder) as log:
            for step in range(1, 101):
                log.write(step, losses={"G_A": step % 2}, scores={"swd": 40.0 + 40 * (step % 2)}, protocol="4 + 4")
    assert report(a, b).returncode == 0
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "Sliced Wasserstein distance: a ends at 40, b ends at 40" in page  # what the best step is chosen by
    assert "G_A: a ends at 0," not in page  # a running mean


def test_scores_of_a_model_of_one_direction_are_drawn_beside_that_of_others(make: Make, tmp_path: Path) -> None:
    both, one_way = make("both"), make("one", model="pix2pix")
    add_score(both, 40.0, "4 + 4 images")
    with EventLog(one_way, resume_step=30) as log:
        log.write(30, scores={"swd_AtoB": 30.0}, protocol="4 + 4 images")
    assert report(both, one_way).returncode == 0
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "Sliced Wasserstein distance, A → B: both ends at 40, one ends at 30" in page
    assert "Sliced Wasserstein distance, B → A: both ends at 40" in page
    assert (
        "G_A turns images of A into B and G_B images of B into A; D_A scores images of B and D_B images of A." in page
    )
    assert "G_A turns images of A into B; D_A scores images of A and B, both at once." in page


def test_scores_by_different_protocols_are_kept_apart(make: Make, tmp_path: Path) -> None:
    a, b = make("a"), make("b")
    for folder, swd, protocol in ((a, 77.0, "2 + 2 images"), (a, 40.0, "4 + 4 images"), (b, 30.0, "8 + 8 images")):
        add_score(folder, swd, protocol)
    assert report(a, b).returncode == 0
    page = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    assert "scored by different protocols. a: 4 + 4 images; b: 8 + 8 images." in text_of(page)
    scores = page.all("path")[-2:]  # the last chart
    assert [path["data-mean"] for path in scores] == ["a", "b"]
    assert all(path["d"].count("M") == 1 and "L" not in path["d"] for path in scores)  # one score each
