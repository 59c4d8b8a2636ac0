"""How many cores and how much memory this process may use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cyclegan_fast.device import cores_of_container, free_in_container, free_memory, usable_cores


def control_group(folder: Path, limit: str, used: str, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / (limit if name == "limit" else used if name == "used" else Path(used).parent / name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("limit", "used", "cache"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_container_s_limit_counts(tmp_path: Path, limit: str, used: str, cache: str) -> None:
    statistics = f"anon 100\n{cache} 300\nactive_file 50\n"
    files = {"limit": "1000\n", "used": "900\n", "memory.stat": statistics}
    assert free_in_container(control_group(tmp_path, limit, used, files)) == 1000 - 900 + 300


def test_no_container_and_no_limit(tmp_path: Path) -> None:
    assert free_in_container(tmp_path) is None
    files = {"limit": "max\n", "used": "900\n", "memory.stat": "inactive_file 300\n"}
    assert free_in_container(control_group(tmp_path, "memory.max", "memory.current", files)) is None


def test_the_host_has_some() -> None:
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "odd\n"}, None),
        ({}, None),
    ],
)
def test_a_container_s_cpu_limit_counts(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores_of_container(tmp_path) == cores


@pytest.mark.parametrize(("limit", "expected"), [(None, 8), (2.5, 3), (0.1, 1), (64.0, 8)])
def test_usable_cores_are_within_both_limits(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("cyclegan_fast.device.cores_of_container", lambda _: limit)
    assert usable_cores() == expected
