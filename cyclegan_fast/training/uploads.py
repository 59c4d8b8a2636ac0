"""Batches carried to the device and normalised there while the step before still runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def uploaded(batches: Iterator[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """Yields the batches; on CUDA what makes them runs on a stream of its own.

    The host is ahead of the card, so a batch is under way while the last step runs; only then does the current stream
    wait for it. No batch is taken before it is asked for.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    while True:
        with torch.cuda.stream(stream):
            batch = next(batches)  # endless
        here = torch.cuda.current_stream(device)
        here.wait_stream(stream)
        for side in ("A", "B"):
            batch[side].record_stream(here)  # its memory is not given to a later batch before this stream is done
        yield batch
