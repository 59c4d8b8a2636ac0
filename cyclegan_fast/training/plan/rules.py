"""The rules of `dataset plan`: each looks at the images and the device and proposes a few settings, with the reason.

They follow the paper (Zhu et al. 2017) where its sets are like the given one, and docs/train.md says where and why they
leave it. A rule sees what the rules before it have proposed; none reads a file or starts a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cyclegan_fast.config import DataConfig, Preprocess, TrainConfig, with_settings
from cyclegan_fast.data import transforms
from cyclegan_fast.data.catalog.pixel_formats import DEPTH_NAMES
from cyclegan_fast.data.catalog.survey import DomainSurvey
from cyclegan_fast.data.loaders.cache_memory import format_bytes
from cyclegan_fast.errors import UserError

PAPER_CROP, PAPER_LOAD = 256, 286  # pixels: the reference resizes to 286 and cuts 256
CROPS = {"cuda": (256, 128, 64, 32), "cpu": (128, 64, 32)}  # pixels, the first that the images allow
MAX_SHOWN = {"cuda": 300_000, "cpu": 60_000}  # images of a whole training; the paper's horses and zebras: 266,800
MIN_SHOWN = 80_000  # the paper's smallest set, facades: 400 images, 200 epochs
EPOCHS = (4, 200, 400)  # at least; the paper's; at most
FULL_EPOCH = 1_500  # samples: with 200 epochs MAX_SHOWN on a GPU
CROPS_EACH = 4  # that an image holds side by side, from where an epoch counts crops
MANY_IMAGES = 10_000  # of the larger domain, from where an epoch is long enough for batches of 4
SAME_ASPECT = 1.1  # between the 5th and the 95th percentile of width / height


@dataclass(frozen=True)
class Machine:
    """The device that will train."""

    type: str
    """cuda or cpu."""
    free_memory: int
    """Bytes on the device."""
    free_host_memory: int = 0
    """Bytes; 0 where the device is the host's CPU."""
    slow_bfloat16: bool = False
    """Whether convolutions are slower in bfloat16 than in float32."""
    old_cuda: bool = False
    """Whether it is a GPU without bfloat16 (before compute capability 8.0)."""
    has_dali: bool = False
    """Whether NVIDIA DALI is installed."""


@dataclass(frozen=True)
class Facts:
    """What the rules look at."""

    A: DomainSurvey
    B: DomainSurvey
    machine: Machine

    @property
    def count(self) -> int:
        """Images of the larger domain: the length of an epoch."""
        return max(self.A.count, self.B.count)

    @property
    def sizes(self) -> np.ndarray:
        """Width and height of all images that were read, in pixels, int [N, 2]."""
        return np.concatenate([self.A.sizes, self.B.sizes])

    @property
    def short_sides(self) -> np.ndarray:
        """The shorter side of each image, in pixels, int [N]."""
        return self.sizes.min(axis=1)

    @property
    def one_size(self) -> bool:
        """Whether all images have one size."""
        return len(np.unique(self.sizes, axis=0)) == 1

    @property
    def aspect(self) -> tuple[float, float]:
        """Width / height of the image at the 5th and of that at the 95th percentile."""
        ratios = np.sort(self.sizes[:, 0] / self.sizes[:, 1])
        last = len(ratios) - 1
        return float(ratios[math.floor(0.05 * last)]), float(ratios[math.ceil(0.95 * last)])

    @property
    def nearly_square(self) -> bool:
        """Whether resizing to a square distorts hardly any image."""
        low, high = self.aspect
        return low >= 1 / SAME_ASPECT and high <= SAME_ASPECT

    @property
    def are_measurements(self) -> bool:
        """Whether the values are measured ones: more than 8 bits, or bands that are neither grey nor RGB."""
        return any(domain.depth != "8" or not domain.are_images for domain in (self.A, self.B))


@dataclass(frozen=True)
class Proposal:
    """What one rule proposes."""

    settings: dict[str, Any]
    """By the name of the field in the config; empty where the rule has nothing to propose."""
    reason: str
    """One line."""


