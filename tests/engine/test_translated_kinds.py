"""Unusual kinds of images on their whole way: read, through an engine that changes nothing, and written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.engine import Tiling, infer
from cyclegan_fast.engine.translation.files import translate_files
from cyclegan_fast.engine.translation.tasks import plan_tasks
from cyclegan_fast.images.decode import read_unscaled
from tests.data.sample_images import needs_deep, noise
from tests.engine.identity import Identity
from tests.images.tiff_writer import tiff


def translated(source: Path, channels: int = 3, tiling: Tiling | None = None) -> dict[str, np.ndarray]:
    """The results by their names below the output folder."""
    output = source.parent / "out" if "*" not in source.name else source.parent.parent / "out"
    tasks = plan_tasks(source, output)
    for done in translate_files(Identity(channels), tasks, tiling=tiling):
        assert done.fault == "", done
    return {str(task.target.relative_to(output)): read_unscaled(task.target, channels) for task in tasks}


@needs_deep
def test_rgb_with_another_band_in_a_batch_with_others(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 256, (32, 32, 4))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").write_bytes(tiff(bands, 8, "rgb", extras=("band",)))
    noise(32, 32).save(tmp_path / "in" / "b.png")
    made = translated(tmp_path / "in")
    assert np.array_equal(made["a.tif"], bands[..., :3]) and np.array_equal(made["b.png"], np.asarray(noise(32, 32)))
    assert np.array_equal(np.asarray(infer(Identity(), tmp_path / "in" / "a.tif")), bands[..., :3])


@needs_deep
@pytest.mark.parametrize("photometric", ["rgb", "white", "cmyk", "palette"])
@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("planar", [False, True])
def test_by_rows_as_a_whole(tmp_path: Path, photometric: str, bits: int, planar: bool) -> None:
    channels = {"rgb": 3, "white": 1, "cmyk": 4, "palette": 1}[photometric]
    samples = np.random.default_rng(0).integers(0, 1 << bits, (96, 80, channels))
    colours = np.random.default_rng(1).integers(0, 65536, (1 << bits, 3)) if photometric == "palette" else None
    content = tiff(samples, bits, photometric, planar=planar, rows_per_strip=20, colours=colours)
    (tmp_path / "a.tif").write_bytes(content)
    whole = read_unscaled(tmp_path / "a.tif", 3)
    for tiling in (None, Tiling("tile", tile=32)):
        source = tmp_path / str(tiling and tiling.tile) / "a.tif"
        source.parent.mkdir()
        source.write_bytes(content)
        (made,) = translated(source, tiling=tiling).values()
        assert made.dtype == whole.dtype and np.array_equal(made, whole), tiling


@needs_deep
@pytest.mark.parametrize(
    ("mode", "suffix"), [("LA", ".png"), ("LA", ".tif"), ("RGBA", ".png"), ("RGBA", ".tif"), ("RGBA", ".webp")]
)
def test_transparency_as_a_channel(tmp_path: Path, mode: str, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (32, 32, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(
        tmp_path / f"sprite{suffix}", **({"lossless": True} if suffix == ".webp" else {})
    )
    (made,) = translated(tmp_path / f"sprite{suffix}", len(mode)).values()
    tolerance = 60 if suffix == ".webp" else 0  # which is written with loss
    assert np.abs(made.astype(int) - pixels)[..., -1].max() <= tolerance // 60
    assert np.abs(made.astype(int) - pixels).mean() <= tolerance
    assert infer(Identity(len(mode)), tmp_path / f"sprite{suffix}").mode == mode


def test_a_pattern_below_a_folder_with_marks_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "p [2024]" / "x").mkdir(parents=True)
    noise(16, 16).save(tmp_path / "p [2024]" / "x" / "0.png")
    assert set(translated(tmp_path / "p [2024]" / "*" / "*.png")) == {"x/0.png"}
    results = infer(Identity(), str(tmp_path / "p [2024]" / "*" / "*.png"))
    assert [np.array_equal(np.asarray(result), np.asarray(noise(16, 16))) for result in results] == [True]
