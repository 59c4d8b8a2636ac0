"""What every loader is: an endless stream of batches on the training device, that can be resumed anywhere."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.data.loaders.prefetch import Prefetched, WaitCancelledError
from cyclegan_fast.data.loaders.samples import Samples
from cyclegan_fast.errors import UserError

log = logging.getLogger(__name__)

Batch = dict[str, Any]


class Loader(ABC):
    """Yields batches for ever; what an epoch is, the trainer decides.

    Each batch is ``{"A": Tensor, "B": Tensor, "paths_A": list[str], "paths_B": list[str]}``, the images float32
    [N, C, H, W] in [-1, 1] on `device`. Every loader gives the same samples in the same order.

    Args:
        samples: What the batches are made of.
        batch_size: Images of each domain per batch.
        device: Where the batches are wanted.
        channels_last: Memory format of the images.
        start_sample: Number of the first sample.
    """

    name = ""
    """What `--loader` calls it."""
    fix = "use --loader torch"
    """What helps where it cannot serve."""
    auto_devices: tuple[str, ...] = ("cpu", "cuda")
    """Kinds of device for which `--loader auto` may take it."""

    @classmethod
    def why_not(cls, samples: Samples, device: torch.device) -> str | None:
        """Returns why this loader cannot serve `samples` on `device`, to end a sentence; None if it can."""
        return None

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int = 1,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
        start_sample: int = 0,
    ) -> None:
        self.samples, self.batch_size = samples, batch_size
        self.device, self.channels_last = torch.device(device), channels_last
        self.skipped: dict[str, str] = {}
        """Images that went bad during training, under the policy "skip": file -> reason."""
        self._sample = start_sample
        self._cancelled: Callable[[], bool] = lambda: False
        self._batches: Iterator[Batch] | None = None

    @property
    def description(self) -> str:
        """What a user wants to know of this loader, in a few words."""
        return ""

    def prepare(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Starts what prepares batches, so that the first one need not wait for what is done once and takes long.

        Args:
            cancelled: Asked now and then, also whenever a batch is waited for from now on: True ends it early, and a
                batch that is wanted all the same begins it anew.

        Raises:
            UserError: an image went bad under the policy "error".
        """
        self._cancelled = cancelled
        if self._batches is None:
            self._batches = self.start(self._sample)

    @abstractmethod
    def start(self, sample: int) -> Iterator[Batch]:
        """Yields what is prepared ahead: raw batches from that sample number on, for ever; see `Samples.numbers`.

        Each holds ``paths_A``, ``paths_B``, ``skipped`` (file and reason of images that went bad), and whatever
        `images_of` makes the images from; or ``failure``, a sentence, in the place of all that: an exception from a
        worker would arrive wrapped in the worker's traceback.
        """

    @abstractmethod
    def images_of(self, raw: Batch, side: str) -> Tensor:
        """Returns the images of one side ("A" or "B") of a raw batch, ready on the device for the current stream."""

    @property
    def epoch_size(self) -> int:
        """Samples per epoch, of all training processes together: as set, or the size of the larger domain."""
        return self.samples.config.epoch_size or len(self.samples)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Returns the next batch.

        Raises:
            UserError: an image went bad under the policy "error"; the sentence names it.
            WaitCancelledError: `prepare` was given a way to cancel, and so it was while no batch was ready.
        """
        if self._batches is None:
            self.prepare(self._cancelled)
        if self._batches is None:
            raise WaitCancelledError
        raw = self._batches.take(self._cancelled) if isinstance(self._batches, Prefetched) else next(self._batches)
        if "failure" in raw:
            self.close()
            raise UserError(raw["failure"])
        for file, reason in raw["skipped"]:
            if file not in self.skipped:
                log.warning("%s: %s; left out from here on", file, reason)
            self.skipped[file] = reason
        self._sample += self.batch_size * self.samples.world
        images = {side: self.images_of(raw, side) for side in ("A", "B")}
        return {**images, "paths_A": raw["paths_A"], "paths_B": raw["paths_B"]}

    def state_dict(self) -> dict[str, int]:
        """Returns the position in the stream: the number of the first sample that was not delivered.

        It is that of all processes together, which go in step: any of them may keep it for all.
        """
        return {"sample": self._sample}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resumes the stream at `state`; what was prepared is dropped."""
        self.close()
        self._sample = state["sample"]

    def close(self) -> None:
        """Stops what prepares batches; the next one would start it again where the stream stands."""
        batches, self._batches = self._batches, None
        if isinstance(batches, Prefetched | Generator):
            batches.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