Rule = Callable[[Facts, TrainConfig], Proposal]


def propose(facts: Facts, config: TrainConfig) -> tuple[TrainConfig, list[Proposal]]:
    """Applies all rules to `config`.

    Raises:
        UserError: No image could be read, or those of one domain have several numbers of channels.
    """
    proposals = []
    for rule in RULES:
        proposal = rule(facts, config)
        config = with_settings(config, proposal.settings)
        proposals += [proposal] * bool(proposal.settings)
    return config, proposals


def channels(facts: Facts, config: TrainConfig) -> Proposal:
    """As many as the files have; grey and RGB mixed become RGB."""
    found = [_channels_of(domain, name) for name, domain in (("A", facts.A), ("B", facts.B))]
    if sorted(found) == [1, 3]:
        grey = "AB"[found.index(1)]
        reason = f"the images of {grey} are grey: repeated to 3 channels, so that the identity loss can stay"
        return Proposal({"channels_A": 3, "channels_B": 3}, reason)
    kinds = {1: "read as grey", 3: "read as RGB"}  # whatever else they are: RGBA, CMYK, a palette
    named = [kinds.get(count, f"of {count} bands") for count in found]
    images = f"all images are {named[0]}" if found[0] == found[1] else f"A is {named[0]}, B is {named[1]}"
    without = "; the identity loss is off: it needs equal channels" * (found[0] != found[1])
    return Proposal({"channels_A": found[0], "channels_B": found[1]}, images + without)


def values(facts: Facts, config: TrainConfig) -> Proposal:
    """The range of floating-point values, which no file states."""
    depths = {facts.A.depth, facts.B.depth}
    if "float" not in depths:
        named = " and ".join(DEPTH_NAMES[depth] for depth in sorted(depths, reverse=True))
        return Proposal({"depth": "auto"}, f"the files have {named}, and training uses all of it")
    settings: dict[str, Any] = {"depth": "auto"}
    if facts.A.depth == "float":
        settings |= {"value_low": facts.A.low, "value_high": facts.A.high}
    in_A = settings.get("value_low"), settings.get("value_high")
    if facts.B.depth == "float" and (facts.B.low, facts.B.high) != in_A:
        settings |= {"value_low_B": facts.B.low, "value_high_B": facts.B.high}
    return Proposal(settings, "the lowest and the highest value that were read; a narrower window shows more contrast")


def crop_size(facts: Facts, config: TrainConfig) -> Proposal:
    """The paper's 256 on a GPU, 128 on a CPU, less where the images are smaller."""
    median = int(np.median(facts.short_sides))
    choices = CROPS[facts.machine.type]
    crop = next((side for side in choices if side <= median), choices[-1])
    if crop < choices[0]:
        reason = f"the images' median short side is {median} pixels"
    elif facts.machine.type == "cpu":
        reason = "on a CPU: 256 would take 4 times as long"
    else:
        reason = "the paper's"
    return Proposal({"crop_size": crop}, reason)


@dataclass(frozen=True)
class Geometry:
    """One row of the table that chooses --preprocess."""

    applies: Callable[[Facts, int], bool]
    """Called with the facts and the side of the crop."""
    preprocess: Preprocess
    reason: str


GEOMETRIES = (  # the first that applies
    Geometry(
        lambda facts, crop: facts.are_measurements and facts.short_sides.min() >= crop,
        "crop",
        "measured values: cut at their own resolution, never resampled",
    ),
    Geometry(
        lambda facts, crop: facts.one_size and facts.short_sides.min() > 2 * PAPER_CROP,
        "crop",
        "large images of one size, as tiles and scans are (objects that fill them want resize_and_crop)",
    ),
    Geometry(
        lambda facts, crop: facts.nearly_square,
        "resize_and_crop",
        "square images: resized and cut a little smaller at random, as in the paper",
    ),
    Geometry(
        lambda facts, crop: facts.short_sides.min() >= crop and np.median(facts.short_sides) <= 2 * crop,
        "crop",
        "all images are large enough: cut without resizing, so that nothing is distorted",
    ),
    Geometry(
        lambda facts, crop: True,
        "scale_width_and_crop",
        "images of other shapes than square: scaled with their aspect kept, then cut",
    ),
)


