"""The reader: a small network that reads the class of every pixel out of a photo of a scene.

It plays the part of the FCN in the paper's score of labels -> photo: a generated photo is good if a reader trained on
real photos recovers the label map from it. It is never trained on the scenes it reads.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclegan_fast import ops
from cyclegan_fast.data.scenes import CLASSES, class_map, draw_scene, render_photo

READING_SIDE = 64  # pixels; larger photos are read at this size, smaller ones at their own
_SEED_OFFSET = 1_000_003  # keeps the reader's scenes apart from those of a data set with the same seed
_SCENES, _STEPS, _BATCH, _LR = 200, 200, 8, 1e-2


class Reader(nn.Module):
    """Three convolutions at half the photo's scale, each seeing farther, joined with one at full scale."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.fine = nn.Sequential(*_conv(3, width))
        self.wide = nn.Sequential(
            *_conv(width, 3 * width, stride=2),
            *_conv(3 * width, 3 * width, dilation=2),
            *_conv(3 * width, 3 * width, dilation=4),
        )
        self.classify = nn.Conv2d(4 * width, len(CLASSES), 3, padding=1)

    def forward(self, photos: Tensor) -> Tensor:
        """Maps photos [N, 3, h, w] in [-1, 1] to logits [N, classes, h, w]."""
        fine = self.fine(photos)
        wide = F.interpolate(self.wide(fine), size=fine.shape[-2:], mode="bilinear")
        return self.classify(torch.cat([fine, wide], dim=1))

    @torch.no_grad()
    def read(self, photos: Tensor) -> Tensor:
        """Returns the class of every pixel, int64 [N, h, w], at the reading size of the photos [N, 3, H, W]."""
        return self(to_reading_size(photos)).argmax(dim=1)


def to_reading_size(images: Tensor) -> Tensor:
    """Shrinks square images [N, C, H, W] to the side at which they are read, by the mean over areas."""
    side = min(READING_SIDE, images.shape[-1])
    return images if side == images.shape[-1] else F.interpolate(images, size=(side, side), mode="area")


def train_reader(size: int, seed: int) -> Reader:
    """Trains a reader on real pairs for photos of `size` pixels; the same bits for the same threads and arguments.

    Args:
        size: Side of the photos that it will read.
        seed: The data set's seed; the reader learns from other scenes than that seed's.

    Returns:
        The reader, in evaluation mode.
    """
    photos, truth = _training_pairs(size, seed + _SEED_OFFSET)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader()
        optimizer = torch.optim.Adam(reader.parameters(), _LR)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=_STEPS)
        for _ in range(_STEPS):
            chosen = torch.randint(len(photos), (_BATCH,))
            optimizer.zero_grad()
            F.cross_entropy(reader(photos[chosen]), truth[chosen]).backward()
            optimizer.step()
            schedule.step()
    return reader.eval()


def _training_pairs(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Renders photos [N, 3, h, w] in [-1, 1], shrunk to the reading size, and their class maps [N, h, w]."""
    side = min(READING_SIDE, size)
    scenes = [draw_scene(seed, number) for number in range(_SCENES)]
    photos = [to_reading_size(ops.from_uint8(torch.from_numpy(render_photo(scene, size))[None])) for scene in scenes]
    truth = np.stack([class_map(scene, side) for scene in scenes])
    pixels = torch.cat(photos).contiguous(memory_format=torch.channels_last)  # the faster layout for so few channels
    return pixels, torch.from_numpy(truth).long()


def _conv(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()
