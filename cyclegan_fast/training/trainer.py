"""The training run around the step: images in, checkpoints, events and sample grids out, exact resume."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from cyclegan_fast.checkpoint import native, reference_format
from cyclegan_fast.checkpoint.saving import checkpoint_contents
from cyclegan_fast.checkpoint.snapshot import Contents
from cyclegan_fast.config import TrainConfig, to_dict, with_settings
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.held_out import read_held_out
from cyclegan_fast.data.loaders.prefetch import WaitCancelledError
from cyclegan_fast.data.locations.domains import refuse_missing_locations
from cyclegan_fast.data.transforms import check_geometry
from cyclegan_fast.device import resolve_device
from cyclegan_fast.documents import shown
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically
from cyclegan_fast.memory import memory_errors
from cyclegan_fast.models import MODELS
from cyclegan_fast.monitoring.appended import Unessential
from cyclegan_fast.monitoring.events import EventLog, read_events
from cyclegan_fast.monitoring.run_report import REPORT_NAME, RunReport, channels_note
from cyclegan_fast.monitoring.samples import remove_samples_after, save_samples
from cyclegan_fast.monitoring.training_progress import TrainingProgress
from cyclegan_fast.nn import build_networks, image_requirements
from cyclegan_fast.processes import restarted_by_torchrun
from cyclegan_fast.training.base_step import Images, Losses
from cyclegan_fast.training.checkpoints import RunCheckpoints
from cyclegan_fast.training.device_batches import DeviceBatches
from cyclegan_fast.training.evaluator import Evaluator, read_scored_images
from cyclegan_fast.training.example_data import takes_example_data, with_example_data
from cyclegan_fast.training.finite_check import FiniteCheck
from cyclegan_fast.training.graphed_step import GraphedStep
from cyclegan_fast.training.meeting import find_place
from cyclegan_fast.training.memory_advice import memory_advice
from cyclegan_fast.training.meter import Meter
from cyclegan_fast.training.models import build_step
from cyclegan_fast.training.process import (
    EXIT_STOPPED,
    RunLock,
    StopSignal,
    keep_freed_memory,
    peak_memory_gib,
)
from cyclegan_fast.training.rank_state import (
    LIST,
    epoch_steps,
    from_bytes,
    own_state,
    seed_of_rank,
    steps_ahead,
    to_bytes,
)
from cyclegan_fast.training.ranks import Ranks, reported_once
from cyclegan_fast.training.reduction import GradientReduction
from cyclegan_fast.training.resume import (
    checkpoint_to_continue,
    image_differences,
    log_fresh_start,
    refuse,
    refuse_nothing_to_continue,
)
from cyclegan_fast.training.samples import SampleTranslator
from cyclegan_fast.training.schedule import LearningRate
from cyclegan_fast.training.settings import resolve_settings, suggest_smaller_sizes, uses_cuda_graph
from cyclegan_fast.training.watch import Watch

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
            requirements = image_requirements(config.model)
            check_geometry(config.data, *requirements)
            with contextlib.ExitStack() as stack:
                self.ranks = stack.enter_context(Ranks(place, self.device, config.run.rank_timeout))
                self.ranks.check_alike(config)
                if any(self.ranks.highest(restarted_by_torchrun())):  # some of them: torchrun counts on each host
                    config = with_settings(config, {"resume": "auto"})
                config = self.ranks.in_turn(lambda: self._claim(config, stack))
                with memory_errors("this training", self.device, lambda: memory_advice(config, self.device)):
                    self.ranks.in_turn(lambda: self._read_images(config, *requirements))
                    self.ranks.together(lambda: self._build(config))
                self.held = stack.pop_all()  # from here on until the run has ended

    def _claim(self, config: TrainConfig, stack: contextlib.ExitStack) -> TrainConfig:
        """Locks the run's folder; returns the settings with their images, which are rendered if there are none."""
        if self.ranks.is_first:
            _check_images(config)
            stack.enter_context(RunLock(config.run.out))
            if checkpoint_to_continue(config) is None:
                log_fresh_start(config)
            suggest_smaller_sizes(config, self.device)
        return with_example_data(config)

    def _read_images(self, config: TrainConfig, size_divisor: int, min_size: int) -> None:
        """Checks the training images, and reads those that are shown and scored."""
        self.config = config
        self.loader = build_train_loader(
            config,
            self.device,
            size_divisor=size_divisor,
            min_size=min_size,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )
        self.pixel_formats = {
            name: domain.pixel_format for name, domain in zip("AB", self.loader.samples.domains, strict=True)
        }
        if note := channels_note(self.pixel_formats):
            log.info("sample grids and the report show %s", note)
        domains = self.loader.samples.domains
        shown = self.ranks.is_first and config.run.sample_every
        self.held_out = read_held_out(config.data, domains, min_size=min_size) if shown else ([], [])
        self.scored_images = read_scored_images(config, domains, min_size=min_size) if self.ranks.is_first else ([], [])

    def _build(self, config: TrainConfig) -> None:
        """Builds the networks and what trains them."""
        ranks, images = self.ranks, config.optim.images_per_step * self.ranks.world
        self.steps_per_epoch = epoch_steps(self.loader.epoch_size, images, ranks.world)
        self.ahead = 0  # by how many steps the epochs are ahead of the steps, as other numbers of ranks trained before

        torch.manual_seed(config.run.seed)
        self.networks = _networks(config, self.device)
        seed = seed_of_rank(config.run.seed, ranks.rank)
        self.step = build_step(self.networks, with_settings(config, {"seed": seed}))
        if ranks.world > 1:
            self.step.reduction = GradientReduction(ranks.seconds)
            log.info("%d processes train together, by updates of %d images of each domain", ranks.world, images)
        if ranks.rank:
            torch.manual_seed(seed)  # for what is drawn while it trains
        if config.optim.ema:
            log.info("samples, scores and checkpoints are those of the averaged generators: --ema %g", config.optim.ema)
        self.translator = SampleTranslator(self.step, self.held_out, channels_last=config.run.channels_last)
        self.evaluator = Evaluator(self.translator, self.scored_images, config)
        self.schedule = LearningRate(config.optim, images)
        self.meter = Meter(self.step.updates_made())
        self.finite_check = FiniteCheck(self.step, self.meter, config)
        self.samples_guard = Unessential("sample grids are missing")
        self.done = 0  # steps trained so far
        self.saved_step: int | None = None
        self.save_due = False
        self.epoch_loss = torch.zeros((), device=self.device)  # sum of the generators' losses over this epoch

    @property
    def total_steps(self) -> int:
        """The steps of the whole run."""
        optim, run = self.config.optim, self.config.run
        epochs = optim.n_epochs + optim.n_epochs_decay
        return min(epochs * self.steps_per_epoch - self.ahead, run.max_steps or 2**62)

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, from 1."""
        return (self.done + self.ahead) // self.steps_per_epoch + 1

    def run(self, stop: StopSignal | None = None) -> int:
        """Trains, until the end or until `stop` is requested; returns the exit status of the command."""
        out = self.config.run.out
        with self.held, stop or StopSignal() as stop, contextlib.ExitStack() as stack:
            stop.at_once = False
            stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            if self.device.type == "cpu":
                keep_freed_memory()
                stack.callback(keep_freed_memory, False)
            self._load()
            if self.done >= self.total_steps:
                longer = "a larger --max-steps, or none," if self.config.run.max_steps else "more --n-epochs-decay"
                done = f"{self.done} of {self.total_steps} steps are done"
                log.info("nothing is left to do: %s; %s would continue it", done, longer)
                return 0
            if self.ranks.is_first:
                self._open_outputs(out, stack)
            stack.enter_context(contextlib.closing(self.loader))
            advice = functools.partial(memory_advice, self.config, self.device, self.loader.name)
            with memory_errors("a step of this training", self.device, advice):
                self._train(stop)
            self._save()
            self.ranks.together(stack.close)  # none ends before the last checkpoint is written
        if self.ranks.is_first:
            log.info("report: %s", out / REPORT_NAME)
        return EXIT_STOPPED if self.done < self.total_steps else 0

    def _open_outputs(self, out: Path, stack: contextlib.ExitStack) -> None:
        """Opens what the first rank writes for all."""
        write_atomically(out / "config.yaml", yaml.safe_dump(to_dict(self.config), sort_keys=False).encode())
        self.events = stack.enter_context(EventLog(out, resume_step=self.done or None))
        self.watch = Watch(self.config, self.events)
        remove_samples_after(out, self.done or -1)
        self.progress = stack.enter_context(TrainingProgress(self.total_steps, start_step=self.done))
        self.report = stack.enter_context(RunReport(out, self.progress, channels_note(self.pixel_formats)))
        self.checkpoints = stack.enter_context(RunCheckpoints(self.config.run, self.device))

    def close(self) -> None:
        """Releases the folder and the loader of a trainer that is not to run."""
        self.loader.close()
        self.held.close()

    def _train(self, stop: StopSignal) -> None:
        """Steps until the end or a signal."""
        run_step = self._prepare_step()
        self.loader.prepare(lambda: stop.requested)
        self.place_in_data = self.loader.state_dict()
        batches = DeviceBatches(self.loader, self.device)
        if self.ranks.is_first:
            if self.done == 0 and self.config.run.sample_every:
                self._save_samples()
            self.report.update()
            self.progress.begin()
            self.evaluator.begin(self.done, read_events(self.config.run.out), lambda: stop.requested)
        self.meter.begin(batches.waited, self.done)
        while self.done < self.total_steps:
            self.step.set_learning_rate(self.schedule.at(self.epoch))
            batch = self._next_batch(batches, stop)
            if batch is None:
                break
            _, losses = run_step(batch["A"], batch["B"])
            self.meter.add(losses)
            self.epoch_loss += self.meter.generators_loss
            self.done += 1
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
        self.place_in_data = self.loader.state_dict()
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
        """Logs, samples, ends the epoch and notes whether a checkpoint is due, each where it is due."""
        run, last = self.config.run, self.done == self.total_steps
        log_due = last or self.done % run.log_every == 0
        if log_due or self.finite_check.at_each_step:
            self._stop_unless_finite()
        record = self._log() if log_due else None
        if epoch_ended := (self.done + self.ahead) % self.steps_per_epoch == 0:
            self._end_epoch()
        if self.ranks.is_first:
            self._write_outputs(record, epoch_ended=epoch_ended, last=last)

    def _write_outputs(self, record: dict[str, Any] | None, *, epoch_ended: bool, last: bool) -> None:
        """Writes samples, scores and the report where they are due, and shows the progress."""
        run = self.config.run
        sample_due = _divides(run.sample_every, self.done) or (last and run.sample_every > 0)
        scores_due = self.evaluator.is_due(self.done, epoch_ended=epoch_ended, last=last)
        if sample_due or scores_due:
            self.ranks.wait_for_device()
        if sample_due:
            self._save_samples()
        if scores_due:
            self.progress.info |= self.evaluator.evaluate(self.done, self.events)
        self.save_due = not last and self.checkpoints.due(self.evaluator.scored(self.done))  # `run` saves the last one
        info = record and {k: v for k, v in record.items() if k not in ("step", "time", "losses")} | record["losses"]
        self.progress.update(self.done, info)
        if (record or sample_due or scores_due) and not last:  # the last report follows
            self.report.update()
        if record and self.on_log:
            self.on_log(record)

    def _log(self) -> dict[str, Any] | None:
        """Writes the record of the steps since the last one, and returns it: step, time, losses by name, speed ...

        The losses are the means over all ranks, the share of waiting and the memory those of the rank with the most.
        """
        epoch = (self.done + self.ahead - 1) // self.steps_per_epoch + 1  # of the step that has just been done
        speed, memory = self.meter.steps_per_second(), peak_memory_gib(self.device)
        wait, memory_of_all = self.ranks.highest(self.meter.wait_percent(), memory or 0.0)
        losses = self.meter.means()
        self.meter.reset()
        if not self.ranks.is_first:
            return None
        record = self.events.write(
            self.done,
            epoch=epoch,
            lr=self.schedule.at(epoch),
            steps_per_second=speed,
            data_wait_percent=wait,
            peak_memory_gib=None if memory is None else memory_of_all,
            losses=losses,
        )
        self.watch.after_log(self.done, record["losses"])
        return record

    def _end_epoch(self) -> None:
        if self.config.optim.lr_policy == "plateau":
            self.schedule.observe(self.epoch_loss.item() / self.steps_per_epoch)
        self.epoch_loss.zero_()

    def _stop_unless_finite(self) -> None:
        """Ends the run at a step that is not finite: it has changed no weights, but nothing good comes after it."""
        self.ranks.wait_for_device()
        fault = self.finite_check.fault()  # which all ranks see alike, as they see the same losses and gradients
        if not fault:
            return
        contents = self._contents()
        advices = self.ranks.all_of(self.finite_check.advice().encode(), patient=True)
        failure = None
        if self.ranks.is_first:
            dump = self.checkpoints.dump(contents)
            advice = self.finite_check.best_advice([advice.decode() for advice in advices])
            where = self.finite_check.where(self.done)
            failure = UserError(f"{where}: {fault}; the weights of before it are saved in {dump}; {advice}")
        self.ranks.raise_together(failure)

    def _save_samples(self) -> None:
        """Writes a grid of the held-out images as the generators translate them now."""
        if rows := self.translator.rows():
            with self.samples_guard:
                grid = save_samples(self.config.run.out, self.done, rows, self.translator.columns)
                self.events.image(self.done, "samples", grid)
            self.watch.after_samples(self.done, rows)

    def _save(self) -> None:
        """Saves a checkpoint of this moment; all ranks come here at the same step."""
        if self.saved_step == self.done:
            return
        self.save_due, self.saved_step = False, self.done
        contents = self._contents()
        if self.ranks.is_first:
            self.checkpoints.save(contents)

    def _contents(self) -> Contents:
        """What a checkpoint of this moment is made of; that of the first rank alone is whole."""
        progress = {"step": self.done, "epoch": self.epoch, "images": list(self.loader.samples.counts)}
        if self.ranks.world > 1 or self.ahead:
            progress |= {"ranks": self.ranks.world, "steps_ahead": self.ahead}
        return checkpoint_contents(
            self.evaluator.scored(self.done),
            networks=self.step.inference_networks,
            raw_networks=self.step.raw_networks,
            config=self.config,
            progress=progress,
            pixel_formats=self.pixel_formats,
            state=self._state_dict(),
        )

    def _load(self) -> None:
        """Continues the newest checkpoint, starts from other weights, or starts afresh: on all ranks alike."""
        run, ranks = self.config.run, self.ranks
        newest = ranks.from_first(lambda: str(checkpoint_to_continue(self.config) or ""))
        if newest:
            ranks.together(lambda: self._resume(Path(newest)))
        elif run.init_from is not None:
            ranks.together(functools.partial(self._load_initial_weights, run.init_from))
        networks = [*self.networks.values(), *self.step.inference_networks.values()]
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
        self.done = stored.progress["step"]
        log.info("continuing %s after step %d", checkpoint, self.done)
        self._continue_epochs(stored.progress)

    def _continue_epochs(self, progress: dict[str, Any]) -> None:
        """Keeps the place in the epochs where another number of ranks trained before."""
        before, self.ahead = progress.get("ranks") or 1, progress.get("steps_ahead") or 0
        if before == self.ranks.world:
            return
        images = self.config.optim.images_per_step
        steps_before = epoch_steps(self.loader.epoch_size, before * images, before)
        self.ahead = steps_ahead(self.done, self.ahead, steps_before, self.steps_per_epoch)
        world = self.ranks.world
        log.info(
            "processes: %d until here, %d from here on: %d images of each domain make an update instead of %d; epoch "
            "%d goes on where it was; %d pairs of image pools go on, %d begin empty", before, world, world * images,
            before * images, self.epoch, min(before, world), max(0, world - before)
        )  # fmt: skip

    def _load_initial_weights(self, source: Path) -> None:
        checkpoint = native.latest_checkpoint(source)
        if checkpoint is not None:
            native.load_weights(checkpoint, self.networks)
        else:
            reference_format.load_reference_folder(source, self.networks)
        if self.step.averaged is not None:
            self.step.averaged.restart()
        log.info("starting from the weights of %s", checkpoint or source)

    def _state_dict(self) -> dict[str, Any]:
        """Returns everything but the weights that the rest of the run depends on, as the first rank collects it."""
        step = self.step.state_dict()
        own = own_state(step, self.device)
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
        if self.ranks.rank:
            others = state.get(LIST, [])[self.ranks.rank - 1 :]
            own = others[0] if others else own_state(self.step.state_dict(), self.device)  # that of a start
            state = {**state, **own, "step": state["step"] | own["pools"]}
        self.step.load_state_dict(state["step"])
        self.loader.load_state_dict(state["loader"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch_loss.copy_(state["epoch_loss"])
        if "meter" in state:  # which earlier versions did not store
            self.meter.load_state_dict(state["meter"], self.device)
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)


def _check_images(config: TrainConfig) -> None:
    """Checks what can be seen of a run's images without looking at them.

    Raises:
        UserError: They are not where the settings say; or none are named, and scenes cannot take their place.
    """
    if takes_example_data(config):
        refuse_nothing_to_continue(config)
    else:
        refuse_missing_locations(config.data)


def _networks(config: TrainConfig, device: torch.device) -> nn.ModuleDict:
    """Builds the networks on the device, as the run settings want them."""
    networks = build_networks(config.model).to(device)
    for name in MODELS[config.model.model].generators:
        networks[name].checkpoints_activations = config.run.activation_checkpointing  # type: ignore[assignment]
    if config.run.channels_last:
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return networks


def _divides(interval: int, step: int) -> bool:
    """Returns whether something that is due every `interval` steps is due after `step`; never with 0."""
    return interval > 0 and step % interval == 0
