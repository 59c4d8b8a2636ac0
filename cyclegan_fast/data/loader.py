"""Unpaired training batches: decoded in worker processes, carried as bytes, normalised on the device.

Nothing here has a memory. Sample i of the endless stream draws all that is random in it from (seed, i), so the same
samples come from any number of workers, and a stream taken up again at sample k goes on as if it had never stopped.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cyclegan_fast import ops
from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.checks import check_images
from cyclegan_fast.data.decode import BadImageError, decode
from cyclegan_fast.data.folder import index_pair
from cyclegan_fast.data.pixels import to_array
from cyclegan_fast.data.streams import Purpose, stream
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError

log = logging.getLogger(__name__)

_MOST_BAD_IN_A_ROW = 100  # files; more than that and the disk is gone, not a file


class Picked(NamedTuple):
    """What one sample number stands for."""

    a: int  # index into the files of A
    b: int  # index into the files of B
    draw_A: transforms.Draw
    draw_B: transforms.Draw


class UnpairedSamples(Dataset[dict[str, Any]]):
    """Sample number -> one image of A and one of B, uint8 [H, W, C] each: the part that runs in the workers."""

    def __init__(
        self, config: DataConfig, paths_A: Sequence[Path], paths_B: Sequence[Path], channels: tuple[int, int], seed: int
    ) -> None:
        self.config, self.seed = config, seed
        self.paths = (list(map(str, paths_A)), list(map(str, paths_B)))
        self.channels = channels

    def __len__(self) -> int:
        """One pass: as many samples as the larger domain has files."""
        return max(map(len, self.paths))

    def pick(self, number: int) -> Picked:
        """Draws everything that is random in a sample, from the seed and its number alone."""
        size_A, size_B = map(len, self.paths)
        epoch, position = divmod(number, len(self))
        rng = stream(self.seed, Purpose.SAMPLE, number)
        b = int(rng.integers(size_B))
        draw_A, draw_B = transforms.draw(rng), transforms.draw(rng)
        if self.config.serial_batches:
            return Picked(position % size_A, position % size_B, draw_A, draw_B)
        return Picked(int(_order(self.seed, epoch, len(self))[position]) % size_A, b, draw_A, draw_B)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Returns the images, their paths and the files skipped; or {"failure": sentence}.

        A failure travels as a value: an exception from a worker would arrive wrapped in the worker's traceback.
        """
        picked = self.pick(number)
        skipped: list[tuple[str, str]] = []
        try:
            path_A, image_A = self._read(0, picked.a, picked.draw_A, skipped)
            path_B, image_B = self._read(1, picked.b, picked.draw_B, skipped)
        except UserError as error:
            return {"failure": str(error)}
        return {"A": image_A, "B": image_B, "paths_A": path_A, "paths_B": path_B, "skipped": skipped}

    def _read(
        self, domain: int, index: int, draw: transforms.Draw, skipped: list[tuple[str, str]]
    ) -> tuple[str, np.ndarray]:
        """Reads one image; under the policy "skip" the next file of the domain stands in for one that went bad."""
        paths = self.paths[domain]
        for step in range(min(len(paths), _MOST_BAD_IN_A_ROW)):
            path = paths[(index + step) % len(paths)]
            try:
                image = transforms.apply(decode(path, self.channels[domain]), self.config, draw)
                return path, to_array(image)
            except BadImageError as error:
                if self.config.on_bad_image == "error":
                    raise UserError(f"{error}; it was good when training began: mend it and resume") from error
                skipped.append((path, error.reason))
        raise UserError(f"{paths[index]} and the {len(skipped) - 1} files after it cannot be read; is the disk there?")


