"""Every setting of a training run: one place, one line each, with its default's source and its range.

The defaults are those of Zhu et al. 2017 (arXiv 1703.10593) and of the authors' PyTorch implementation ("the
reference"). The command line, a YAML file and Python fill the same fields; the resolved settings are printed and
stored beside every checkpoint, so that what shapes a network always travels with its weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from cyclegan_fast.documents import DocumentError, check_path, shown
from cyclegan_fast.errors import UserError, did_you_mean
from cyclegan_fast.metrics import DEFAULT_SCORE

T = TypeVar("T")

Preprocess = Literal["resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none"]
Depth = Literal["8", "16", "float"]
Loader = Literal["auto", "cache", "dali", "torch"]
ModelName = Literal["cyclegan", "pix2pix", "simgan", "feature_gan", "bigan", "cogan"]

FINITE = 1e30  # the largest magnitude of a number that must be finite
BELOW_ONE = 1 - 1e-12


def number(default: T, *, min: float, max: float = math.inf) -> T:
    """Makes a field for a number from `min` to `max`; where its type allows None, that is in range too."""
    return field(default=default, metadata={"range": (min, max)})


def choice(default: T, *, alone: str, stored: bool = True) -> T:
    """Makes a field whose flag may stand without a value, and then means `alone`.

    One that is not `stored` is about a single start, and so is no part of a run's settings.
    """
    return field(default=default, metadata={"alone": alone, "stored": stored})


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How the networks see the images of one domain; it is stored with every generator."""

    channels: int = number(3, min=1, max=2**10)
    """Number of channels."""
    depth: Depth = "8"
    """8 and 16: integers of that many bits, over their full range. float: values from `low` to `high`."""
    low: float = number(0.0, min=-FINITE, max=FINITE)
    """For depth float: the value that maps to -1."""
    high: float = number(1.0, min=-FINITE, max=FINITE)
    """For depth float: the value that maps to 1."""

    @property
    def scale(self) -> tuple[float, float]:
        """The values that map to -1 and 1."""
        return {"8": (0.0, 255.0), "16": (0.0, 65535.0)}.get(self.depth, (self.low, self.high))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which networks are trained, and what shapes them."""

    model: ModelName = "cyclegan"
    """cyclegan: two sets of images. pix2pix: pairs, each input with the output to make of it (Isola et al. 2017).
    For experiments, the rivals of the paper's tables: simgan, feature_gan, bigan, cogan."""
    generator: str = "resnet_9blocks"
    """resnet_<N>blocks or unet_<side>. The paper: 9 blocks at 256 px and up, 6 at 128 px; unet_128, unet_256."""
    discriminator: Literal["basic", "n_layers", "pixel"] = "basic"
    """Discriminator: basic is the paper's 70x70 PatchGAN (n_layers with 3), pixel scores each pixel by itself."""
    n_layers: int = number(3, min=1, max=2**20)
    """Strided layers of the n_layers discriminator (each about doubles the side of a patch)."""
    ngf: int = number(64, min=1, max=2**20)
    """Generator channels after the first convolution."""
    ndf: int = number(64, min=1, max=2**20)
    """Discriminator channels after the first convolution."""
    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation layer. The paper: instance."""
    dropout: bool = False
    """Dropout 0.5 inside the generator's blocks. The paper: off."""
    init_type: Literal["normal", "xavier", "kaiming", "orthogonal"] = "normal"
    """Weight initialisation. The paper: normal."""
    init_gain: float = number(0.02, min=0, max=FINITE)
    """Standard deviation (normal) or gain (others) of the initialisation."""
    channels_A: int = number(3, min=1, max=2**10)
    """Channels of the images of domain A: 1 (grey), 3 (RGB), or as many as its files have."""
    channels_B: int = number(3, min=1, max=2**10)
    """Channels of the images of domain B: 1 (grey), 3 (RGB), or as many as its files have."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The losses and their weights. The paper's ablations are settings of these."""

    gan_mode: Literal["lsgan", "vanilla", "wgangp", "hinge"] = "lsgan"
    """Adversarial loss: lsgan (the paper's training), vanilla (its equation 1), wgangp, hinge."""
    lambda_gan: float = number(1.0, min=0, max=FINITE)
    """Weight of the adversarial losses of the generators; 0 trains with the cycle losses alone."""
    lambda_A: float = number(10.0, min=0, max=FINITE)
    """Weight of the forward cycle loss, A -> B -> A; 0 leaves it out."""
    lambda_B: float = number(10.0, min=0, max=FINITE)
    """Weight of the backward cycle loss, B -> A -> B; 0 leaves it out."""
    lambda_identity: float = number(0.5, min=0, max=FINITE)
    """Weight of the identity loss, relative to lambda_A and lambda_B; 0 leaves it out."""
    lambda_L1: float = number(100.0, min=0, max=FINITE)
    """With --model pix2pix: weight of the L1 distance to the partner. Isola et al.: 100."""
    lambda_self: float = number(1.0, min=0, max=FINITE)
    """With --model simgan and feature_gan: weight of the L1 distance between output and input."""
    lambda_gp: float = number(10.0, min=0, max=FINITE)
    """Weight of wgangp's gradient penalty."""
    pool_size: int = number(50, min=0)
    """Size of the image pool of each discriminator; 0 shows it only the newest fakes."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam and its learning rate over the epochs."""

    batch_size: int = number(1, min=1, max=2**20)
    """Images of each domain that pass the networks together. The paper: 1."""
    grad_accumulation: int = number(1, min=1, max=2**20)
    """Micro-batches of --batch-size whose gradients make one update, and so one step. The paper: 1."""
    lr: float = number(2e-4, min=0, max=FINITE)
    """Adam's learning rate at the start."""
    lr_rule: Literal["none", "sqrt", "linear"] = choice("none", alone="sqrt")
    """How --lr, then meant for updates of one image, grows with their images: none, by the square root, or linear."""
    beta1: float = number(0.5, min=0, max=BELOW_ONE)
    """Adam's decay of the first moment."""
    beta2: float = number(0.999, min=0, max=BELOW_ONE)
    """Adam's decay of the second moment."""
    eps: float = number(1e-8, min=0, max=FINITE)
    """Adam's epsilon."""
    ema: float = number(0.0, min=0, max=BELOW_ONE)
    """Decay of the moving average of the generators' weights, which then translates images; 0 for none. Often 0.999."""
    n_epochs: int = number(100, min=0)
    """Epochs at the full learning rate."""
    n_epochs_decay: int = number(100, min=0)
    """Epochs over which the linear policy then decays the rate to zero."""
    lr_policy: Literal["linear", "step", "plateau", "cosine"] = "linear"
    """How the rate falls: linear (the paper), step, plateau (on the generators' loss), cosine."""
    lr_decay_iters: int = number(50, min=1, max=2**20)
    """Epochs between the step policy's drops."""
    lr_gamma: float = number(0.1, min=0, max=FINITE)
    """Factor of each drop of the step policy."""

    @property
    def images_per_step(self) -> int:
        """Images of each domain that make one update."""
        return self.batch_size * self.grad_accumulation


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images are and how one becomes a training sample."""

    data: Path | None = None
    """Folder with trainA and trainB (and testA, testB); with --paired also one whose train shows A | B side by side.
    By default scenes are rendered into --out."""
    data_A: tuple[str, ...] | None = None
    """In the place of --data: folders, lists (.txt) or tar shards (a-{000..009}.tar) with the training images of A."""
    data_B: tuple[str, ...] | None = None
    """The same for B."""
    test_A: tuple[str, ...] | None = None
    """With --data-A: folders, lists or shards with the test images of A, for scores and samples; never trained on."""
    test_B: tuple[str, ...] | None = None
    """The same for B."""
    paired: bool = False
    """A and B are pairs, by their names or side by side in one file: loaded together, cropped and flipped alike.
    CycleGAN does not learn from the partner; --model pix2pix does, and takes pairs by itself."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA swaps the two domains."""
    preprocess: Preprocess = "resize_and_crop"
    """Geometry of a training sample; none only rounds the sides to a multiple of 4."""
    load_size: int = number(286, min=1, max=2**20)
    """Side in pixels to resize to, before the crop."""
    crop_size: int = number(256, min=1, max=2**20)
    """Side in pixels of the random crop."""
    flip: bool = True
    """Flip left to right with probability 0.5."""
    serial_batches: bool = False
    """Load A and B in their order, rather than shuffled and combined at random."""
    max_dataset_size: int | None = number(None, min=1)
    """Use at most this many images of each domain."""
    epoch_size: int | None = number(None, min=1)
    """Samples per epoch; by default the size of the larger domain."""
    loader: Loader = "auto"
    """What makes the batches: cache (all decoded once, held in memory), dali (NVIDIA DALI decodes, on the GPU), torch
    (worker processes). auto logs its choice."""
    cache_share: float = number(0.25, min=0, max=1)
    """Share of the free memory that the loader cache may use: of the device's, or else of the host's."""
    workers: int | None = number(None, min=0, max=1024)
    """Processes (torch) or threads (cache, dali) that decode images; by default as many as the cores suggest."""
    depth: Literal["auto", "8", "16", "float"] = "auto"
    """Bits of a channel: 8, 16, or float with --value-low and --value-high. auto reads them from the files."""
    value_low: float | None = number(None, min=-FINITE, max=FINITE)
    """The value of black (-1) in floating-point images; lower ones are clipped."""
    value_high: float | None = number(None, min=-FINITE, max=FINITE)
    """The value of white (1) in floating-point images; higher ones are clipped."""
    value_low_B: float | None = number(None, min=-FINITE, max=FINITE)
    """For domain B, where it differs from --value-low."""
    value_high_B: float | None = number(None, min=-FINITE, max=FINITE)
    """For domain B, where it differs from --value-high."""
    on_bad_image: Literal["error", "skip"] = "error"
    """A file that cannot be decoded: stop before training, or leave it out and list it."""

    @property
    def has_one_size(self) -> bool:
        """Whether all training images have the same size."""
        return self.preprocess in ("resize_and_crop", "crop", "scale_width_and_crop")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How and where the run executes, and what it writes."""

    out: Path = Path("runs/cyclegan")
    """Folder of the run: checkpoints, events, samples, settings."""
    seed: int = number(0, min=0, max=2**62)
    """Seed of weights, data order, augmentation and image pools."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    amp: Literal["off", "bf16", "fp16"] = choice("off", alone="bf16")
    """Mixed precision. fp16 (with loss scaling) needs CUDA."""
    cuda_graphs: Literal["off", "on", "auto"] = choice("off", alone="auto")
    """Whole step as one CUDA graph. auto: where there is CUDA (elsewhere it logs why not); on: an error elsewhere."""
    side_by_side: Literal["auto", "on", "off"] = choice("auto", alone="on")
    """Both cycles at once, on two CUDA streams or CPU threads, for twice the memory. auto: if images are small."""
    channels_last: bool = True
    """Keep activations and weights channels_last (NHWC), the faster layout."""
    compile: bool = False
    """torch.compile the networks."""
    activation_checkpointing: bool = False
    """Store only the input of each residual block and recompute the rest: less memory for a quarter more work."""
    log_every: int = number(50, min=1)
    """Steps between log lines and event records."""
    sample_every: int = number(1000, min=0)
    """Steps between grids of sample images; 0 for none."""
    eval_every: int | None = number(None, min=0)
    """Steps between scores of the test images; 0 for none. By default after each epoch, within 5 % of the time."""
    eval_images: int = number(50, min=1, max=2**20)
    """How many test images of each domain are scored."""
    eval_paired: bool = False
    """Score the test images of A and B as pairs, by their names, where those that are trained on are none."""
    features: str | None = None
    """A network for FID, KID, density and coverage: inception, or a file: .onnx, .pt2, or TorchScript (.pt)."""
    features_size: int | None = number(None, min=1, max=2**14)
    """Side in pixels of that network's input; by default what its file states, or 224."""
    checkpoint_every: int = number(5000, min=0)
    """Steps between checkpoints, besides the one at the end; 0 for none."""
    checkpoint_minutes: float = number(30.0, min=0, max=FINITE)
    """A checkpoint is also saved when the last one is this old, in minutes; 0 for none."""
    keep_checkpoints: int = number(3, min=0)
    """How many of the newest checkpoints to keep; 0 keeps all."""
    keep_every: int = number(0, min=0)
    """Milestones: a checkpoint is saved at each multiple of this many steps, and never deleted; 0 for none."""
    keep_best: int = number(1, min=0)
    """How many of the best checkpoints, by --score, are never deleted; better scores are saved as they come."""
    score: str = DEFAULT_SCORE
    """Which score tells the best: swd, color, cycle_l1, cycle_ssim, hidden, structure; swd_AtoB; with --paired or
    --eval-paired also l1, psnr, ssim; with --features also fid, kid, density, coverage."""
    watch: Literal["on", "off"] = choice("on", alone="on")
    """Warn of divergence and collapse: a discriminator that won, images that are constant, inverted or all alike."""
    detect_anomaly: bool = False
    """Look at the losses and gradients of every step, and replay one that is not finite, to name layer and tensor."""
    max_steps: int | None = number(None, min=1)
    """Stop after this many steps, even if epochs are left; none for no limit."""
    resume: Literal["off", "auto"] = choice("off", alone="auto", stored=False)
    """auto continues the run in --out exactly, with its settings; before its first checkpoint it starts again."""
    rank_timeout: float = number(600.0, min=1, max=10**6)
    """Of several processes that train together: seconds that one waits for another before it ends."""
    init_from: Path | None = None
    """Start from these weights: a checkpoint or run of ours, or the reference's *_net_*.pth, a folder or one file."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    run: RunConfig = field(default_factory=RunConfig)


def with_settings(config: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """Returns `config` with other values of the settings in `given`, which are named without their groups."""
    groups = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    for group, settings in groups.items():
        values = {f.name: given[f.name] for f in dataclasses.fields(settings) if f.name in given}
        groups[group] = dataclasses.replace(settings, **values)
    return dataclasses.replace(config, **groups)


ALONE: dict[str, str] = {  # what a setting's flag means that stands without a value, by name
    setting.name: setting.metadata["alone"]
    for group in (ModelConfig, ObjectiveConfig, OptimConfig, DataConfig, RunConfig)
    for setting in dataclasses.fields(group)
    if "alone" in setting.metadata
}


def check_ranges(config: TrainConfig) -> None:
    """Checks every number against its range, wherever it came from.

    Raises:
        UserError: A number is out of its range; the flag is named.
    """
    for group in dataclasses.fields(config):
        settings = getattr(config, group.name)
        for setting in dataclasses.fields(settings):
            _check_range(getattr(settings, setting.name), setting, f"--{setting.name.replace('_', '-')}")
    if config.model.n_layers != ModelConfig().n_layers and config.model.discriminator != "n_layers":
        raise UserError("--n-layers applies to --discriminator n_layers alone: add that, or leave it out")


def _check_range(value: Any, setting: dataclasses.Field[Any], name: str) -> None:
    low, high = setting.metadata.get("range", (None, None))
    if low is None or value is None or low <= value <= high:  # nan is in no range
        return
    limits = f"at least {_readable(low)}" if high == math.inf else f"from {_readable(low)} to {_readable(high)}"
    raise UserError(f"{name} must be {limits}, got {shown(value)}")


def _readable(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def to_dict(config: Any) -> dict[str, Any]:
    """Turns a config dataclass into plain dictionaries, strings, numbers and None (fit for YAML and JSON).

    What is about a single start, `resume`, is left out.
    """
    out: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        if not f.metadata.get("stored", True):
            continue
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            out[f.name] = to_dict(value)
        else:
            out[f.name] = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    return out


def from_dict(cls: type[T], values: dict[str, Any], *, where: str = "config") -> T:
    """Builds the config dataclass `cls` from plain values; fields that are left out keep their defaults.

    Raises:
        UserError: An unknown key (the nearest known one is named), a value of the wrong type, or a number out of range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected settings by name, got {shown(values)}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    resolved: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            name = shown(key).strip("'")
            raise UserError(f"{where}: unknown setting '{name}'{_belongs_to(name, hints) or did_you_mean(name, known)}")
        name = f"{where}.{key}"
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UserError(f"{name}: expected a group of settings, got {shown(value)}")
            resolved[key] = from_dict(hints[key], value, where=name)
        else:
            resolved[key] = _coerce(value, hints[key], name)
            _check_range(resolved[key], known[key], name)
    return cls(**resolved)


