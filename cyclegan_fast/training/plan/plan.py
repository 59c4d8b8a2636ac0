"""The plan of a training: what the images are, which settings suit them and why, and what a step takes here."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cyclegan_fast import ops
from cyclegan_fast.config import ALONE, DataConfig, RunConfig, TrainConfig, to_dict, with_settings
from cyclegan_fast.data.audit.groups import SIDE_BY_SIDE, list_groups
from cyclegan_fast.data.catalog.pixel_formats import DEPTH_NAMES
from cyclegan_fast.data.catalog.survey import DomainSurvey, survey
from cyclegan_fast.data.loaders import dali_pipeline
from cyclegan_fast.device import free_memory, resolve_device
from cyclegan_fast.errors import UserError
from cyclegan_fast.memory import TooLittleMemoryError
from cyclegan_fast.monitoring.progress import Progress, duration
from cyclegan_fast.training.plan.rules import Facts, Machine, Proposal, propose
from cyclegan_fast.training.plan.trial import Trial, run_trial

TRAIN = "python -m cyclegan_fast.train"
_FIRST = ("data", "data_A", "data_B", "paired", "out")  # of the flags in the command


@dataclass(frozen=True)
class Plan:
    """Settings for a set, with the reasons."""

    facts: Facts
    config: TrainConfig
    proposals: list[Proposal]

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        optim = self.config.optim
        samples = self.config.data.epoch_size or self.facts.count
        return -(-samples // optim.images_per_step) * (optim.n_epochs + optim.n_epochs_decay)

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that are not the defaults of training, by name."""
        defaults, settings = _settings(TrainConfig()), _settings(self.config)
        return {name: value for name, value in settings.items() if value != defaults[name]}

    @property
    def command(self) -> str:
        """The command line that trains with these settings."""
        names = sorted(self.changed, key=lambda name: name not in _FIRST)  # sorting keeps the order of equals
        return " ".join([TRAIN, *(_flag(name, self.changed[name]) for name in names)])


def make_plan(data: DataConfig, out: Path, device: str, *, seconds: float, progress: Progress | None = None) -> Plan:
    """Reads images for up to `seconds` and proposes settings.

    Args:
        data: Where the images are, and with `workers` the processes that read them.
        out: The folder of the run.
        device: Where it will be trained.
        seconds: The time for reading; what is known already, from a check or an earlier plan, takes none.
        progress: Takes how many images of a domain have been read.

    Raises:
        UserError: Folders missing or empty, or images that cannot be trained on together.
    """
    found = list_groups(data)
    groups = {group.name: group for group in found.groups}
    wrong = [finding.reason for finding in found.findings if finding.name in ("train", "trainA", "trainB")]
    if wrong:
        raise UserError(wrong[0])
    side_by_side = SIDE_BY_SIDE[0] in groups
    names = [SIDE_BY_SIDE[0]] if side_by_side else ["trainA", "trainB"]
    surveys = [
        survey(
            groups[name].used,
            groups[name].catalog_folder,
            seconds=seconds / len(names),
            workers=data.workers,
            side_by_side=side_by_side,
            progress=progress,
        )
        for name in names
    ]
    facts = Facts(surveys[0], surveys[-1], describe_machine(device))
    config, proposals = propose(facts, TrainConfig(data=data, run=RunConfig(out=out, device=device)))
    return Plan(facts, config, proposals)


def try_plan(plan: Plan) -> tuple[Plan, Trial]:
    """Measures a plan; where the device has too little memory, it plans to recompute activations rather than keep them.

    Raises:
        UserError: As `run_trial` does, if even that needs too much memory.
    """
    try:
        return plan, run_trial(plan.config)
    except TooLittleMemoryError:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    saving = Proposal({"activation_checkpointing": True}, "without it a step needs more memory than there is")
    smaller = Plan(plan.facts, with_settings(plan.config, saving.settings), [*plan.proposals, saving])
    return smaller, run_trial(smaller.config)


def describe_machine(name: str) -> Machine:
    """Returns what the rules need to know of a device.

    Raises:
        UserError: There is no such device.
    """
    device = resolve_device(name)
    return Machine(
        type=device.type,
        free_memory=free_memory(device),
        free_host_memory=0 if device.type == "cpu" else free_memory(torch.device("cpu")),
        slow_bfloat16=ops.bfloat16_is_slow(device),
        old_cuda=device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8,
        has_dali=dali_pipeline.why_not_installed() is None,
    )


