"""The training run around the step: what all ranks do together, from the first image to the last checkpoint."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_fast.config import TrainConfig, with_settings
from cyclegan_fast.data.loaders.prefetch import WaitCancelledError
from cyclegan_fast.data.transforms import check_geometry
from cyclegan_fast.device import resolve_device
from cyclegan_fast.errors import UserError
from cyclegan_fast.memory import memory_errors
from cyclegan_fast.models import MODELS
from cyclegan_fast.monitoring.run_report import REPORT_NAME
from cyclegan_fast.nn import build_networks, image_requirements
from cyclegan_fast.processes import restarted_by_torchrun
from cyclegan_fast.training.device_batches import DeviceBatches
from cyclegan_fast.training.evaluator import Evaluator
from cyclegan_fast.training.finite_check import FiniteCheck
from cyclegan_fast.training.graphed_step import GraphedStep
from cyclegan_fast.training.meeting import find_place
from cyclegan_fast.training.memory_advice import memory_advice
from cyclegan_fast.training.models import build_step
from cyclegan_fast.training.outputs import RunOutputs
from cyclegan_fast.training.position import Position
from cyclegan_fast.training.process import (
    EXIT_STOPPED,
    StopSignal,
    keep_freed_memory,
    peak_memory_gib,
)
from cyclegan_fast.training.rank_state import seed_of_rank
from cyclegan_fast.training.ranks import Ranks, reported_once
from cyclegan_fast.training.reduction import GradientReduction
from cyclegan_fast.training.results import Images, Losses
from cyclegan_fast.training.run_state import RunState
from cyclegan_fast.training.samples import SampleTranslator
from cyclegan_fast.training.settings import resolve_settings, uses_cuda_graph
from cyclegan_fast.training.start import RunImages, claim_folder, read_images

log = logging.getLogger(__name__)

OnLog = Callable[[dict[str, Any]], object]


class Trainer:
    """Trains one run to its end, or until a signal stops it.

    Args:
        config: All settings.
        on_log: Called with each log record, after what else is due at its step.

    Raises:
        UserError: Settings that contradict each other or the device, a folder that holds another run, or images that
            cannot be trained on; raised in this order, before any network is built.

    It locks the run's folder until `run` or `close` has ended.
    """

    def __init__(self, config: TrainConfig, *, on_log: OnLog | None = None) -> None:
        self.on_log = on_log
        place = find_place()
        with reported_once(place):
            self.device = resolve_device(place.device(config.run.device))
            config = resolve_settings(config, self.device)
            self.uses_graph = uses_cuda_graph(config, self.device)
            check_geometry(config.data, *image_requirements(config.model))
            with contextlib.ExitStack() as stack:
                self.ranks = stack.enter_context(Ranks(place, self.device, config.run.rank_timeout))
                self.ranks.check_alike(config)
                if any(self.ranks.highest(restarted_by_torchrun())):  # some of them: torchrun counts on each host
                    config = with_settings(config, {"resume": "auto"})
                config = self.ranks.in_turn(lambda: claim_folder(config, self.ranks, self.device, stack))
                with memory_errors("this training", self.device, lambda: memory_advice(config, self.device)):
                    images = self.ranks.in_turn(lambda: read_images(config, self.ranks, self.device))
                    self.ranks.together(lambda: self._build(config, images))
                self.held = stack.pop_all()  # from here on until the run has ended

    def _build(self, config: TrainConfig, images: RunImages) -> None:
        """Builds the networks and what trains them."""
        self.config, self.loader, ranks = config, images.loader, self.ranks
        self.position = Position(config, self.loader.epoch_size, ranks.world)
        torch.manual_seed(config.run.seed)
        self.networks = _networks(config, self.device)
        seed = seed_of_rank(config.run.seed, ranks.rank)
        self.step = build_step(self.networks, with_settings(config, {"seed": seed}))
        if ranks.world > 1:
            self.step.reduction = GradientReduction(ranks.connected)
            log.info(
                "%d processes train together, by updates of %d images of each domain",
                ranks.world,
                self.position.images_per_step,
            )
        if ranks.rank:
            torch.manual_seed(seed)  # for what is drawn while it trains
        if config.optim.ema:
            log.info("samples, scores and checkpoints are those of the averaged generators: --ema %g", config.optim.ema)
        self.state = RunState(config, ranks, self.step, self.loader, images.pixel_formats, self.position)
        self.meter, self.schedule = self.state.meter, self.state.schedule
        self.finite_check = FiniteCheck(self.step, self.meter, config)
        self.translator = SampleTranslator(self.step, images.held_out, channels_last=config.run.channels_last)
        self.evaluator = Evaluator(self.translator, images.scored, config)
        self.outputs: RunOutputs | None = None
        if ranks.is_first:
            self.outputs = RunOutputs(
                config, self.translator, self.evaluator, images.pixel_formats, wait_for_device=ranks.wait_for_device
            )
        self.saved_step: int | None = None
        self.save_due = False

    @property
    def done(self) -> int:
        """Steps trained so far."""
        return self.position.done

    def run(self, stop: StopSignal | None = None) -> int:
        """Trains, until the end or until `stop` is requested; returns the exit status of the command."""
        with self.held, stop or StopSignal() as stop, contextlib.ExitStack() as stack:
            stop.at_once = False
            stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            if self.device.type == "cpu":
                keep_freed_memory()
                stack.callback(keep_freed_memory, False)
            self.state.load()
            if self.position.is_at_end:
                longer = "a larger --max-steps, or none," if self.config.run.max_steps else "more --n-epochs-decay"
                done = f"{self.done} of {self.position.total_steps} steps are done"
                log.info("nothing is left to do: %s; %s would continue it", done, longer)
                return 0
            if self.outputs:
                self.outputs.open(self.done, self.position.total_steps, stack)
            stack.enter_context(contextlib.closing(self.loader))
            advice = functools.partial(memory_advice, self.config, self.device, self.loader.name)
            with memory_errors("a step of this training", self.device, advice):
                self._train(stop)
            self._save()
            self.ranks.together(stack.close)  # none ends before the last checkpoint is written
        if self.outputs:
            log.info("report: %s", self.config.run.out / REPORT_NAME)
        return 0 if self.position.is_at_end else EXIT_STOPPED

    def close(self) -> None:
        """Releases the folder and the loader of a trainer that is not to run."""
        self.loader.close()
        self.held.close()

    def _train(self, stop: StopSignal) -> None:
        """Steps until the end or a signal."""
        run_step = self._prepare_step()
        self.loader.prepare(lambda: stop.requested)
        self.state.note_place()
        batches = DeviceBatches(self.loader, self.device)
        if self.outputs:
            self.outputs.begin(self.done, lambda: stop.requested)
        self.meter.begin(batches.waited, self.done)
        while not self.position.is_at_end:
            self.step.set_learning_rate(self.schedule.at(self.position.epoch))
            batch = self._next_batch(batches, stop)
            if batch is None:
                break
            _, losses = run_step(batch["A"], batch["B"])
            self.state.count(losses)
            self.finite_check.note(batch)
            self._after_step()
        if self.meter.steps:
            self._stop_unless_finite()

    def _next_batch(self, batches: DeviceBatches, stop: StopSignal) -> dict[str, Any] | None:
        """Returns the next batch; None where the run is to stop, here or on another rank.

        A checkpoint that is due is saved before: all ranks are at the same step here.

        Raises:
            UserError: A rank has no batch, as an image is gone, or a process that reads them. What is trained is saved.
        """
        batch, failure = None, None
        if not stop.requested:
            try:
                batch = next(batches)
            except WaitCancelledError:  # a stop was requested while no batch was ready
                pass
            except UserError as error:
                failure = error
        stops, failed, saves = self.ranks.highest(batch is None, failure is not None, self.save_due)
        if saves or (failed and self.done):
            self._stop_unless_finite()
            self._save()
        if failed:
            self.ranks.raise_together(failure)
        if stops:
            return None
        self.state.note_place()
        return batch

    def _prepare_step(self) -> Callable[[Tensor, Tensor], tuple[Images, Losses]]:
        # Images of one size: cuDNN times its algorithms once, in the first steps.
        torch.backends.cudnn.benchmark = self.config.data.has_one_size
        if self.config.run.compile:
            for net in self.networks.values():
                net.compile()
        required = self.config.run.cuda_graphs == "on"
        return GraphedStep(self.step, required=required) if self.uses_graph else self.step

    def _after_step(self) -> None:
        """Logs, ends the epoch, writes what is due, and notes whether a checkpoint is."""
        last, epoch_ended = self.position.is_at_end, self.position.epoch_has_ended
        log_due = last or self.done % self.config.run.log_every == 0
        if log_due or self.finite_check.at_each_step:
            self._stop_unless_finite()
        record = self._log() if log_due else None
        if epoch_ended:
            self.state.end_epoch()
        if self.outputs:
            self.outputs.after_step(self.done, record, epoch_ended=epoch_ended, last=last)
            scored = self.evaluator.scored(self.done)
            self.save_due = not last and self.outputs.checkpoints.due(scored)  # `run` saves the last one
        if record and self.on_log:
            self.on_log(record)

    def _log(self) -> dict[str, Any] | None:
        """Returns the record of the steps since the last one, on the first rank, which writes it.

        The losses are the means over all ranks, the share of waiting and the memory those of the rank with the most.
        """
        epoch = self.position.last_epoch
        speed, memory = self.meter.steps_per_second(), peak_memory_gib(self.device)
        wait, memory_of_all = self.ranks.highest(self.meter.wait_percent(), memory or 0.0)
        losses = self.meter.means()
        self.meter.reset()
        if not self.outputs:
            return None
        return self.outputs.log(
            self.done,
            epoch=epoch,
            lr=self.schedule.at(epoch),
            steps_per_second=speed,
            data_wait_percent=wait,
            peak_memory_gib=None if memory is None else memory_of_all,
            losses=losses,
        )

    def _stop_unless_finite(self) -> None:
        """Ends the run at a step that is not finite: it has spoilt no weights, but nothing good comes after it."""
        self.ranks.wait_for_device()
        fault = self.finite_check.fault()  # which all ranks see alike, as they see the same losses and gradients
        if not fault:
            return
        contents = self.state.contents(self.evaluator.scored(self.done))
        advices = self.ranks.all_of(self.finite_check.advice().encode(), patient=True)
        failure = None
        if self.outputs:
            dump = self.outputs.checkpoints.dump(contents)
            advice = self.finite_check.best_advice([advice.decode() for advice in advices])
            where, weights = self.finite_check.where(self.done), self.finite_check.weights()
            failure = UserError(f"{where}: {fault}; {weights} are saved in {dump}; {advice}")
        self.ranks.raise_together(failure)

    def _save(self) -> None:
        """Saves a checkpoint of this moment; all ranks come here at the same step."""
        if self.saved_step == self.done:
            return
        self.save_due, self.saved_step = False, self.done
        contents = self.state.contents(self.evaluator.scored(self.done))
        if self.outputs:
            self.outputs.checkpoints.save(contents)


def _networks(config: TrainConfig, device: torch.device) -> nn.ModuleDict:
    """Builds the networks on the device, as the run settings want them."""
    networks = build_networks(config.model).to(device)
    for name in MODELS[config.model.model].generators:
        networks[name].checkpoints_activations = config.run.activation_checkpointing  # type: ignore[assignment]
    if config.run.channels_last:
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return networks
