"""Distances of two sets of images by their features, float64 [N, D]: FID, KID, density and coverage."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError

NEAREST = 5  # neighbours of density and coverage; Naeem et al. 2020
FEW_IMAGES = 50  # below which FID says little
_CHUNK = 2048  # images that are compared with all others at a time


class Estimate(NamedTuple):
    """A number and how uncertain it is."""

    value: float
    standard_error: float


def frechet_distance(one: Tensor, two: Tensor) -> float:
    """Returns the Fréchet distance of two sets of features, each seen as a Gaussian (Heusel et al. 2017).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with means m and unbiased covariances S. The trace of the square root
    is the nuclear norm of X1 X2^T / sqrt((n1 - 1) (n2 - 1)), with the centred features X: exact for covariances of any
    rank, so also for fewer images than features.

    Raises:
        UserError: A set has fewer than 2 images.
    """
    _check_count(one, two, 2, "FID")
    if not _are_finite(one, two):
        return math.nan
    (mean1, root1), (mean2, root2) = _mean_and_root(one), _mean_and_root(two)
    variances = root1.square().sum() + root2.square().sum()
    shared = torch.linalg.svdvals(root1 @ root2.T).sum()
    return max(0.0, float((mean1 - mean2).square().sum() + variances - 2 * shared))


def _mean_and_root(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [D] of features [N, D], and R [min(N, D), D] with R^T R their covariance."""
    mean = features.mean(dim=0)
    centred = (features - mean) / math.sqrt(len(features) - 1)
    if len(features) <= features.shape[1]:
        return mean, centred
    return mean, torch.linalg.qr(centred, mode="r").R


def kernel_distance(one: Tensor, two: Tensor) -> Estimate:
    """Returns the squared maximum mean discrepancy of two sets of features (Bińkowski et al. 2018), of all images.

    The unbiased estimator with the kernel (x y / D + 1)^3. It may fall below 0, and its mean does not depend on the
    number of images. The standard error is that of the jackknife over the images of both sets.

    Raises:
        UserError: A set has fewer than 3 images.
    """
    _check_count(one, two, 3, "KID")
    m, n = len(one), len(two)
    within1, within2 = (_kernel_sums(x, x)[0] - (x.square().sum(dim=1) / x.shape[1] + 1) ** 3 for x in (one, two))
    across1, across2 = _kernel_sums(one, two)
    total1, total2, total = within1.sum(), within2.sum(), across1.sum()

    def distance(total1: Tensor, total2: Tensor, total: Tensor, m: int, n: int) -> Tensor:
        return total1 / (m * (m - 1)) + total2 / (n * (n - 1)) - 2 * total / (m * n)

    without = (
        distance(total1 - 2 * within1, total2, total - across1, m - 1, n),  # each image of the one set
        distance(total1, total2 - 2 * within2, total - across2, m, n - 1),
    )
    variance = sum((len(x) - 1) * float(x.var(correction=0)) for x in without)
    return Estimate(float(distance(total1, total2, total, m, n)), math.sqrt(variance))


def _kernel_sums(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """For each feature of `one`, and for each of `two`, the sum of the kernel over all of the other set."""
    rows, columns = [], torch.zeros(len(two), dtype=one.dtype, device=one.device)
    for part in one.split(_CHUNK):
        kernel = (part @ two.T / one.shape[1] + 1) ** 3
        rows.append(kernel.sum(dim=1))
        columns += kernel.sum(dim=0)
    return torch.cat(rows), columns


def density_and_coverage(fake: Tensor, real: Tensor, nearest: int = NEAREST) -> tuple[float, float]:
    """Returns density and coverage (Naeem et al. 2020) of fake features in the neighbourhoods of real ones.

    A neighbourhood reaches from a real image to its `nearest`-th nearest real one. Density is the mean number of
    neighbourhoods that a fake image lies in, by `nearest`; it is 1 where both sets have one distribution, and more
    where the fake images crowd. Coverage is the share of neighbourhoods that hold a fake image, from 0 to 1.

    Raises:
        UserError: There are too few real images, or no fake one.
    """
    _check_count(real, fake, nearest + 1, "density and coverage", others=1)
    if not _are_finite(fake, real):
        return math.nan, math.nan
    counts, covered = torch.zeros(len(fake), dtype=torch.float64, device=fake.device), 0
    for part in real.split(_CHUNK):
        radii = _distances(part, real).kthvalue(nearest + 1, dim=1).values  # the first is the image itself
        within = _distances(part, fake) < radii[:, None]
        counts += within.sum(dim=0)
        covered += int(within.any(dim=1).sum())
    return float(counts.mean() / nearest), covered / len(real)


def _distances(one: Tensor, two: Tensor) -> Tensor:
    return torch.cdist(one, two, compute_mode="donot_use_mm_for_euclid_dist")


def _are_finite(*features: Tensor) -> bool:
    return all(bool(x.isfinite().all()) for x in features)


def _check_count(one: Tensor, two: Tensor, least: int, what: str, others: int | None = None) -> None:
    if len(one) < least or len(two) < (least if others is None else others):
        raise UserError(f"{what} needs at least {least} images of each set, got {len(one)} and {len(two)}")