def geometry(facts: Facts, config: TrainConfig) -> Proposal:
    """How an image becomes a sample of the crop's size."""
    crop = config.data.crop_size
    row = next(row for row in GEOMETRIES if row.applies(facts, crop))
    if row.preprocess == "crop":
        return Proposal({"preprocess": "crop"}, row.reason)
    width = max(1.0, facts.aspect[1]) if row.preprocess == "scale_width_and_crop" else 1.0
    load_size = round(crop * width * PAPER_LOAD / PAPER_CROP)
    return Proposal({"preprocess": row.preprocess, "load_size": load_size}, row.reason)


def generator(facts: Facts, config: TrainConfig) -> Proposal:
    """The paper's 9 blocks at 256 pixels and 6 at 128; narrower networks on a CPU."""
    crop = config.data.crop_size
    blocks = 9 if crop >= 256 else 6 if crop >= 128 else 3
    reason = f"the paper's at {crop} pixels" if crop >= 128 else "fewer than the paper's 6 at 128 pixels"
    if facts.machine.type == "cuda":
        return Proposal({"generator": f"resnet_{blocks}blocks", "ngf": 64, "ndf": 64}, reason)
    width = 32 if crop >= 128 else 16
    reason += f"; {width} channels are {(64 // width) ** 2} times less work for a CPU than 64"
    return Proposal({"generator": f"resnet_{blocks}blocks", "ngf": width, "ndf": min(32, 2 * width)}, reason)


def discriminator(facts: Facts, config: TrainConfig) -> Proposal:
    """The 70x70 PatchGAN, or one of 34x34 where a crop is smaller than its patch."""
    if config.data.crop_size >= 70:
        return Proposal({"discriminator": "basic"}, "the paper's, which scores patches of 70x70 pixels")
    reason = "scores patches of 34x34 pixels: the paper's 70x70 would be larger than the crop"
    return Proposal({"discriminator": "n_layers", "n_layers": 2}, reason)


def batch_size(facts: Facts, config: TrainConfig) -> Proposal:
    """The paper's 1; 4 on a GPU where an epoch is long."""
    if facts.machine.type == "cuda" and facts.count >= MANY_IMAGES:
        reason = f"{facts.count:,} images are enough for larger batches, which a GPU runs faster"
        return Proposal({"batch_size": 4}, reason)
    return Proposal({"batch_size": 1}, "the paper's: most updates for each image")


