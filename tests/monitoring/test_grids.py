"""Sample grids, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.errors import UserError
from cyclegan_fast.monitoring.grids import CAPTION_HEIGHT, GAP, PAPER, sample_grid, save_grid, to_image


def test_pixels_are_rounded_and_clamped_never_truncated() -> None:
    levels = torch.arange(256, dtype=torch.float64)
    for shift in (-0.49, 0.0, 0.49):  # anything nearer to a level than to its neighbours is that level
        pixels = ((levels + shift) / 127.5 - 1.0).view(1, 16, 16).expand(3, -1, -1)
        image = np.asarray(to_image(pixels))
        assert np.array_equal(image, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2))
    beyond = to_image(torch.tensor([-7.0, 7.0, torch.nan, torch.inf]).view(1, 1, 4))
    assert np.asarray(beyond)[0, :, 0].tolist() == [0, 255, 0, 255]


def test_the_grid_holds_every_image_whole() -> None:
    torch.manual_seed(0)
    sizes = [[(3, 20, 70), (1, 33, 64)], [(3, 48, 81)]]  # [C, H, W]; a short row, a grey image, differing sizes
    rows = [[torch.rand(size) * 2 - 1 for size in row] for row in sizes]
    grid = np.asarray(sample_grid(rows, ["A", "B"]))
    second_column, second_row = GAP + 81 + GAP, CAPTION_HEIGHT + 33 + GAP
    assert grid.shape == (CAPTION_HEIGHT + 33 + GAP + 48 + GAP, second_column + 64 + GAP, 3)
    for pixels, top, left in [
        (rows[0][0], CAPTION_HEIGHT, GAP),
        (rows[0][1], CAPTION_HEIGHT, second_column),
        (rows[1][0], second_row, GAP),
    ]:
        _, height, width = pixels.shape
        assert np.array_equal(grid[top : top + height, left : left + width], np.asarray(to_image(pixels)))
    assert (grid[second_row:, second_column:] == PAPER).all()  # no image, nothing drawn
    assert (grid[:CAPTION_HEIGHT, :81] != PAPER).any()  # the caption


def test_a_column_is_wide_enough_for_its_caption() -> None:
    tiny = torch.zeros(3, 4, 4)
    short, long = sample_grid([[tiny]], ["A"]), sample_grid([[tiny]], ["a rather long caption"])
    assert long.width > short.width + 50


@pytest.mark.parametrize("rows", [[], [[torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)]]])
def test_rows_must_fit_the_labels(rows: list[list[torch.Tensor]]) -> None:
    with pytest.raises(ValueError, match="sample_grid"):
        sample_grid(rows, ["A"])


def test_png_is_exact_jpeg_is_near_and_nothing_else_is_left_behind(tmp_path: Path) -> None:
    ramp = torch.linspace(-1, 1, 64 * 64).view(1, 64, 64)
    grid = sample_grid([[ramp]], ["A"])
    for name in ("new/a.png", "a.jpg", "a.JPEG"):
        save_grid(tmp_path / name, grid)
        error = np.asarray(Image.open(tmp_path / name)).astype(int) - np.asarray(grid)
        assert abs(error[CAPTION_HEIGHT + 2 :]).max() <= (0 if name.endswith("png") else 24)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"a.png", "a.jpg", "a.JPEG"}


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    grid = sample_grid([[torch.zeros(3, 4, 4)]], ["A"])
    with pytest.raises(UserError, match=r"\.png, \.jpg or \.jpeg"):
        save_grid(tmp_path / "a.tiff", grid)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        save_grid(tmp_path / "file" / "a.png", grid)
