import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.rng import RandomUse, rng_for
from cyclegan_fast.errors import UserError
from tests.data.sample_images import noise

STILL = transforms.Augmentation(x=0.5, y=0.5, mirror=False)


def sample(image: Image.Image, config: DataConfig, augmentation: transforms.Augmentation) -> np.ndarray:
    """What an image becomes, [h, w, C]."""
    pixels = np.asarray(image)
    resized = transforms.resize(pixels[..., None] if pixels.ndim == 2 else pixels, config)
    return transforms.crop(resized, config, augmentation)


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("resize_and_crop", (100, 70), (64, 64)),
        ("crop", (100, 70), (64, 64)),
        ("scale_width", (100, 70), (72, 52)),
        ("scale_width", (100, 500), (72, 360)),
        ("scale_width_and_crop", (200, 70), (64, 64)),
        ("none", (101, 70), (100, 72)),
        ("none", (64, 64), (64, 64)),
    ],
)
def test_size_of_every_mode(mode: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    config = DataConfig(preprocess=mode, load_size=72, crop_size=64)  # type: ignore[arg-type]
    assert sample(noise(*size), config, STILL).shape == (*expected[::-1], 3)
    assert transforms.sample_size(size, config) == expected


def test_pixels_are_those_of_resize_crop_and_flip() -> None:
    image = noise(100, 70)
    config = DataConfig(load_size=72, crop_size=64)
    expected = np.asarray(image.resize((72, 72), Image.Resampling.BICUBIC))[2:66, 8:72][:, ::-1]
    assert np.array_equal(sample(image, config, transforms.Augmentation(x=0.99, y=0.3, mirror=True)), expected)
    unflipped = sample(image, DataConfig(load_size=72, crop_size=64, flip=False), STILL)
    assert np.array_equal(unflipped, np.asarray(image.resize((72, 72), Image.Resampling.BICUBIC))[4:68, 4:68])


def test_draws_cover_every_crop_and_both_sides() -> None:
    ramp = Image.fromarray(np.arange(28, dtype=np.uint8)[None].repeat(28, axis=0))
    config = DataConfig(preprocess="crop", crop_size=24, flip=False)
    draws = [transforms.draw_augmentation(rng_for(0, RandomUse.SAMPLE, i)) for i in range(500)]
    lefts = [int(sample(ramp, config, d)[0, 0, 0]) for d in draws]
    assert min(np.bincount(lefts, minlength=5)) > 60 and max(lefts) == 4
    assert 200 < sum(d.mirror for d in draws) < 300


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(load_size=64, crop_size=128), "larger than --load-size"),
        (DataConfig(crop_size=126, load_size=128), "multiple of 4"),
        (DataConfig(crop_size=8, load_size=8), "at least 24"),
        (DataConfig(preprocess="scale_width", load_size=8), "at least 24"),
    ],
)
def test_sizes_that_cannot_work_are_refused(config: DataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        transforms.check_geometry(config)
