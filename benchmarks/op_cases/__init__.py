"""What is measured of each operator: ours beside torch's own ops, with the bytes of a call and a check of results."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from benchmarks.op_cases import ends, norms, training
from benchmarks.op_cases.case import DTYPES, LAYOUTS, SHAPES, OpCase

NORMS = (
    *(norms.norm_forward, norms.norm_both, norms.norm_backward),
    *(norms.norm_end, norms.norm_apply, norms.norm_backward_apply),
)
OF_BATCHES = (ends.tanh_to_uint8, ends.from_uint8, training.image_pool, ends.padded_input, ends.network_end)


def cases() -> Iterator[Callable[[], OpCase]]:
    """Functions that make the cases, one at a time: a case needs memory."""
    for shape in SHAPES:
        for layout in LAYOUTS:
            for dtype in DTYPES:
                for maker in NORMS:
                    yield functools.partial(maker, shape, layout, dtype)
    for side in (256, 1024):
        yield functools.partial(training.four_cycle_losses, side)
    yield training.discriminator_losses
    for dtype in DTYPES:
        yield functools.partial(training.adam, dtype)
    for batch in (1, 8):
        for layout in LAYOUTS:
            for maker in OF_BATCHES:
                yield functools.partial(maker, batch, layout)
