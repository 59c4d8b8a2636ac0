"""What every engine checks of its input and its result, and how it reports a full memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from cyclegan_fast.engine.info import EngineInfo
from cyclegan_fast.engine.output_size import output_scale
from cyclegan_fast.errors import UserError
from cyclegan_fast.memory import memory_errors


def check_batch(info: EngineInfo, batch: Tensor) -> None:
    """Refuses a batch that the network cannot take.

    Raises:
        UserError: The shape does not fit.
    """
    channels = info.in_format.channels
    if batch.dim() != 4 or batch.shape[1] != channels or not info.limits.allow_size(*batch.shape[2:]):
        raise UserError(
            f"{info.name} takes batches [N, {channels}, H, W] with sides from {info.limits.min_size} in steps of "
            f"{info.limits.size_divisor} pixels, got {list(batch.shape)}"
        )
    info.limits.check((batch.shape[0], batch.shape[2], batch.shape[3]), info.name)


def check_result(info: EngineInfo, batch: Tensor, result: Tensor) -> Tensor:
    """Returns the result of a batch, and refuses one of which no pixel can be placed.

    Raises:
        UserError: Its shape is another than [N, out_channels, H', W'], or see `output_scale`.
    """
    channels = info.out_format.channels
    try:
        if result.dim() != 4 or result.shape[:2] != (len(batch), channels):
            raise ValueError(f"the result has the shape {list(result.shape)}, not [{len(batch)}, {channels}, H, W]")
        output_scale(batch, result)
    except ValueError as error:
        raise UserError(
            f"{info.name}: {error}; results must have the size of the images, or a whole multiple or fraction of it: "
            "give images whose sides suit the network, such as multiples of 32"
        ) from error
    return result


def check_finite(info: EngineInfo, result: Tensor) -> Tensor:
    """Returns a result, and refuses one that holds NaN or infinity.

    Raises:
        UserError: It does.
    """
    if not result.isfinite().all():
        raise UserError(f"{info.name} returned pixels that are not finite: use fp32, or check its weights")
    return result


@contextlib.contextmanager
def oom_as_user_error(info: EngineInfo, what: str) -> Iterator[None]:
    """Turns a failed allocation on the engine's device into a `UserError` about `what`.

    Raises:
        UserError: The memory does not suffice.
    """
    advice = "choose a smaller batch size, or cut the images into smaller tiles"
    with memory_errors(f"{info.name}: {what}", torch.device(info.device), lambda: advice):
        yield
