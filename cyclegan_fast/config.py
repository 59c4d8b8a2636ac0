"""Every setting of a training run: one place, one line each, with its default's source.

The defaults are those of Zhu et al. 2017 (arXiv 1703.10593) and of the authors' PyTorch implementation ("the
reference"). The command line, a YAML file and Python fill the same fields; the resolved settings are printed and
stored beside every checkpoint, so that what shapes a network always travels with its weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from cyclegan_fast.errors import UserError, did_you_mean

T = TypeVar("T")

Preprocess = Literal["resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none"]
Depth = Literal["8", "16", "float"]
Loader = Literal["auto", "cache", "dali", "torch"]


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """What the images of one domain are to the networks; it travels with every generator."""

    channels: int = 3
    """Channels."""
    depth: Depth = "8"
    """8 and 16: whole numbers of that many bits, over their full range. float: values from `low` to `high`."""
    low: float = 0.0
    """Of depth float: the value that becomes -1."""
    high: float = 1.0
    """Of depth float: the value that becomes 1."""

    @property
    def scale(self) -> tuple[float, float]:
        """The values that become -1 and 1."""
        return {"8": (0.0, 255.0), "16": (0.0, 65535.0)}.get(self.depth, (self.low, self.high))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What shapes the two generators and the two discriminators."""

    generator: str = "resnet_9blocks"
    """resnet_<N>blocks or unet_<side>. The paper: 9 blocks at 256 px and up, 6 at 128 px; unet_128, unet_256."""
    discriminator: Literal["basic", "n_layers", "pixel"] = "basic"
    """Discriminator: basic is the paper's 70x70 PatchGAN (n_layers with 3), pixel judges every pixel alone."""
    n_layers: int = 3
    """Strided layers of the n_layers discriminator (each about doubles the patch it judges)."""
    ngf: int = 64
    """Generator channels after the first convolution."""
    ndf: int = 64
    """Discriminator channels after the first convolution."""
    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation layer. The paper: instance."""
    dropout: bool = False
    """Dropout 0.5 inside the generator's blocks. The paper: off."""
    init_type: Literal["normal", "xavier", "kaiming", "orthogonal"] = "normal"
    """Weight initialisation. The paper: normal."""
    init_gain: float = 0.02
    """Standard deviation (normal) or gain (others) of the initialisation."""
    channels_A: int = 3
    """Channels of the images of domain A: 1 (grey), 3 (RGB), or as many as its files have."""
    channels_B: int = 3
    """Channels of the images of domain B: 1 (grey), 3 (RGB), or as many as its files have."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The losses and their weights. The paper's ablations are settings of these."""

    gan_mode: Literal["lsgan", "vanilla", "wgangp", "hinge"] = "lsgan"
    """Adversarial loss: lsgan (the paper's training), vanilla (its equation 1), wgangp, hinge."""
    lambda_gan: float = 1.0
    """Weight of the adversarial losses of the generators; 0 trains with the cycle alone."""
    lambda_A: float = 10.0
    """Weight of the forward cycle A -> B -> A; 0 leaves it out."""
    lambda_B: float = 10.0
    """Weight of the backward cycle B -> A -> B; 0 leaves it out."""
    lambda_identity: float = 0.5
    """Weight of the identity loss, relative to lambda_A and lambda_B; 0 leaves it out."""
    lambda_gp: float = 10.0
    """Weight of wgangp's gradient penalty."""
    pool_size: int = 50
    """Images kept per direction for the discriminators; 0 shows them only the newest fakes."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam and its learning rate over the epochs."""

    batch_size: int = 1
    """Images of each domain that pass the networks together. The paper: 1."""
    grad_accumulation: int = 1
    """Micro-batches of --batch-size whose gradients make one update, and so one step. The paper: 1."""
    lr: float = 2e-4
    """Adam's learning rate at the start."""
    beta1: float = 0.5
    """Adam's decay of the first moment."""
    beta2: float = 0.999
    """Adam's decay of the second moment."""
    eps: float = 1e-8
    """Adam's epsilon."""
    n_epochs: int = 100
    """Epochs at the full learning rate."""
    n_epochs_decay: int = 100
    """Epochs over which the linear policy then takes the rate to zero."""
    lr_policy: Literal["linear", "step", "plateau", "cosine"] = "linear"
    """How the rate falls: linear (the paper), step, plateau (on the generators' loss), cosine."""
    lr_decay_iters: int = 50
    """Epochs between the step policy's drops."""
    lr_gamma: float = 0.1
    """Factor of each drop of the step policy."""

    @property
    def images_per_step(self) -> int:
        """Images of each domain that one update is made of."""
        return self.batch_size * self.grad_accumulation


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images are and how one becomes a training sample."""

    data: Path | None = None
    """Folder with trainA and trainB (and testA, testB); with --paired also one whose train shows A | B side by side."""
    data_A: tuple[str, ...] | None = None
    """In the place of --data: folders, lists (.txt) or tar shards (a-{000..009}.tar) with the training images of A."""
    data_B: tuple[str, ...] | None = None
    """The same for B."""
    paired: bool = False
    """A and B are pairs, by their names or side by side in one file: taken together, cropped and mirrored alike."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA swaps the two domains."""
    preprocess: Preprocess = "resize_and_crop"
    """Geometry of a training sample; none only rounds the sides to a multiple of 4."""
    load_size: int = 286
    """Side in pixels to resize to, before the crop."""
    crop_size: int = 256
    """Side in pixels of the random crop."""
    flip: bool = True
    """Mirror left to right with probability 0.5."""
    serial_batches: bool = False
    """Take A and B in step and in order, rather than shuffled and at random."""
    max_dataset_size: int | None = None
    """Use at most this many images of each domain."""
    epoch_size: int | None = None
    """Samples per epoch; by default the size of the larger domain."""
    loader: Loader = "auto"
    """What makes the batches: cache (all decoded once, kept in memory), dali (NVIDIA DALI decodes, on the GPU), torch
    (worker processes). auto says which."""
    cache_share: float = 0.25
    """Share of the free memory that the loader cache may take: of the device's, or else of the host's."""
    workers: int | None = None
    """Processes (torch) or threads (cache, dali) that decode images; by default as many as the cores suggest."""
    depth: Literal["auto", "8", "16", "float"] = "auto"
    """Bits of a channel: 8, 16, or float with --value-low and --value-high. auto looks at the files of each domain."""
    value_low: float | None = None
    """What becomes black (-1) in floating-point images; darker values are clipped."""
    value_high: float | None = None
    """What becomes white (1) in floating-point images; brighter values are clipped."""
    value_low_B: float | None = None
    """Of domain B, where it is not --value-low."""
    value_high_B: float | None = None
    """Of domain B, where it is not --value-high."""
    on_bad_image: Literal["error", "skip"] = "error"
    """A file that cannot be decoded: stop before training, or leave it out and list it."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How and where the run runs."""

    out: Path = Path("runs/cyclegan")
    """Folder of the run: checkpoints, events, samples, settings."""
    seed: int = 0
    """Seed of weights, data order, augmentation and image pools."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision; --amp alone means bf16. fp16 (with loss scaling) needs CUDA."""
    cuda_graphs: Literal["off", "on", "auto"] = "off"
    """Whole step as one CUDA graph; --cuda-graphs alone means on. auto falls back to eager and says why."""
    side_by_side: Literal["auto", "on", "off"] = "auto"
    """Both directions at once, on two CUDA streams or CPU threads, for twice the memory. auto: if images are small."""
    channels_last: bool = True
    """Keep activations and weights channels_last (NHWC), the faster layout."""
    compile: bool = False
    """torch.compile the networks."""
    activation_checkpointing: bool = False
    """Keep only the input of each residual block and compute the rest anew: less memory for a quarter more work."""
    log_every: int = 50
    """Steps between log lines and event records."""
    sample_every: int = 1000
    """Steps between grids of sample images; 0 for none."""
    checkpoint_every: int = 5000
    """Steps between checkpoints, besides the one at the end; 0 for none."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept; 0 keeps all."""
    max_steps: int | None = None
    """Stop after this many steps, whatever the epochs say."""
    resume: Literal["off", "auto"] = "off"
    """auto continues the newest checkpoint in --out exactly, or starts afresh if there is none."""
    init_from: Path | None = None
    """Start from these weights: a checkpoint or run of ours, or the reference's *_net_*.pth, a folder or one file."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training run is made of."""

    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    run: RunConfig = field(default_factory=RunConfig)


