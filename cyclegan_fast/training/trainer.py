"""The training run around the step: images in, checkpoints, events and sample grids out, exact resume."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import yaml
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.checkpoint import native, reference_format
from cyclegan_fast.config import TrainConfig, check_ranges, to_dict
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.device import resolve_device
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import storage_errors, write_atomically
from cyclegan_fast.monitoring.console import Console
from cyclegan_fast.monitoring.events import EventLog, read_events
from cyclegan_fast.monitoring.grids import sample_grid, save_grid, shown_channels
from cyclegan_fast.monitoring.machine import machine_facts
from cyclegan_fast.monitoring.report import ImageBlock, write_report
from cyclegan_fast.nn import build_networks, image_requirements
from cyclegan_fast.training.concurrency import why_not_side_by_side
from cyclegan_fast.training.device_batches import DeviceBatches
from cyclegan_fast.training.graphed_step import GraphedStep
from cyclegan_fast.training.process import RunLock, StopSignal, peak_memory_gib
from cyclegan_fast.training.schedule import LearningRate
from cyclegan_fast.training.step import CycleGANStep, Images, Losses, has_one_size

EXIT_STOPPED = 3  # a signal ended the run early, after a checkpoint
ROWS_PER_GRID = 4
SMALLEST_SCALE = 1.0  # of the fp16 losses: it starts at 65,536 and is halved by every step that overflows
STAGES = (  # caption, image of the row that starts in A, of the row that starts in B
    ("real", "real_A", "real_B"),
    ("translated", "fake_B", "fake_A"),
    ("and back", "rec_A", "rec_B"),
    ("identity", "idt_B", "idt_A"),
)
USAGE = """import cyclegan_fast

