"""The predictions of docs/scaling.md are those of the program that computes them."""

from __future__ import annotations

import pytest

from benchmarks.scaling import DOCS, JOINT, STEP, Cluster, gradient_megabytes, predicted_milliseconds, table

PAGE = (DOCS / "scaling.md").read_text("utf-8")


def test_the_page_has_the_table() -> None:
    """If not, put there what `python -m benchmarks.scaling` prints."""
    assert "\n".join(table()) in PAGE


def test_the_text_has_the_numbers_that_the_table_is_made_of() -> None:
    G, D = gradient_megabytes().values()
    assert f"{G + D:.1f} MB of gradients in float32, {G:.1f} MB of the generators\nand {D:.1f} MB of the disc" in PAGE
    step, last = predicted_milliseconds(STEP), predicted_milliseconds(JOINT)
    assert f"{step:.2f} ms\nfor a batch of 1" in PAGE
    assert f"computed last, {last:.2f} ms of the step of {step:.2f} ms by the same prediction" in PAGE


def test_what_travels_while_gradients_are_computed_is_not_waited_for() -> None:
    """16 GB/s are usable, and 2 ranks send each byte once: 4 MB take 0.25 ms, and two hops 0.006 ms."""
    cluster, hops = Cluster(2, "", 20), 2 * 0.003
    of = {"D": 16.0, "G": 48.0}  # 1 ms, and 1 ms for each of three parts
    assert cluster.waited(of, 30.0) == pytest.approx(1 + hops), "the last part, as the connection keeps up"
    assert cluster.waited(of, 3.0) == pytest.approx(1 + 4 * hops), "all but what fits in beside them"
    assert cluster.waited(of, 0.0) == pytest.approx(4 + 4 * hops), "all of it"


def test_an_all_reduce_takes_twice_the_bytes_but_for_a_part_that_stays() -> None:
    """20 GB/s, of which 80 % are usable, and 3 hops to another host and back."""
    assert Cluster(64, "", 20).all_reduce(16) == pytest.approx(2 * 63 / 64 * 1 + 2 * (0.003 + 3 * 0.005))
    assert Cluster(2, "", 20).all_reduce(16) == pytest.approx(1 + 2 * 0.003)
