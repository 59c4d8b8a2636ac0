"""The predictions of docs/scaling.md are those of the program that computes them."""

from __future__ import annotations

import pytest

from benchmarks.scaling import DOCS, Cluster, gradient_megabytes, step_milliseconds, table

PAGE = (DOCS / "scaling.md").read_text("utf-8")


def test_the_page_has_the_table() -> None:
    """If not, put there what `python -m benchmarks.scaling` prints."""
    assert "\n".join(table()) in PAGE


def test_the_text_has_the_numbers_that_the_table_is_made_of() -> None:
    G, D = gradient_megabytes().values()
    assert f"{G + D:.1f} MB of gradients in float32, {G:.1f} MB of the generators\nand {D:.1f} MB of the disc" in PAGE
    assert f"{step_milliseconds():.2f} ms\nfor a batch of 1" in PAGE


def test_an_all_reduce_takes_twice_the_bytes_but_for_a_part_that_stays() -> None:
    """20 GB/s, of which 80 % are usable, and 3 hops to another host and back."""
    assert Cluster(64, "", 20).all_reduce(16) == pytest.approx(2 * 63 / 64 * 1 + 2 * (0.003 + 3 * 0.005))
    assert Cluster(2, "", 20).all_reduce(16) == pytest.approx(1 + 2 * 0.003)
