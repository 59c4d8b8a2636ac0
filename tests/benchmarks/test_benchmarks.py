"""The benchmarks run: pytest collects every file, a small case of each passes, and the programs write their pages."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import (
    agreement,
    bench_convs,
    bench_data,
    bench_infer,
    bench_serve,
    bench_step,
    bulk,
    draw_step,
    harness,
    measure,
)
from benchmarks.results import BEGIN, END, write_between_markers, write_page
from benchmarks.step_cases import Workload, build_ladder

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
FILES = sorted(path.name for path in BENCHMARKS.glob("bench_*.py"))
RESULTS = ROOT / "docs" / "results"
CHEAP = {"bench_ops.py": "discriminator_losses-ours", "bench_infer.py": "eager fp32", "bench_step.py": "ours"}
TINY = Workload(size=32, blocks=1, channels=4)


class OneOfEach:
    """A pytest plugin that keeps one case of each file, and records what became of it."""

    def __init__(self) -> None:
        self.collected: dict[str, int] = dict.fromkeys(FILES, 0)
        self.outcomes: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen: dict[str, pytest.Item] = {}
        for item in items:
            self.collected[item.path.name] += 1
            if CHEAP.get(item.path.name, "") in item.name:
                chosen.setdefault(item.path.name, item)
        items[:] = chosen.values()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.outcomes[Path(report.nodeid.split("::")[0]).name] = report.longreprtext or report.outcome


def test_every_file_is_collected_and_a_case_of_each_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `pytest benchmarks/ --benchmark-only --quick` does it, but within this process, which has imported torch."""
    monkeypatch.setattr(harness, "quick", False)  # what the option sets is undone after this test
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # by it pytest-benchmark knows that others work beside it
    plugin = OneOfEach()
    words = [str(BENCHMARKS), "--benchmark-only", "--quick", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    status = pytest.main([*words, "--rootdir", str(ROOT)], plugins=[plugin])
    assert plugin.outcomes == dict.fromkeys(FILES, "passed")
    assert status == 0 and min(plugin.collected.values()) > 2, plugin.collected


def test_every_file_is_explained() -> None:
    readme = (BENCHMARKS / "README.md").read_text("utf-8")
    for path in BENCHMARKS.glob("*.py"):
        assert f"`{path.name}`" in readme or f"| `{path.stem}" in readme, path.name
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path.name


def test_cases_take_turns_and_ratios_are_taken_round_by_round() -> None:
    calls: list[str] = []
    cases = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = harness.interleave(cases, rounds=3, device=harness.DEVICE, warm_up=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert harness.ratio({"base": [4.0, 8.0, 100.0], "ours": [2.0, 2.0, 1.0]}, "base", "ours") == 4.0


def test_pages_are_what_their_numbers_give(tmp_path: Path) -> None:
    """The pages in docs/ of the results that are stored there, byte for byte."""
    stored = json.loads((RESULTS / "cpu.json").read_text("utf-8"))
    write_page(tmp_path / "cpu.md", measure.device_page("cpu", stored))
    assert (tmp_path / "cpu.md").read_text("utf-8") == (RESULTS / "cpu.md").read_text("utf-8")
    for name, lines in (
        ("data.md", bench_data.data_page(stored["data"])),
        ("engines.md", bench_infer.infer_page(stored["infer"])),
    ):
        assert "\n".join(lines) in (ROOT / "docs" / name).read_text("utf-8"), name
    for name, table in (("serve", lambda results: bench_serve.tables(results[0])), ("bulk", bulk.table)):
        measured = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
        assert "\n".join(table(measured["results"])) in (RESULTS / f"{name}.md").read_text("utf-8"), name


def test_agreement_counts_in_standard_deviations_of_float32() -> None:
    """By hand: float32 has 1 and 3, of standard deviation 1.4142; bfloat16 has a mean of 5."""
    values = (("float32", 0, 1.0), ("float32", 1, 3.0), ("bfloat16", 0, 4.0), ("bfloat16", 1, 6.0))
    trained = [{"mode": mode, "seed": seed, "figures": {"cycle_A": value}} for mode, seed, value in values]
    assert agreement.rows(trained)[2:] == ["| cycle_A | 2.0000 ± 1.4142 | 5.0000 ± 1.4142 | 2.1 |"]


def test_what_people_wrote_around_the_markers_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_between_markers(page, ["| new |", ""])
    assert page.read_text("utf-8") == f"before\n{BEGIN}\n\n| new |\n\n{END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(SystemExit, match=r"markers .* are missing"):
        write_between_markers(page, [])


def test_a_workload_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_step, "ROUNDS", 3)
    result = bench_step.measure_workload(TINY, build_ladder, seconds=600)
    assert result["left_out"] == {} and result["rounds"] == 3 and len(result["all_ms"]) >= 4
    assert all(len(times) == 3 and min(times) > 0 for times in result["all_ms"].values())
    assert result["table"].count("\n") == 1 + len(result["all_ms"])


def test_convolutions_are_measured() -> None:
    rows = bench_convs.measure(32, 4, 1, harness.torch.float32, rounds=1)
    assert len(rows) == 30 and all(row["share"] > 0 and len(row["ms"]) >= 2 for row in rows)
    columns = len(bench_convs.IMPLEMENTATIONS) + 4
    assert all(bench_convs.row_of(row).count("|") == columns + 1 for row in rows)


def test_the_drawing_shows_every_pass_of_a_step() -> None:
    svg = draw_step.draw(draw_step.record(TINY), "caption")
    words = {node.text for node in ElementTree.fromstring(svg).iter() if node.text}
    for title in ("D_A(fake_B): ", "d G_B: ", "Adam: "):
        assert any(word.startswith(title) for word in words), title
