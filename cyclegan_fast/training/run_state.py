"""The state of a run beside its outputs: collected from all ranks into checkpoints, and continued from one, exactly."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cyclegan_fast.checkpoint import native, reference_format
from cyclegan_fast.checkpoint.retention import Scored
from cyclegan_fast.checkpoint.saving import checkpoint_contents
from cyclegan_fast.checkpoint.snapshot import Contents
from cyclegan_fast.config import PixelFormat, TrainConfig
from cyclegan_fast.data.loaders.base import Loader
from cyclegan_fast.documents import shown
from cyclegan_fast.errors import UserError
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.meter import Meter
from cyclegan_fast.training.position import Position
from cyclegan_fast.training.rank_state import LIST, from_bytes, own_state, to_bytes
from cyclegan_fast.training.ranks import Ranks
from cyclegan_fast.training.results import Losses
from cyclegan_fast.training.resume import checkpoint_to_continue, image_differences, refuse
from cyclegan_fast.training.schedule import LearningRate

log = logging.getLogger(__name__)


class RunState:
    """All that the rest of a run depends on, on every rank alike but for what each has for itself.

    Args:
        config: The settings of the run.
        ranks: Those that train together.
        step: Networks, optimizers and image pools.
        loader: The training images.
        pixel_formats: Those of the images of A and B.
        position: The steps that are done.
    """

    def __init__(
        self,
        config: TrainConfig,
        ranks: Ranks,
        step: TrainingStep,
        loader: Loader,
        pixel_formats: Mapping[str, PixelFormat],
        position: Position,
    ) -> None:
        self.config, self.ranks, self.step, self.loader = config, ranks, step, loader
        self.pixel_formats, self.position = pixel_formats, position
        self.schedule = LearningRate(config.optim, position.images_per_step)
        self.meter = Meter(step.updates_made())
        self.epoch_loss = torch.zeros((), device=step.device)  # sum of the generators' losses over this epoch
        self.place_in_data: dict[str, Any] = {}  # where the next step goes on

    def note_place(self) -> None:
        """Notes the place behind the batch that the loader has just handed out, for the next step."""
        self.place_in_data = self.loader.state_dict()

    def count(self, losses: Losses) -> None:
        """Counts a step that has been done."""
        self.meter.add(losses)
        self.epoch_loss += self.meter.generators_loss
        self.position.done += 1

    def end_epoch(self) -> None:
        """Lets the schedule see the loss of the epoch that has ended."""
        if self.config.optim.lr_policy == "plateau":
            self.schedule.observe(self.epoch_loss.item() / self.position.steps_per_epoch)
        self.epoch_loss.zero_()

    def contents(self, scored: Scored) -> Contents:
        """Returns what a checkpoint of this moment is made of; all ranks call it, and that of the first one is whole.

        Args:
            scored: The steps done, with their scores if there are any.
        """
        return checkpoint_contents(
            scored,
            networks=self.step.inference_networks,
            raw_networks=self.step.raw_networks,
            config=self.config,
            progress=self.position.progress() | {"images": list(self.loader.samples.counts)},
            pixel_formats=self.pixel_formats,
            state=self._state_dict(),
        )

    def load(self) -> None:
        """Continues the newest checkpoint, starts from other weights, or starts afresh: on all ranks alike.

        Raises:
            UserError: The checkpoint or the weights are not there, are damaged, or do not fit this run.
        """
        ranks, source = self.ranks, self.config.run.init_from
        newest = ranks.from_first(lambda: str(checkpoint_to_continue(self.config) or ""))
        if newest:
            ranks.together(lambda: self._resume(Path(newest)))
        elif source is not None:
            ranks.together(lambda: self._load_initial_weights(source))
        networks = [*self.step.networks.values(), *self.step.inference_networks.values()]
        ranks.broadcast([tensor for network in networks for tensor in network.state_dict().values()])

    def _resume(self, checkpoint: Path) -> None:
        if not checkpoint.is_dir():
            raise UserError(
                f"{checkpoint}, which the first process continues, is not there: --out must lie on storage that all "
                "hosts share"
            )
        stored = native.read_settings(checkpoint)
        differences = image_differences(stored, self.pixel_formats, self.loader.samples.counts)
        refuse(checkpoint, self.config, differences)
        native.load_weights(checkpoint, self.step.inference_networks)
        if self.step.raw_networks:
            native.load_weights(checkpoint, self.step.raw_networks, raw=True)
        state = native.load_state(checkpoint)
        try:
            self._load_state_dict(state)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {shown(str(error))}"
            raise UserError(
                f"{checkpoint}: its training state does not fit this run ({reason}): start another run from its "
                f"weights, --init-from {checkpoint} --out ANOTHER"
            ) from error
        log.info("continuing %s after step %d", checkpoint, stored.progress["step"])
        self.position.resume(stored.progress)

    def _load_initial_weights(self, source: Path) -> None:
        checkpoint = native.latest_checkpoint(source)
        if checkpoint is not None:
            native.load_weights(checkpoint, self.step.networks)
        else:
            reference_format.load_reference_folder(source, self.step.networks)
        self.step.restart()
        log.info("starting from the weights of %s", checkpoint or source)

    def _state_dict(self) -> dict[str, Any]:
        """Returns everything but the weights that the rest of the run depends on, as the first rank collects it."""
        step = self.step.state_dict()
        own = own_state(step, self.step.device)
        others = self.ranks.collected(to_bytes(own) if self.ranks.rank else b"")
        return {
            "step": step,
            "loader": self.place_in_data,
            "schedule": self.schedule.state_dict(),
            "epoch_loss": self.epoch_loss,
            "meter": self.meter.state_dict(),
            "rng": own["rng"],
            "cuda_rng": own["cuda_rng"],
            **({LIST: [from_bytes(data) for data in others]} if others else {}),
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.step.device
        if self.ranks.rank:
            others = state.get(LIST, [])[self.ranks.rank - 1 :]
            own = others[0] if others else own_state(self.step.state_dict(), device)  # that of a start
            state = {**state, **own, "step": state["step"] | own["pools"]}
        self.step.load_state_dict(state["step"])
        self.loader.load_state_dict(state["loader"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch_loss.copy_(state["epoch_loss"])
        if "meter" in state:  # which earlier versions did not store
            self.meter.load_state_dict(state["meter"], device)
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], device)
