"""What the generators make of the held-out images: translated and back, without a trace in the training."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cyclegan_fast.data.held_out import HeldOutImage
from cyclegan_fast.images.tensors import as_tensor, to_model_range
from cyclegan_fast.memory import is_out_of_memory
from cyclegan_fast.monitoring.grids import to_image
from cyclegan_fast.monitoring.samples import COLUMNS, COLUMNS_OF_PAIRS, SampleRow
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.results import as_full_precision

log = logging.getLogger(__name__)


class SampleTranslator:
    """Translates the held-out images with the generators as a checkpoint of the moment would hold them.

    It runs eagerly, one image at a time, and changes nothing that a training step reads: no weight, no running
    statistics, no random numbers, no memory of a CUDA graph. cuDNN chooses its algorithms as in training, with which
    it shares them: a choice by another rule would stay.

    Args:
        step: The training step, whose generators and precision are used.
        images: Of A and of B.
        channels_last: The memory format that the generators want.
    """

    def __init__(
        self, step: TrainingStep, images: tuple[Sequence[HeldOutImage], Sequence[HeldOutImage]], *, channels_last: bool
    ) -> None:
        self.step, self.images, self.channels_last = step, images, channels_last
        networks = step.inference_networks
        generators = step.model.generators.items()
        self.generators = {direction[0]: networks[name] for name, direction in generators}  # by the domain they take

    def rows(self) -> list[SampleRow]:
        """Returns the images of A, then those of B, each with its translation and its reconstruction.

        Of a model of one direction they are those of A, each with its translation and its partner.

        Where the device's memory is too small for it, as training needs it all, a warning is logged and there are none.
        """
        try:
            return [
                SampleRow(domain, image.name, [to_image(pixels) for pixels in self._row(domain, i)])
                for domain, images in zip("AB", self.images, strict=True)
                if domain in self.generators
                for i, image in enumerate(images)
            ]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            log.warning("no sample grid: the memory is full; --sample-every 0 leaves them out")
            return []

    def _row(self, domain: str, i: int) -> list[Tensor]:
        """Of the i-th image of a domain, what is translated, what comes of it, and what that is compared with."""
        images = self.translate(domain, self.images["AB".index(domain)][i])
        if self.step.model.reconstructs:
            return images
        return [*images, self.as_input(self.images[1][i])[0]]

    @property
    def columns(self) -> tuple[str, ...]:
        """What the images of a row are."""
        return COLUMNS if self.step.model.reconstructs else COLUMNS_OF_PAIRS

    def as_input(self, image: HeldOutImage) -> Tensor:
        """Returns an image as a network takes it, [1, C, H, W] in [-1, 1]."""
        pixels = as_tensor(image.pixels)[None].to(self.step.device)
        return to_model_range(pixels, channels_last=self.channels_last)

    def translate(self, domain: str, image: HeldOutImage) -> list[Tensor]:
        """Returns the input [C, H, W], its translation [C', H, W], and its reconstruction [C, H, W] if there is one."""
        generator, inverse = self.generators[domain], self.generators.get("B" if domain == "A" else "A")
        with torch.inference_mode(), self.step.autocast(), _evaluation(generator, inverse or generator):
            real = self.as_input(image)
            # forward: a call of a compiled network would compile it anew for this mode and this shape
            translation = as_full_precision(generator.forward(real))
            back = [] if inverse is None else [as_full_precision(inverse.forward(translation))[0]]
            return [real[0], translation[0], *back]

    def translate_back(self, domain: str, translation: Tensor) -> Tensor:
        """Returns the reconstruction [C, H, W] of an image of `domain` by its translation [C', H, W], of any values."""
        inverse = self.generators["B" if domain == "A" else "A"]
        with torch.inference_mode(), self.step.autocast(), _evaluation(inverse):
            layout = torch.channels_last if self.channels_last else torch.contiguous_format
            return as_full_precision(inverse.forward(translation[None].contiguous(memory_format=layout)))[0]


@contextlib.contextmanager
def _evaluation(*networks: nn.Module) -> Iterator[None]:
    """Neither dropout nor new running statistics."""
    modes = [network.training for network in networks]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for network, training in zip(networks, modes, strict=True):
            network.train(training)