def _belongs_to(key: str, hints: dict[str, Any]) -> str:
    """Returns a hint for a setting that was written outside its group."""
    groups = [name for name, hint in hints.items() if key in getattr(hint, "__dataclass_fields__", {})]
    return f", it belongs to the group '{groups[0]}'" if groups else ""


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Checks a `value` read from YAML or JSON against the annotation `hint` and converts it to that type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return _coerce_choice(value, arguments, where)
    if origin in (typing.Union, types.UnionType):  # of one type and None
        return None if value is None else _coerce(value, arguments[0], where)
    if origin is tuple:  # of any length
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not items:
            raise UserError(f"{where}: expected a list of at least one, got {shown(value)}")
        return tuple(_coerce(item, arguments[0], where) for item in items)
    if hint in (Path, str) and isinstance(value, str | hint):
        try:
            check_path(str(value))
        except DocumentError as error:
            raise UserError(f"{where}: {error}") from error
        return hint(value)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)  # YAML reads 2e-4, without a point, as text
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {shown(value)}")


def _coerce_choice(value: Any, choices: tuple[str, ...], where: str) -> str:
    if isinstance(value, bool):  # YAML reads a bare `on` or `off` as a truth value
        value = "on" if value else "off"
    text = shown(value) if isinstance(value, int) else value  # and an unquoted 8 as a number
    if not isinstance(text, str) or text not in choices:
        raise UserError(f"{where}: expected one of {', '.join(choices)}, got {shown(text)}")
    return text