engine = cyclegan_fast.load_engine("{out}", direction="{direction}")
image = cyclegan_fast.infer(engine, "a.jpg")"""

# What a resumed run may change; every other setting shapes what is continued.
FREE_ON_RESUME = {
    "optim": {"n_epochs", "n_epochs_decay"},
    "data": {"data", "data_A", "data_B", "loader", "cache_share", "workers"},
    "run": {f.name for f in dataclasses.fields(TrainConfig().run)} - {"seed", "amp"},
}


class Trainer:
    """Trains one run to its end, or until a signal stops it.

    Args:
        config: All settings.
        say: Where plain messages go.

    Raises:
        UserError: Settings that contradict each other or the machine, or images that cannot be trained on; raised
            before any network is built.
    """

    def __init__(self, config: TrainConfig, say: Callable[[str], None] = print) -> None:
        config = _without_idle_identity(config, say)
        self.config, self.say = config, say
        self.device = resolve_device(config.run.device)
        self.uses_graph = _check_settings(config, self.device, say)
        size_divisor, min_size = image_requirements(config.model)
        self.loader = build_train_loader(config, self.device, size_divisor=size_divisor, min_size=min_size)
        self.pixel_formats = {
            name: domain.pixel_format for name, domain in zip("AB", self.loader.samples.domains, strict=True)
        }
        self.shown = "; ".join(
            f"of the {pixel_format.channels} channels of {name} {rule}"
            for name, pixel_format in self.pixel_formats.items()
            if (rule := shown_channels(pixel_format.channels))
        )
        if self.shown:
            say(f"sample grids and the report show {self.shown}")
        self.steps_per_epoch = math.ceil(self.loader.epoch_size / config.optim.images_per_step)
        epochs = config.optim.n_epochs + config.optim.n_epochs_decay
        self.total_steps = min(epochs * self.steps_per_epoch, config.run.max_steps or 2**62)

        torch.manual_seed(config.run.seed)
        self.networks = build_networks(config.model).to(self.device)
        for generator in (self.networks["G_A"], self.networks["G_B"]):
            generator.checkpoints_activations = config.run.activation_checkpointing  # type: ignore[assignment]
        if config.run.channels_last:
            self.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step = CycleGANStep(self.networks, config)
        self.schedule = LearningRate(config.optim)
        self.done = 0  # steps trained so far
        self.epoch_loss = torch.zeros((), device=self.device)  # sum of the generators' losses over this epoch

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, from 1."""
        return self.done // self.steps_per_epoch + 1

    def run(self) -> int:
        """Trains; returns the command's exit status."""
        out = self.config.run.out
        with storage_errors(f"cannot use --out {out}"):
            out.mkdir(parents=True, exist_ok=True)
        with RunLock(out), StopSignal() as stop, contextlib.ExitStack() as stack:
            self._start_from()
            if self.done >= self.total_steps:
                self.say(f"nothing is left to do: {self.done} of {self.total_steps} steps are done")
                return 0
            write_atomically(out / "config.yaml", yaml.safe_dump(to_dict(self.config), sort_keys=False).encode())
            self.events = stack.enter_context(EventLog(out, resume_step=self.done or None))
            self.console = stack.enter_context(Console(self.total_steps, start_step=self.done))
            stack.enter_context(contextlib.closing(self.loader))
            images = self._train(stop)
            self._checkpoint()
        self._report(images)
        return EXIT_STOPPED if self.done < self.total_steps else 0

    def _train(self, stop: StopSignal) -> Images:
        """Steps until the end or a signal; returns the images of the last step."""
        images: Images = {}
        run_step = self._prepare_step()
        self.loader.prepare(lambda: stop.requested)
        batches = DeviceBatches(self.loader, self.device)
        meter = Meter(batches.waited)
        while self.done < self.total_steps and not stop.requested:
            self.step.set_learning_rate(self.schedule.at(self.epoch))
            batch = next(batches)
            images, losses = run_step(batch["A"], batch["B"])
            meter.add(losses)
            self.epoch_loss += meter.generators_loss
            self.done += 1
            self._after_step(images, meter)
        if meter.steps:
            self._stop_unless_finite(meter)
        return images

    def _prepare_step(self) -> Callable[[Tensor, Tensor], tuple[Images, Losses]]:
        # Images of one size: cuDNN times its algorithms once, in the first steps.
        torch.backends.cudnn.benchmark = has_one_size(self.config.data)
        if self.config.run.compile:
            for net in self.networks.values():
                net.compile()
        if not self.uses_graph:
            return self.step
        auto = self.config.run.cuda_graphs == "auto"
        return GraphedStep(self.step, (lambda why: self.say(f"cuda graphs: off, {why}")) if auto else None)

    def _after_step(self, images: Images, meter: Meter) -> None:
        run = self.config.run
        last = self.done == self.total_steps
        keep = run.checkpoint_every and self.done % run.checkpoint_every == 0 and not last
        if last or keep or self.done % run.log_every == 0 or self.device.type == "cpu":
            self._stop_unless_finite(meter)
        facts = self._log(meter) if last or self.done % run.log_every == 0 else None
        if run.sample_every and (last or self.done % run.sample_every == 0):
            self._save_sample(images)
        if self.done % self.steps_per_epoch == 0:
            if self.config.optim.lr_policy == "plateau":
                self.schedule.observe(self.epoch_loss.item() / self.steps_per_epoch)
            self.epoch_loss.zero_()
        if keep:
            self._checkpoint()
        self.console.update(self.done, facts)

    def _log(self, meter: Meter) -> dict[str, Any]:
        """Writes a record of the steps since the last one; returns what the progress line shows of it."""
        epoch = (self.done - 1) // self.steps_per_epoch + 1  # of the step that has just been done
        losses = meter.means()
        record: dict[str, Any] = {
            "epoch": epoch,
            "lr": self.schedule.at(epoch),
            "steps_per_second": meter.steps_per_second(),
            "data_wait_share": meter.wait_share(),
            "peak_memory_gib": peak_memory_gib(self.device),
        }
        self.events.write(self.done, losses=losses, **record)
        meter.reset()
        return record | losses

    def _stop_unless_finite(self, meter: Meter) -> None:
        """A loss that is not finite moved no weights; nothing good comes after it, so the run ends here."""
        if self.config.run.amp == "fp16":  # it overflows now and then, and its scaler halves the scale and steps aside
            if self.step.scaler.get_scale() < SMALLEST_SCALE:
                raise UserError(f"step {self.done}: fp16 overflows without end; use --amp bf16, or lower --lr")
            return
        bad = meter.not_finite()
        if not bad:
            return
        dump = self._save(self.config.run.out / "failed")
        first = self.done if self.device.type == "cpu" else self.done - meter.steps + 1  # a GPU is asked now and then
        where = f"step {self.done}" if first == self.done else f"steps {first} to {self.done}"
        raise UserError(
            f"{where}: the loss {' and '.join(bad)} is not finite; such a loss moves no weights, and they are kept in "
            f"{dump}; look at the images of that step, or lower --lr"
        )

    def _save_sample(self, images: Images) -> None:
        columns, rows = there_and_back(images)
        grid = sample_grid(rows, columns)
        save_grid(self.config.run.out / "samples" / f"step_{self.done:08d}.jpg", grid)
        self.events.image(self.done, "samples", grid)

    def _report(self, images: Images) -> None:
        columns, rows = there_and_back(images)
        out = self.config.run.out
        title = "Images of the last step" + f" ({self.shown})" * bool(self.shown)
        blocks = [ImageBlock(title=title, columns=columns, rows=rows)] if rows else []
        report = write_report(
            out / "report.html",
            title=f"CycleGAN {out.name}",
            settings=to_dict(self.config),
            machine=machine_facts(),
            events=read_events(out),
            images=blocks,
            usage=USAGE.format(out=out, direction=self.config.data.direction),
        )
        self.say(f"report: {report}")

    def _checkpoint(self) -> None:
        self._save(self.config.run.out / "checkpoints", keep=self.config.run.keep_checkpoints)

    def _save(self, folder: Any, keep: int = 0) -> Any:
        state = {
            "step": self.step.state_dict(),
            "loader": self.loader.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch_loss": self.epoch_loss,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        progress = {"step": self.done, "epoch": self.epoch, "images": self._image_counts()}
        return native.save_checkpoint(
            folder,
            self.done,
            networks=self.networks,
            config=self.config,
            progress=progress,
            pixel_formats=self.pixel_formats,
            state=state,
            keep=keep,
        )

    def _image_counts(self) -> list[int]:
        return list(self.loader.samples.counts)

    def _start_from(self) -> None:
        """Continues the newest checkpoint, starts from other weights, or starts afresh."""
        run = self.config.run
        newest = native.latest_checkpoint(run.out)
        if run.resume == "auto" and newest is not None:
            self._resume(newest)
        elif newest is not None:
            raise UserError(f"{run.out} holds a run already: continue it with --resume auto, or choose another --out")
        elif run.init_from is not None:
            self._initialise(run.init_from)

    def _resume(self, checkpoint: Any) -> None:
        stored = native.read_settings(checkpoint)
        differences = _differences(stored.config, self.config)
        for name, pixel_format in self.pixel_formats.items():
            before, now = to_dict(stored.pixel_formats[name]), to_dict(pixel_format)
            differences += [
                f"{key} of {name} was {before[key]}, now {now[key]}" for key in now if before[key] != now[key]
            ]
        if stored.progress["images"] != self._image_counts():
            differences.append(f"images were {stored.progress['images']}, now {self._image_counts()}")
        if differences:
            raise UserError(f"{checkpoint} was trained with other settings: {'; '.join(differences)}")
        native.load_weights(checkpoint, self.networks)
        state = native.load_state(checkpoint)
        self.step.load_state_dict(state["step"])
        self.loader.load_state_dict(state["loader"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch_loss.copy_(state["epoch_loss"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.done = stored.progress["step"]
        self.say(f"continuing {checkpoint} after step {self.done}")

    def _initialise(self, source: Any) -> None:
        checkpoint = native.latest_checkpoint(source)
        if checkpoint is not None:
            native.load_weights(checkpoint, self.networks)
        else:
            reference_format.load_reference_folder(source, self.networks)
        self.say(f"starting from the weights of {checkpoint or source}")


class Meter:
    """Means of the losses and the speed since the last record; it reads nothing back from the device until asked.

    Args:
        waited: Gives the seconds that the steps have waited for data since it was last asked.
    """

    def __init__(self, waited: Callable[[], float]) -> None:
        self.waited = waited
        self.reset()

    def reset(self) -> None:
        """Starts a new record."""
        self.began, self.steps = time.perf_counter(), 0
        self.sums: Losses = {}
        self.generators_loss: Tensor | float = 0.0

    def add(self, losses: Losses) -> None:
        """Counts one step."""
        self.steps += 1
        self.generators_loss = torch.stack([v for name, v in losses.items() if not name.startswith("D_")]).sum()
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def means(self) -> dict[str, float]:
        """Mean of each loss."""
        return {name: value.item() / self.steps for name, value in self.sums.items()}

    def not_finite(self) -> list[str]:
        """Names of the losses that were nan or inf in any step of the record."""
        return [name for name, value in self.sums.items() if not math.isfinite(value.item())]

    def steps_per_second(self) -> float:
        """Speed since the last record."""
        return self.steps / (time.perf_counter() - self.began)

    def wait_share(self) -> float:
        """Share of the time since the last record that was spent waiting for data; ask once per record."""
        return self.waited() / (time.perf_counter() - self.began)


def there_and_back(images: Images) -> tuple[list[str], list[list[Tensor]]]:
    """Captions, and rows of images [C, H, W]: A -> B -> A and B -> A -> B in turn."""
    stages = [stage for stage in STAGES if all(name in images for name in stage[1:])]
    count = min(ROWS_PER_GRID, len(images["real_A"])) if images else 0
    rows = [[images[stage[domain]][i].cpu() for stage in stages] for i in range(count) for domain in (1, 2)]
    return [caption for caption, *_ in stages], rows


def _without_idle_identity(config: TrainConfig, say: Callable[[str], None]) -> TrainConfig:
    """Leaves the identity loss out where A and B differ in channels: an image of B is then no input for A -> B."""
    o, model = config.objective, config.model
    if not o.lambda_identity or model.channels_A == model.channels_B:
        return config
    say(f"identity loss: off, images of A have {model.channels_A} channel(s) and those of B {model.channels_B}")
    return dataclasses.replace(config, objective=dataclasses.replace(o, lambda_identity=0.0))


def _check_settings(config: TrainConfig, device: torch.device, say: Callable[[str], None]) -> bool:
    """Refuses settings that cannot work together; returns whether the step runs as a CUDA graph."""
    check_ranges(config)
    o, model = config.objective, config.model
    if config.run.amp == "fp16" and device.type != "cuda":
        raise UserError("--amp fp16 needs a CUDA device; on the CPU use --amp bf16")
    if config.run.amp == "bf16" and ops.bfloat16_is_slow(device, channels_last=config.run.channels_last):
        say("--amp: this CPU has no bfloat16, so that torch's convolutions are many times slower in it: leave it out")
    if not (o.lambda_gan or o.lambda_A or o.lambda_B):
        raise UserError("nothing to train: --lambda-gan, --lambda-A and --lambda-B are all 0")
    if o.gan_mode == "wgangp" and not has_one_size(config.data):
        raise UserError("--gan-mode wgangp mixes images of one size: use a --preprocess mode that crops")
    if config.optim.n_epochs + config.optim.n_epochs_decay < 1:
        raise UserError("nothing to train: --n-epochs and --n-epochs-decay are both 0")
    if config.run.activation_checkpointing and (model.norm == "batch" or not model.generator.startswith("resnet")):
        raise UserError("--activation-checkpointing works for --generator resnet_<N>blocks without --norm batch")
    if config.run.side_by_side == "on" and (reason := why_not_side_by_side(config, device)):
        raise UserError(f"--side-by-side: {reason}; leave it out")
    reason = _why_no_graph(config, device)
    if config.run.cuda_graphs == "on" and reason:
        raise UserError(f"--cuda-graphs: {reason}; leave it out, or say --cuda-graphs=auto to run eagerly here")
    if config.run.cuda_graphs == "auto":
        say(f"cuda graphs: {'off, ' + reason if reason else 'on'}")
    return config.run.cuda_graphs != "off" and not reason


def _why_no_graph(config: TrainConfig, device: torch.device) -> str:
    """Why the step cannot be a CUDA graph here; empty if it can."""
    if device.type != "cuda":
        return "there is no CUDA device" if not torch.cuda.is_available() else "--device is not a CUDA device"
    if not has_one_size(config.data):
        return f"--preprocess {config.data.preprocess} gives images of several sizes"
    return ""


def _differences(stored: TrainConfig, given: TrainConfig) -> list[str]:
    """Settings that must be equal for an exact resume and are not, each as ``name: stored, now given``."""
    before, now = to_dict(stored), to_dict(given)
    return [
        f"{name} was {before[group][name]}, now {now[group][name]}"
        for group in now
        for name in now[group]
        if name not in FREE_ON_RESUME.get(group, set()) and before[group][name] != now[group][name]
    ]
