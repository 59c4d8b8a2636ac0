"""Which images of a set are shown to people: a random sample, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.audit import contact_sheet as sheets
from cyclegan_fast.data.audit.report import audit
from cyclegan_fast.data.rng import draw_shown


@pytest.mark.parametrize(("total", "count"), [(0, 4), (1, 4), (4, 4), (5, 4), (1_000_000, 12)])
def test_a_sample_has_no_image_twice_and_is_always_the_same(total: int, count: int) -> None:
    drawn = draw_shown(total, count)
    assert len(set(drawn)) == len(drawn) == min(count, total)
    assert all(0 <= i < total for i in drawn)
    assert drawn == draw_shown(total, count)


@pytest.mark.parametrize("sources", range(2, 11))
def test_a_sample_shows_several_of_the_sources_that_take_turns(sources: int) -> None:
    for count in (4, 12):
        assert len({i % sources for i in draw_shown(60 * sources, count)}) > 1


def test_the_contact_sheet_shows_a_random_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for domain in ("trainA", "trainB"):
        (tmp_path / domain).mkdir()
        for i in range(60):
            Image.effect_noise((24, 24), 50 + i).save(tmp_path / domain / f"{i:02d}.png")
    found, shown = audit(DataConfig(data=tmp_path, crop_size=24, load_size=24)), []
    thumbnail = sheets.thumbnail
    monkeypatch.setattr(
        sheets, "thumbnail", lambda image, *size: (shown.append(image.name), thumbnail(image, *size))[1]
    )
    first, second = (sheets.contact_sheet("x", "y", found.domains, []) for _ in range(2))
    assert first == second and len(shown) == 2 * 2 * 12
    numbers = [int(Path(name).stem) for name in shown[:12]]
    assert numbers == sorted(set(numbers))
    assert len(set(np.diff(numbers))) > 1  # every fifth would be one of five sources alone
