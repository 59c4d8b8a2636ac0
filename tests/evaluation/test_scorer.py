"""Scores of translations: which images are compared with which, as they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cyclegan_fast.evaluation.faithfulness import with_noise
from cyclegan_fast.evaluation.feature_distances import density_and_coverage, frechet_distance, kernel_distance
from cyclegan_fast.evaluation.features import FeatureNetwork
from cyclegan_fast.evaluation.scorer import Scorer, Scores, Translated, as_stored, with_features, with_means
from cyclegan_fast.evaluation.sets import Images, unit_range
from cyclegan_fast.evaluation.similarity import psnr, ssim
from cyclegan_fast.evaluation.sliced_wasserstein import SlicedWasserstein
from cyclegan_fast.evaluation.structure import gradient_correlation
from cyclegan_fast.images.tensors import to_model_range
from cyclegan_fast.metrics import Direction

CPU = torch.device("cpu")


def arrays(count: int, shape: tuple[int, int, int], dtype: type = np.uint8, *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        return [rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True) for _ in range(count)]
    return [rng.uniform(-1, 1, shape).astype(dtype) for _ in range(count)]


def tensor(pixels: np.ndarray) -> torch.Tensor:
    """[H, W, C] as the networks see it, [C, H, W] in [-1, 1]."""
    return to_model_range(torch.from_numpy(pixels)[None])[0]


def identical(images: Images, reconstructions: Images) -> Iterator[Translated]:
    return (Translated(tensor(x), tensor(y)) for x, y in zip(images, reconstructions, strict=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [(3, 3), (1, 5)])
def test_perfect_translations_have_perfect_scores(dtype: type, channels: tuple[int, int]) -> None:
    a, b = (arrays(3, (20, 25, c), dtype, seed=c + i) for i, c in enumerate(channels))
    scores = Scorer((a, b), CPU, paired=True).score({"AtoB": lambda: identical(b, a), "BtoA": lambda: identical(a, b)})
    for direction in ("_AtoB", "_BtoA", ""):
        for name in ("swd", "color", "cycle_l1", "l1"):
            assert scores.values[name + direction] == pytest.approx(0, abs=1e-6)
        assert scores.values["psnr" + direction] >= 99 and scores.spreads["swd" + direction] == 0
        assert scores.values["ssim" + direction] == pytest.approx(1) == scores.values["cycle_ssim" + direction]


def test_translations_are_compared_with_the_images_of_their_target() -> None:
    a, b = arrays(4, (24, 24, 3)), [x // 3 for x in arrays(3, (24, 24, 3), seed=1)]
    scorer = Scorer((a, b), CPU)
    scores = scorer.score({"AtoB": lambda: identical(a, a), "BtoA": lambda: identical(b, b)})
    swd = SlicedWasserstein(channels=3, min_side=24, images=4)
    projected = [swd.project([unit_range(tensor(x)) for x in images], len(images)) for images in (a, b)]
    assert scores.values["swd_AtoB"] == pytest.approx(swd.distance(*projected).value)
    assert scores.values["color_AtoB"] == pytest.approx(1 / 3, abs=0.02)  # values up to 255 against those up to 85
    assert not {"l1", "psnr", "ssim"} & scores.values.keys()
    untranslated = scorer.untranslated()
    for name in ("swd_AtoB", "swd_BtoA", "swd", "color"):
        assert untranslated.values[name] == scores.values[name]


def test_untranslated_images_are_compared_with_their_partners_too() -> None:
    a, b = arrays(3, (20, 25, 3)), arrays(3, (20, 25, 3), seed=1)
    scorer = Scorer((a, b), CPU, paired=True)
    scores = scorer.score({"AtoB": lambda: identical(a, a), "BtoA": lambda: identical(b, b)}).values
    untranslated = scorer.untranslated().values
    for name in ("l1", "psnr", "ssim"):
        for direction in ("_AtoB", "_BtoA", ""):
            assert untranslated[name + direction] == pytest.approx(scores[name + direction]), name


def test_what_translations_hide_and_keep_is_scored() -> None:
    a, b = arrays(3, (20, 22, 3)), arrays(3, (20, 22, 1), seed=1)
    honest = [Translated(tensor(x).mean(0, keepdim=True), tensor(x), with_noise(tensor(x)[None])[0]) for x in a]
    hiding = [Translated((tensor(x) * 0).expand(3, -1, -1), tensor(x), tensor(x).flip(2)) for x in b]
    scores = Scorer((a, b), CPU).score({"AtoB": lambda: honest, "BtoA": lambda: hiding}).values
    assert scores["hidden_AtoB"] == pytest.approx(1, rel=0.05) and scores["hidden_BtoA"] > 20
    expected = [gradient_correlation(tensor(x)[None], found.image[None]) for x, found in zip(a, honest, strict=True)]
    assert scores["structure_AtoB"] == pytest.approx(float(torch.stack(expected).mean()), abs=1e-6)
    assert scores["structure_BtoA"] == 0
    without = Scorer((a, b), CPU).score({"AtoB": lambda: [x._replace(noise_reconstruction=None) for x in honest]})
    assert "structure_AtoB" in without.values and "hidden_AtoB" not in without.values


def test_domains_of_other_channels_have_no_score_untranslated() -> None:
    assert Scorer((arrays(2, (20, 20, 1)), arrays(2, (20, 20, 3))), CPU).untranslated() == Scores({})


def test_partners_and_reconstructions_are_of_the_same_image() -> None:
    a, b = arrays(3, (16, 16, 1)), arrays(3, (16, 16, 1), seed=1)
    translated = [Translated(torch.rand(1, 16, 16) * 2 - 1, torch.rand(1, 16, 16) * 2 - 1) for _ in a]
    scores = Scorer((a, b), CPU, paired=True).score({"AtoB": lambda: translated}).values
    stored = [unit_range(tensor(as_stored(found.image, np.dtype(np.uint8)))) for found in translated]
    real_a, real_b = ([unit_range(tensor(x)) for x in images] for images in (a, b))
    assert scores["psnr_AtoB"] == pytest.approx(np.mean([psnr(x, y) for x, y in zip(stored, real_b, strict=True)]))
    back = [unit_range(found.reconstruction) for found in translated if found.reconstruction is not None]
    assert scores["cycle_ssim_AtoB"] == pytest.approx(np.mean([ssim(x, y) for x, y in zip(back, real_a, strict=True)]))
    assert "psnr" not in scores  # of one direction there is no mean


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_are_scored_as_a_file_stores_them(dtype: type) -> None:
    (pixels,) = arrays(1, (5, 6, 2), dtype)
    assert (as_stored(tensor(pixels), pixels.dtype) == pixels).all()
    beyond = as_stored(torch.tensor([[[-3.0, 3.0]]]), np.dtype(dtype))
    assert beyond.ravel().tolist() == [0, np.iinfo(dtype).max]
    image = torch.rand(1, 3, 3) * 2 - 1
    assert (as_stored(image, np.dtype(np.float32))[..., 0] == image[0].numpy()).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_scores_of_generators_that_return_nan_are_nan(dtype: type) -> None:
    a, b = arrays(2, (16, 16, 3), dtype), arrays(2, (16, 16, 3), dtype, seed=1)
    bad = torch.full((3, 16, 16), math.nan)
    directions: dict[Direction, object] = {"AtoB": None}
    scores = Scorer((a, b), CPU, paired=True).score({d: lambda: [Translated(bad, bad)] * 2 for d in directions})
    assert len(scores.values) == 8 and all(math.isnan(value) for value in scores.values.values())


def test_means_over_both_directions() -> None:
    one, two = Scores({"swd_AtoB": 3.0, "x_AtoB": 1.0}, {"swd_AtoB": 0.3}), Scores({"swd_BtoA": 5.0}, {"swd_BtoA": 0.4})
    joined = with_means([one, two])
    assert joined.values == {"swd_AtoB": 3.0, "x_AtoB": 1.0, "swd_BtoA": 5.0, "swd": 4.0}
    assert joined.spreads["swd"] == pytest.approx(0.25)


def test_features_are_compared_where_a_network_is_given(caplog: pytest.LogCaptureFixture) -> None:
    a, b = arrays(7, (16, 16, 3)), arrays(8, (16, 16, 3), seed=1)

    def means(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)

    network = FeatureNetwork("means", means, None)
    scorer = Scorer((a, b), CPU, features=network)
    scores = scorer.score({"AtoB": lambda: identical(a, a), "BtoA": lambda: identical(b, b)})
    real = [torch.stack([network.run(unit_range(tensor(x))[None])[0] for x in images]).double() for images in (a, b)]
    assert scores.values["fid_AtoB"] == pytest.approx(frechet_distance(*real), rel=1e-6)
    kid = kernel_distance(*real)
    assert (scores.values["kid_AtoB"], scores.spreads["kid_AtoB"]) == pytest.approx(kid, rel=1e-5)
    assert (scores.values["density_BtoA"], scores.values["coverage_BtoA"]) == density_and_coverage(real[1], real[0])
    assert scores.values["kid"] == pytest.approx((kid.value + scores.values["kid_BtoA"]) / 2)
    few = "FID of 7 images says little, as it is far too high with few: prefer KID"
    assert caplog.messages.count(few) == 1
    few_scores = Scorer((a[:2], b[:2]), CPU, features=network).untranslated().values
    assert "fid" in few_scores and not {"kid", "density"} & few_scores.keys()


def test_the_protocol_says_whether_the_images_are_too_few_for_fid() -> None:
    network = FeatureNetwork("x.pt2", lambda images: images, None, digest="1a2b3c4d")
    many = "50 images; features of x.pt2 (SHA-256 1a2b3c4d)"
    assert with_features("50 images", network, 50, 60) == many and with_features("3 images", None, 3) == "3 images"
    assert with_features("50 images", network, 60, 49) == (
        many + "; FID says little of fewer than 50 images: prefer KID"
    )


def test_images_of_several_sizes_are_scored() -> None:
    rng = np.random.default_rng(0)
    a = [rng.integers(0, 256, (height, 40, 3), dtype=np.uint8) for height in (24, 36, 52)]
    b = [rng.integers(0, 256, (40, width, 3), dtype=np.uint8) for width in (28, 32)]
    scores = Scorer((a, b), CPU).score({"AtoB": lambda: identical(a, a), "BtoA": lambda: identical(b, b)})
    assert 0 < scores.values["swd"] < 300 and scores.values["cycle_ssim"] == pytest.approx(1)


def test_halves_of_the_target_are_the_floor() -> None:
    """Of smooth images and of noise: halves of one kind are nearer than the other kind."""
    smooth = [np.kron(x, np.ones((6, 6, 1), np.uint8)) for x in arrays(12, (5, 5, 1))]
    noise = arrays(12, (30, 30, 1), seed=1)
    scorer = Scorer((smooth, noise), CPU)
    floor, untranslated = scorer.halves(), scorer.untranslated()
    for direction in ("AtoB", "BtoA"):
        assert floor.values[f"swd_{direction}"] < 0.7 * untranslated.values[f"swd_{direction}"]
        assert floor.spreads[f"swd_{direction}"] > 0
    assert Scorer((smooth[:1], noise[:1]), CPU).halves() == Scores({})