_NO_LIMIT = float("inf")
_RANGES: dict[str, tuple[float, float]] = {  # the least and the most that a setting may be
    **dict.fromkeys(
        ("n_layers", "ngf", "ndf", "batch_size", "grad_accumulation", "lr_decay_iters", "load_size", "crop_size"),
        (1, 2**20),
    ),
    **dict.fromkeys(("channels_A", "channels_B"), (1, 2**10)),
    **dict.fromkeys(("value_low", "value_high", "value_low_B", "value_high_B"), (-1e30, 1e30)),
    **dict.fromkeys(("init_gain", "lambda_gan", "lambda_A", "lambda_B", "lambda_identity", "lambda_gp"), (0, 1e30)),
    **dict.fromkeys(("lr", "lr_gamma", "eps"), (0, 1e30)),
    **dict.fromkeys(("beta1", "beta2"), (0, 1 - 1e-12)),
    **dict.fromkeys(("pool_size", "n_epochs", "n_epochs_decay", "sample_every", "checkpoint_every"), (0, _NO_LIMIT)),
    **dict.fromkeys(("max_dataset_size", "epoch_size", "log_every", "max_steps"), (1, _NO_LIMIT)),
    "keep_checkpoints": (0, _NO_LIMIT),
    "workers": (0, 1024),
    "cache_share": (0, 1),
    "seed": (0, 2**62),
}


