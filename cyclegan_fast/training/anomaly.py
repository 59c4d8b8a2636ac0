"""What --detect-anomaly does when a step is not finite: it replays the step in float32 and names the first bad tensor.

The update of such a step is skipped on the device, so that the weights are still those from before it; but pix2pix's
discriminator may be updated already, and is then what the generator learned from in the replay as well. A copy of the
networks goes over the step's images again, one pair at a time, eagerly; every result of a layer and every gradient of
a weight is looked at, in the order in which they are computed, and the first one that is not finite is the answer.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.memory import is_out_of_memory
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.models import build_step

log = logging.getLogger(__name__)

_COMPUTING = ("forward", "convolve", "fork")  # the methods by which layers are asked for their result


class _NotFiniteError(Exception):
    """Ends a replay at the first tensor that is not finite; the message names it."""


def explain_anomaly(networks: nn.ModuleDict, config: TrainConfig, batch: Mapping[str, Any]) -> str:
    """Replays a step that was not finite, and returns what was found, as part of a sentence.

    Args:
        networks: Those of the model, as the step has left them; they are not changed.
        config: The settings of the step.
        batch: Its images: "A" and "B", [N, C, H, W] in [-1, 1], and where they came from, "paths_A" and "paths_B".
    """
    networks = copy.deepcopy(networks).float()
    if found := _bad_weight(networks):
        return f"{found} is not finite, already before this step"
    try:
        return _replay_all(networks, config, batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):  # beside what the training holds
            raise
        log.info("the GPU's memory is too small to replay the step: it is replayed on the CPU")
        return _replay_all(networks.cpu(), config, batch)


def _replay_all(networks: nn.ModuleDict, config: TrainConfig, batch: Mapping[str, Any]) -> str:
    run = dataclasses.replace(config.run, amp="off", compile=False, side_by_side="off", detect_anomaly=False)
    optim = dataclasses.replace(config.optim, lr=0.0, grad_accumulation=1)
    objective = dataclasses.replace(config.objective, pool_size=0)
    replayed = dataclasses.replace(config, run=run, optim=optim, objective=objective)
    step = build_step(_checked(networks), replayed)
    found: dict[str, list[str]] = {}  # what was found -> in which images
    for real_A, real_B, name in _pairs(batch, step.device, whole=config.model.norm == "batch"):
        if reason := _replay(step, real_A, real_B):
            found.setdefault(reason, []).append(name)
    if not found:
        return nothing_found(config)
    reason, names = next(iter(found.items()))
    others = f" and {len(names) - 3} more" * (len(names) > 3)
    return f"replayed in float32, {reason}, in the step's images {', '.join(names[:3])}{others}"


def nothing_found(config: TrainConfig) -> str:
    """Returns what `explain_anomaly` does where the replay was finite."""
    if config.run.amp == "off":
        return (
            "the step's images with the newest translations are finite when it is replayed, so an earlier translation "
            "in the image pool, or a random number, made the difference"
        )
    better = "--amp off, or bf16," if config.run.amp == "fp16" else "--amp off"
    return f"replayed in float32 it is finite, so the precision of --amp {config.run.amp} is at fault: use {better}"


def _pairs(batch: Mapping[str, Any], device: torch.device, *, whole: bool) -> Iterator[tuple[Tensor, Tensor, str]]:
    """An image of A with one of B, and where both came from; or all at once, where a norm couples them."""
    images = [batch[side].detach().to(device, torch.float32) for side in "AB"]
    paths = [f"{a} and {b}" for a, b in zip(batch["paths_A"], batch["paths_B"], strict=True)]
    if whole:
        yield images[0], images[1], ", ".join(paths)
    else:
        yield from zip(images[0].split(1), images[1].split(1), paths, strict=True)


def _replay(step: TrainingStep, real_A: Tensor, real_B: Tensor) -> str | None:
    """Returns what was not finite first; None if nothing was."""
    for side, image in (("A", real_A), ("B", real_B)):
        if not image.isfinite().all():
            return f"the image of {side} itself holds {_bad_values(image)}"
    try:
        _, losses = step(real_A, real_B)
    except _NotFiniteError as error:
        return str(error)
    bad = [name for name, loss in losses.items() if not loss.isfinite()]
    return f"the loss {bad[0]} is not finite, though all that the networks computed is" if bad else None


def _checked(networks: nn.ModuleDict) -> nn.ModuleDict:
    """Makes the networks raise `_NotFiniteError` at the first result or gradient that is not finite."""
    for name, module in networks.named_modules():
        for method in _COMPUTING if name else ():
            if hasattr(module, method):
                setattr(module, method, _checked_method(getattr(module, method), name, module))
    for name, weight in networks.named_parameters():
        if weight.requires_grad:
            weight.register_hook(lambda gradient, name=name: _check_gradient(gradient, name))
    return networks


def _checked_method(compute: Callable[..., Any], name: str, module: nn.Module) -> Callable[..., Any]:
    def checked(*inputs: Any, **options: Any) -> Any:
        result = compute(*inputs, **options)
        for tensor in _tensors(result):
            if not tensor.isfinite().all():
                raise _NotFiniteError(
                    f"the first tensor that is not finite is the output of {name} ({type(module).__name__}), "
                    f"{list(tensor.shape)}, which holds {_bad_values(tensor)}, of {_described(_tensors(inputs))}"
                )
        return result

    return checked


def _check_gradient(gradient: Tensor, name: str) -> None:
    if not gradient.isfinite().all():
        raise _NotFiniteError(
            "all results are finite, and the first tensor that is not is the gradient of "
            f"{name}, {list(gradient.shape)}, which holds {_bad_values(gradient)}"
        )


def _bad_weight(networks: nn.ModuleDict) -> str | None:
    """The bad weight of a network that is nearest to its output: a gradient spreads from there to its input."""
    bad = [(name, weight) for name, weight in networks.named_parameters() if not weight.isfinite().all()]
    if not bad:
        return None
    network = bad[0][0].split(".")[0]
    name, weight = [found for found in bad if found[0].startswith(f"{network}.")][-1]
    return f"the weight {name}, {list(weight.shape)}, which holds {_bad_values(weight)},"


def _bad_values(tensor: Tensor) -> str:
    """How many values are NaN and how many infinite."""
    nan, inf = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    counts = [f"{count:,} {what}" for count, what in ((nan, "NaN"), (inf, "infinite")) if count]
    return f"{' and '.join(counts)} of {tensor.numel():,} values"


def _described(inputs: Sequence[Tensor]) -> str:
    """The range of the values that a layer was given."""
    low, high = (f(t.aminmax()[i].item() for t in inputs) for i, f in ((0, min), (1, max)))
    return f"inputs from {low:.3g} to {high:.3g}"


def _tensors(values: Any) -> list[Tensor]:
    """The tensors in arguments or results, which may be lists."""
    if isinstance(values, Tensor):
        return [values.detach()] if values.is_floating_point() and values.numel() else []
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
