"""How far one translation can be trusted: scores and a map, by the engine of the other direction."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.evaluation.faithfulness import Faithfulness, measure
from cyclegan_fast.monitoring.grids import encode
from cyclegan_fast.monitoring.heat_map import heat_map
from cyclegan_fast.serving.batcher import Batcher

NUMBERS = Faithfulness._fields[:7]


def inverse_of(batcher: Batcher, loop: asyncio.AbstractEventLoop) -> Callable[[Tensor], Tensor]:
    """The engine of a batcher as a function for another thread than the loop's: [N, C', H, W] -> [N, C, H, W]."""

    def inverse(images: Tensor) -> Tensor:
        results = asyncio.run_coroutine_threadsafe(batcher.translate([*images]), loop)
        return torch.stack(results.result()).cpu()

    return inverse


def report(values: Tensor, output: Tensor, inverse: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Measures a translation.

    Args:
        values: The input, float32 [C, H, W] in [-1, 1].
        output: The translation, [C', H, W].
        inverse: The generator of the other direction.

    Returns:
        The numbers of docs/faithfulness.md (None for one that is not finite), and the map as a data URL.

    Raises:
        ValueError: The reconstruction has another shape.
    """
    found = measure(values[None].cpu(), output[None].cpu(), inverse)
    scores = {name: float(getattr(found, name)[0]) for name in NUMBERS}
    image = base64.b64encode(encode(heat_map(found.noise_error[0, 0]), "PNG")).decode()
    return {
        "scores": {name: score if math.isfinite(score) else None for name, score in scores.items()},
        "map": f"data:image/png;base64,{image}",
    }