def as_text(plan: Plan, trial: Trial | None) -> Iterator[str]:
    """Yields the plan line by line, without the command."""
    for name, domain in zip("AB", (plan.facts.A, plan.facts.B), strict=True):
        yield f"{name}: {describe(domain)}"
    yield ""
    rows = [
        (" ".join(_flag(*item) for item in proposal.settings.items()), proposal.reason) for proposal in plan.proposals
    ]
    width = max(len(flags) for flags, _ in rows)
    for flags, reason in rows:
        yield f"  {flags:<{width}}  {reason}"
    yield ""
    yield from describe_cost(plan, trial)


def describe(domain: DomainSurvey) -> str:
    """Returns what the images of a domain are, in one line."""
    kinds = {1: "grey", 3: "RGB"}
    channels = " and ".join(kinds.get(count, f"{count} channels") for count in sorted(domain.channels))
    (w, h), (W, H) = _extremes(domain.sizes)
    size = f"all {w}x{h}" if (w, h) == (W, H) else f"{w}x{h} to {W}x{H}"
    values = f" from {domain.low:g} to {domain.high:g}" if domain.depth == "float" else ""
    read = len(domain.sizes) + domain.unreadable
    parts = [f"{domain.count:,} images", size, channels, DEPTH_NAMES[domain.depth] + values]
    if read < domain.count:
        parts.append(f"judged by {read:,} of them")
    if domain.unreadable:
        parts.append(f"{domain.unreadable:,} cannot be read")
    return ", ".join(parts)


def describe_cost(plan: Plan, trial: Trial | None) -> Iterator[str]:
    """Yields what the training takes: measured, or nothing but the number of steps."""
    epochs = plan.config.optim.n_epochs + plan.config.optim.n_epochs_decay
    steps = f"{plan.steps:,} steps in {epochs} epochs"
    if trial is None:
        yield f"{steps}; time and memory were not measured (--no-trial)"
        return
    total = duration(plan.steps * trial.seconds_per_step)
    yield f"{steps}, {trial.seconds_per_step:.3g} s each: {total}, from {trial.steps} real steps of this plan here"
    if trial.peak_memory_gib is not None:
        where = "GPU memory" if plan.facts.machine.type == "cuda" else "memory of the process"
        yield f"peak {where} in these steps: {trial.peak_memory_gib:.1f} GiB, without images that a loader caches"


def as_yaml(plan: Plan) -> str:
    """Returns the plan as a file for ``train --config``, with the reasons as comments."""
    reasons = {name: proposal.reason for proposal in plan.proposals for name in proposal.settings}
    lines = []
    for group, values in to_dict(plan.config).items():
        named = {name: value for name, value in values.items() if name in plan.changed}
        lines += [f"{group}:"] * bool(named)
        reason = ""
        for name, value in named.items():
            if reasons.get(name, reason) != reason:
                reason = reasons[name]
                lines.append(f"  # {reason}")
            lines.append(f"  {name}: {json.dumps(value)}")  # JSON is YAML, too
    return "\n".join(lines) + "\n"


def as_json(plan: Plan, trial: Trial | None) -> str:
    """Returns the plan as JSON for programs."""
    return json.dumps(
        {
            "images": {
                name: {
                    "count": domain.count,
                    "read": len(domain.sizes) + domain.unreadable,
                    "unreadable": domain.unreadable,
                    "smallest": list(_extremes(domain.sizes)[0]),
                    "largest": list(_extremes(domain.sizes)[1]),
                    "channels": sorted(domain.channels),
                    "depth": domain.depth,
                }
                for name, domain in (("A", plan.facts.A), ("B", plan.facts.B))
            },
            "proposals": [dataclasses.asdict(proposal) for proposal in plan.proposals],
            "settings": to_dict(plan.config),
            "steps": plan.steps,
            "trial": None if trial is None else dataclasses.asdict(trial),
            "command": plan.command,
        },
        indent=1,
    )


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Returns all settings by name, without their groups."""
    groups = (getattr(config, group.name) for group in dataclasses.fields(config))
    return {name: value for group in groups for name, value in vars(group).items()}


def _extremes(sizes: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest and the largest size by area, of sizes [N, 2]."""
    order = np.argsort(sizes[:, 0] * sizes[:, 1], kind="stable")
    first, last = (sizes[i].tolist() for i in (order[0], order[-1]))
    return (first[0], first[1]), (last[0], last[1])


def _flag(name: str, value: Any) -> str:
    """Returns a setting as words of the command line."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    if isinstance(value, tuple):
        return " ".join([flag, *map(shlex.quote, value)])
    if isinstance(value, float):
        return f"{flag}={value!r}".removesuffix(".0")  # with a sign of equality a minus begins no flag
    return flag if value == ALONE.get(name) else f"{flag} {shlex.quote(str(value))}"
