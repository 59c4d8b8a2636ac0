"""How far one translation can be trusted: scores and maps, by the engine of the other direction."""

from __future__ import annotations

import asyncio
import base64
import math
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.evaluation.faithfulness import MAPS, SCORES, Translate, measure
from cyclegan_fast.monitoring.grids import encode
from cyclegan_fast.monitoring.heat_map import heat_map
from cyclegan_fast.serving.batcher import Batcher


def as_function(batcher: Batcher, loop: asyncio.AbstractEventLoop) -> Translate:
    """The engine of a batcher as a function for another thread than the loop's: [N, C, H, W] -> [N, C', H', W']."""

    def translate(images: Tensor) -> Tensor:
        results = asyncio.run_coroutine_threadsafe(batcher.translate([*images]), loop)
        return torch.stack(results.result()).cpu()

    return translate


def report(values: Tensor, output: Tensor, generator: Translate, inverse: Translate) -> dict[str, Any]:
    """Measures a translation.

    Args:
        values: The input, float32 [C, H, W] in [-1, 1].
        output: The translation, [C', H, W].
        generator: What made it.
        inverse: The generator of the other direction.

    Returns:
        The numbers of docs/faithfulness.md (None for one that is not finite), and the maps as data URLs.

    Raises:
        ValueError: A reconstruction or the second translation has another shape.
    """
    found = measure(values[None].cpu(), output[None].cpu(), generator, inverse)
    scores = {name: float(getattr(found, name)[0]) for name in SCORES}
    return {
        "scores": {name: score if math.isfinite(score) else None for name, score in scores.items()},
        "maps": {name: _data_url(getattr(found, field)[0, 0]) for name, field in MAPS.items()},
    }


def _data_url(error: Tensor) -> str:
    """A map [H, W] as PNG."""
    return f"data:image/png;base64,{base64.b64encode(encode(heat_map(error), 'PNG')).decode()}"