def epoch_size(facts: Facts, config: TrainConfig) -> Proposal:
    """The number of images; where each of few holds many crops, the number of those."""
    side, count = config.data.crop_size, facts.count
    crops = int(count * np.mean((facts.sizes // side).prod(axis=1))) if config.data.preprocess == "crop" else count
    if count >= FULL_EPOCH or crops < CROPS_EACH * count:
        return Proposal({}, "")
    size = min(crops, FULL_EPOCH)
    return Proposal({"epoch_size": size}, f"the images hold about {crops:,} crops: an epoch shows {size:,}")


def epochs(facts: Facts, config: TrainConfig) -> Proposal:
    """As many as show the networks as many images as the paper's do; half of them at the full rate."""
    fewest, paper, most = EPOCHS
    max_shown = MAX_SHOWN[facts.machine.type]
    count = config.data.epoch_size or facts.count
    of = f"of {count:,} crops" if config.data.epoch_size else f"of {count:,} images"
    wanted, shown, reason = paper, count * paper, "the paper's 200 epochs"
    if shown > max_shown:
        wanted = max(fewest, max_shown // count)
        enough = "about the paper's number of steps" if facts.machine.type == "cuda" else "what suits a CPU"
        reason = f"{wanted} epochs {of} are {enough}"
    elif shown < min(MIN_SHOWN, max_shown):
        wanted = min(most, math.ceil(min(MIN_SHOWN, max_shown) / count))
        reason = f"more than the paper's 200 epochs {of}"
        if wanted == most:
            reason += ", but few enough not to learn them by heart"
    return Proposal({"n_epochs": wanted - wanted // 2, "n_epochs_decay": wanted // 2}, reason)


def amp(facts: Facts, config: TrainConfig) -> Proposal:
    """16 bit where the device is faster in it."""
    if facts.machine.type == "cuda":
        if facts.machine.old_cuda:
            return Proposal({"amp": "fp16"}, "this GPU has no bfloat16; fp16 with loss scaling")
        return Proposal({"amp": "bf16"}, "the tensor cores' bfloat16; norms and losses stay in float32")
    if facts.machine.slow_bfloat16:
        return Proposal({"amp": "off"}, "this CPU has no bfloat16")
    return Proposal({"amp": "bf16"}, "bfloat16 is at least as fast on this CPU and takes less memory")


def cuda_graphs(facts: Facts, config: TrainConfig) -> Proposal:
    """On a GPU, whose steps all have one size."""
    if facts.machine.type == "cuda":
        return Proposal({"cuda_graphs": "auto"}, "all samples have one size: the whole step is one CUDA graph")
    return Proposal({"cuda_graphs": "off"}, "a CPU has no CUDA graphs")


def on_bad_image(facts: Facts, config: TrainConfig) -> Proposal:
    """Leaves out what cannot be read, at which training would stop."""
    if not (facts.A.unreadable or facts.B.unreadable):
        return Proposal({}, "")
    reason = "training would stop at files that cannot be read; dataset check --quarantine leaves them out for good"
    return Proposal({"on_bad_image": "skip"}, reason)


def loader(facts: Facts, config: TrainConfig) -> Proposal:
    """Says which loader `auto` will choose; it decides when training starts, from the memory that is free then."""
    needed, share = decoded_bytes(facts, config), config.data.cache_share
    machine, size = facts.machine, f"decoded, the set takes about {format_bytes(needed)}"
    for free, where in ((machine.free_memory, "free"), (machine.free_host_memory, "free in host memory")):
        if needed <= share * free:
            return Proposal({"loader": "auto"}, f"will be cache: {size} of {format_bytes(free)} {where}")
    choice = "torch"
    if machine.type == "cuda" and not facts.are_measurements:
        choice = "dali" if machine.has_dali else "torch (dali with the extra [dali])"
    limit = (
        f"more than --cache-share {share:g} of {format_bytes(max(machine.free_memory, machine.free_host_memory))} free"
    )
    return Proposal({"loader": "auto"}, f"will be {choice}: {size}, {limit}")


RULES: tuple[Rule, ...] = (
    channels, values, crop_size, geometry, generator, discriminator, batch_size,
    epoch_size, epochs, amp, cuda_graphs, on_bad_image, loader,
)  # fmt: skip


def decoded_bytes(facts: Facts, config: TrainConfig) -> int:
    """Returns about how many bytes the set takes once it is decoded and resized."""
    total = 0.0
    for domain, count in ((facts.A, config.model.channels_A), (facts.B, config.model.channels_B)):
        pixels = [_pixels((int(width), int(height)), config.data) for width, height in domain.sizes]
        item = {"8": 1, "16": 2, "float": 4}[domain.depth]
        total += domain.count * float(np.mean(pixels)) * count * item
    return int(total)


def _pixels(size: transforms.Size, config: DataConfig) -> int:
    width, height = transforms.resized_size(size, config)
    return width * height


def _channels_of(domain: DomainSurvey, name: str) -> int:
    if not len(domain.sizes):
        raise UserError(
            f"no image of {name} can be read: python -m cyclegan_fast.dataset check says what is wrong with each"
        )
    if domain.channels <= {1, 3}:
        return max(domain.channels)
    if len(domain.channels) > 1:
        found = ", ".join(str(count) for count in sorted(domain.channels))
        raise UserError(
            f"the images of {name} have {found} channels; a generator takes images of one number of channels"
        )
    return next(iter(domain.channels))
