"""Finds near-duplicates by the 63 bits of `probe.perceptual_hash`, without comparing each image with each."""

from __future__ import annotations

import numpy as np

MAX_BITS = 4  # of 63 bits; between images that have nothing in common about 31 differ
_PAIRS_AT_ONCE = 1 << 20  # bounds the memory to some tens of MB


def nearest(a: np.ndarray, b: np.ndarray, max_bits: int = MAX_BITS) -> tuple[np.ndarray, np.ndarray]:
    """Finds for each hash of `a` the nearest one of `b` from which it differs in at most `max_bits` bits.

    If the bits are divided into `max_bits` + 1 bands, such a pair agrees in one whole band at least: so only pairs that
    do are compared, which are few. The bits that vary most go to the bands in turn, so that every band distinguishes.

    Args:
        a: uint64 [N].
        b: uint64 [M].
        max_bits: Bits that may differ.

    Returns:
        Index into `b`, int64 [N], -1 for none; and the bits that differ, int64 [N].
    """
    if not len(b):
        return np.full(len(a), -1), np.full(len(a), -1)
    hashes_a, back = np.unique(a, return_inverse=True)
    hashes_b, first = np.unique(b, return_index=True)
    best = np.full(len(hashes_a), np.iinfo(np.int64).max)  # distance << 32 | index into hashes_b
    bits_a, bits_b = _bits_of(hashes_a), _bits_of(hashes_b)
    by_variation = np.argsort(np.abs(np.concatenate((bits_a, bits_b)).mean(axis=0) - 0.5), kind="stable")
    for first_bit in range(max_bits + 1):
        band = by_variation[first_bit :: max_bits + 1]
        weights = 1 << np.arange(len(band))
        _compare_agreeing(hashes_a, hashes_b, bits_a[:, band] @ weights, bits_b[:, band] @ weights, max_bits, best)
    found = best < np.iinfo(np.int64).max
    best[~found] = 0
    which = np.where(found, first[best & 0xFFFFFFFF], -1)
    return which[back], np.where(found, best >> 32, -1)[back]


def _bits_of(hashes: np.ndarray) -> np.ndarray:
    """The bits of each uint64, uint8 [N, 64]."""
    return np.unpackbits(hashes.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)


def _compare_agreeing(
    a: np.ndarray, b: np.ndarray, keys_a: np.ndarray, keys_b: np.ndarray, max_bits: int, best: np.ndarray
) -> None:
    """Lowers `best` by the pairs whose keys agree."""
    order = np.argsort(keys_b, kind="stable")
    start = np.searchsorted(keys_b, keys_a, "left", sorter=order)
    counts = np.searchsorted(keys_b, keys_a, "right", sorter=order) - start
    ends = np.cumsum(counts)
    row = 0
    while row < len(a):
        done = ends[row - 1] if row else 0
        stop = max(row + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, "right")))
        rows = np.repeat(np.arange(row, stop), counts[row:stop])
        within = np.arange(len(rows)) - np.repeat(ends[row:stop] - counts[row:stop] - done, counts[row:stop])
        columns = order[start[rows] + within]
        differing = _ones(a[rows] ^ b[columns])
        near = differing <= max_bits
        np.minimum.at(best, rows[near], differing[near] << 32 | columns[near])
        row = stop


def _ones(values: np.ndarray) -> np.ndarray:
    """Bits that are set in each uint64, int64 [N]."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(values).astype(np.int64)
    return _bits_of(values).sum(axis=1, dtype=np.int64)