class UnpairedLoader:
    """Yields batches for ever; what an epoch is, the trainer decides.

    Each batch is ``{"A": Tensor, "B": Tensor, "paths_A": list[str], "paths_B": list[str]}``, the images float32
    [N, C, H, W] in [-1, 1] on `device`.
    """

    def __init__(
        self,
        config: DataConfig,
        paths_A: Sequence[Path],
        paths_B: Sequence[Path],
        *,
        channels_A: int = 3,
        channels_B: int = 3,
        batch_size: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        start_sample: int = 0,
        channels_last: bool = False,
    ) -> None:
        """Prepares the stream; the workers start with the first batch.

        Args:
            config: Geometry, order, workers and the policy for bad files. Its `direction` is not looked at: the
                paths come in the order in which the networks name the domains.
            paths_A: Files of domain A, checked before.
            paths_B: Files of domain B.
            channels_A: 1 (grey) or 3 (RGB), for the images of A.
            channels_B: The same for B.
            batch_size: Images of each domain per batch.
            seed: Seed of order and augmentation.
            device: Where the batches are wanted.
            start_sample: Number of the first sample.
            channels_last: Memory format of the images.
        """
        if batch_size < 1:
            raise UserError(f"--batch-size must be at least 1, got {batch_size}")
        self.samples = UnpairedSamples(config, paths_A, paths_B, (channels_A, channels_B), seed)
        self.batch_size, self.device, self.channels_last = batch_size, torch.device(device), channels_last
        self.workers = default_workers(self.device) if config.workers is None else config.workers
        self.skipped: dict[str, str] = {}
        """Files that went bad during training, under the policy "skip": path -> reason."""
        self._sample = start_sample
        self._batches: Iterator[dict[str, Any]] | None = None

    @property
    def epoch_size(self) -> int:
        """Samples per epoch: as set, or the size of the larger domain."""
        return self.samples.config.epoch_size or len(self.samples)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        """Returns the next batch.

        Raises:
            UserError: a file went bad under the policy "error"; the sentence names it.
        """
        if self._batches is None:
            self._batches = self._start()
        batch = next(self._batches)
        if "failure" in batch:
            self.close()
            raise UserError(batch["failure"])
        for path, reason in batch["skipped"]:
            if path not in self.skipped:
                log.warning("%s: %s; left out from here on", path, reason)
            self.skipped[path] = reason
        self._sample += self.batch_size
        images = {
            side: ops.from_uint8(batch[side].to(self.device, non_blocking=True), channels_last=self.channels_last)
            for side in ("A", "B")
        }
        return {**images, "paths_A": batch["paths_A"], "paths_B": batch["paths_B"]}

    def state_dict(self) -> dict[str, int]:
        """Returns the place in the stream: the number of the first sample that was not delivered."""
        return {"sample": self._sample}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes the stream up at `state`; what the workers had prepared is dropped."""
        self.close()
        self._sample = state["sample"]

    def close(self) -> None:
        """Stops the workers; the next batch would start them again where the stream stands."""
        self._batches = None  # the iterator owns the workers and joins them as it goes

    def __enter__(self) -> UnpairedLoader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> Iterator[dict[str, Any]]:
        return iter(
            DataLoader(
                self.samples,
                batch_size=self.batch_size,
                sampler=_From(self._sample),
                num_workers=self.workers,  # torch gives every worker a single thread
                collate_fn=_collate,
                pin_memory=self.device.type == "cuda",
                multiprocessing_context=_start_method(self.device) if self.workers else None,
                worker_init_fn=_leave_signals_to_the_trainer,
                generator=torch.Generator(),  # or it would draw from, and so move, the global one
            )
        )


def build_train_loader(
    config: TrainConfig,
    device: torch.device | str,
    *,
    multiple: int = 4,
    smallest: int = transforms.SMALLEST_SIDE,
) -> UnpairedLoader:
    """Indexes and checks the training images and returns their loader, before any model is built.

    Args:
        config: Where the images are, and what becomes of them.
        device: Where the batches go.
        multiple: What the networks need the sides of an image to be a multiple of.
        smallest: The least side that the networks can take, in pixels.

    Raises:
        UserError: folders missing, empty or the same; bad files, as the policy says; sizes that cannot work.
    """
    data = config.data
    if data.data is None:
        raise UserError("--data is missing: name the folder that holds trainA and trainB")
    min_side = transforms.check_geometry(data, multiple, smallest)
    checked = [
        check_images(
            paths[: data.max_dataset_size], on_bad=data.on_bad_image, min_side=min_side, cache_folder=data.data
        )
        for paths in index_pair(data.data, "train", data.direction)
    ]
    for error in (error for domain in checked for error in domain.bad):
        log.warning("left out: %s", error)
    for domain in checked:
        _refuse_small_samples(data, domain.good, domain.sizes, smallest)
        if config.optim.images_per_step > 1:
            _refuse_mixed_sizes(data, domain.good, domain.sizes)
    return UnpairedLoader(
        data,
        checked[0].good,
        checked[1].good,
        channels_A=config.model.channels_A,
        channels_B=config.model.channels_B,
        batch_size=config.optim.images_per_step,
        seed=config.run.seed,
        device=device,
        channels_last=config.run.channels_last,
    )


def default_workers(device: torch.device) -> int:
    """Processes that decode: few on the CPU, whose cores the training itself wants, up to 8 for a GPU."""
    return min(8 if device.type == "cuda" else 1, usable_cores() - 1)


class _From:
    """The numbers from `first` on, for ever."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return count(self.first)


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks the images to uint8 [N, H, W, C]; one failed sample fails the batch."""
    for sample in samples:
        if "failure" in sample:
            return sample
    return {
        **{side: torch.from_numpy(np.stack([s[side] for s in samples])) for side in ("A", "B")},
        **{paths: [s[paths] for s in samples] for paths in ("paths_A", "paths_B")},
        "skipped": [entry for s in samples for entry in s["skipped"]],
    }


def _start_method(device: torch.device) -> str:
    """A process that has opened CUDA must not be forked; on the CPU a fork starts at once and shares torch's pages."""
    wanted = "forkserver" if device.type == "cuda" else "fork"
    return wanted if wanted in multiprocessing.get_all_start_methods() else "spawn"


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C and the like reach a whole process group; the trainer answers them, and then ends its workers itself."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of one pass, int64 [size]."""
    return stream(seed, Purpose.ORDER, epoch).permutation(size)


def _refuse_small_samples(
    config: DataConfig, paths: Sequence[Path], sizes: Iterable[transforms.Size], smallest: int
) -> None:
    """An image much wider than high may become too low for the networks."""
    for path, size in zip(paths, sizes, strict=True):
        width, height = transforms.sample_size(size, config)
        if min(width, height) < smallest:
            raise UserError(
                f"{path} becomes {width}x{height} pixels and these networks need {smallest} at least: raise "
                f"--load-size, or use --preprocess scale_width_and_crop"
            )


def _refuse_mixed_sizes(config: DataConfig, paths: Sequence[Path], sizes: Iterable[transforms.Size]) -> None:
    """The images of a batch are stacked, so they must come out at one size."""
    first: tuple[Path, transforms.Size] | None = None
    for path, size in zip(paths, sizes, strict=True):
        became = transforms.sample_size(size, config)
        first = first or (path, became)
        if became != first[1]:
            raise UserError(
                f"{path} becomes {became[0]}x{became[1]} pixels and {first[0]} {first[1][0]}x{first[1][1]}, which do "
                f"not fit one batch; use --batch-size 1 without --grad-accumulation, or --preprocess resize_and_crop"
            )
