"""How much memory may still be taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cyclegan_fast.device import free_in_container, free_memory


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