def check_ranges(config: TrainConfig) -> None:
    """Checks every number against the range that makes sense for it, wherever it came from.

    Raises:
        UserError: A number is out of its range; the flag is named.
    """
    for group in dataclasses.fields(config):
        for name, value in vars(getattr(config, group.name)).items():
            least, most = _RANGES.get(name, (-_NO_LIMIT, _NO_LIMIT))
            if isinstance(value, int | float) and not least <= value <= most:  # nan is in no range
                limits = f"at least {least:g}" if most == _NO_LIMIT else f"from {least:g} to {most:g}"
                raise UserError(f"--{name.replace('_', '-')} must be {limits}, got {value}")
    if config.model.n_layers != ModelConfig().n_layers and config.model.discriminator != "n_layers":
        raise UserError("--n-layers shapes only --discriminator n_layers: say that too, or leave it out")


def to_dict(config: Any) -> dict[str, Any]:
    """Turns a config dataclass into plain dictionaries, strings, numbers and None (fit for YAML and JSON)."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            out[f.name] = to_dict(value)
        else:
            out[f.name] = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    return out


def from_dict(cls: type[T], values: dict[str, Any], *, where: str = "config", base: T | None = None) -> T:
    """Builds the config dataclass `cls` from plain values; fields that are left out keep those of `base`.

    Raises:
        UserError: an unknown key (the nearest known one is named) or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    resolved: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            hint = _belongs_to(str(key), hints) or did_you_mean(str(key), known)
            raise UserError(f"{where}: unknown setting '{key}'{hint}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UserError(f"{where}.{key}: expected a group of settings, got {value!r}")
            inner = getattr(base, key) if base is not None else None
            resolved[key] = from_dict(hints[key], value, where=f"{where}.{key}", base=inner)
        else:
            resolved[key] = _coerce(value, hints[key], f"{where}.{key}")
    if base is not None:
        return dataclasses.replace(base, **resolved)  # type: ignore[type-var]
    return cls(**resolved)


def _belongs_to(key: str, hints: dict[str, Any]) -> str:
    """A hint for a setting that was written outside its group."""
    groups = [name for name, hint in hints.items() if key in getattr(hint, "__dataclass_fields__", {})]
    return f", it belongs to the group '{groups[0]}'" if groups else ""


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Checks `value` against the annotation `hint`; widens int to float and str to Path."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if isinstance(value, bool):  # YAML reads a bare `on` or `off` as a truth value
            value = "on" if value else "off"
        if isinstance(value, int):  # and an unquoted 8 as a number
            value = str(value)
        if value not in choices:
            raise UserError(f"{where}: expected one of {', '.join(map(str, choices))}, got {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        return _coerce(value, inner[0], where)
    if origin is tuple:  # of any length
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not items:
            raise UserError(f"{where}: expected a list of at least one, got {value!r}")
        return tuple(_coerce(item, typing.get_args(hint)[0], where) for item in items)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is float and isinstance(value, str):  # YAML reads 2e-4, without a point, as text
        with contextlib.suppress(ValueError):
            return float(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
