"""Which batches a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cyclegan_fast.errors import UserError

Shape = tuple[int, int, int]
"""Of a batch: images, height, width."""


class Shapes(NamedTuple):
    """The batches that an engine serves: from `min` to `max` in each of images, height and width."""

    min: Shape
    opt: Shape
    """The shape that it is optimised for."""
    max: Shape


@dataclass(frozen=True, kw_only=True)
class ShapeLimits:
    """The shapes of batches that a network takes."""

    size_divisor: int = 1
    """Sides must be multiples of this, in pixels; a side that `shapes` fixes need not be."""
    min_size: int = 1
    """Minimum of both sides, in pixels."""
    shapes: Shapes | None = None
    """The range that an engine was built for; None: everything that the two others allow."""

    @property
    def steps(self) -> tuple[int, int]:
        """In what steps the height and the width may grow, in pixels: 1 of a side that is fixed."""
        if self.shapes is None:
            return self.size_divisor, self.size_divisor
        low, high = self.shapes.min[1:], self.shapes.max[1:]
        height, width = (1 if a == b else self.size_divisor for a, b in zip(low, high, strict=True))
        return height, width

    @property
    def min_sides(self) -> tuple[int, int]:
        """The smallest (height, width), in pixels."""
        return (self.min_size, self.min_size) if self.shapes is None else self.shapes.min[1:]

    @property
    def min_batch(self) -> int:
        """The smallest number of images."""
        return 1 if self.shapes is None else self.shapes.min[0]

    def batch_size(self, wanted: int) -> int:
        """How many of `wanted` images of one size go into one batch."""
        return wanted if self.shapes is None else min(wanted, self.shapes.max[0])

    def fitting_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest (height, width) from these on that the network takes; larger than `shapes` if these are."""
        sides = zip((height, width), self.min_sides, self.steps, strict=True)
        height, width = (-(-max(side, low) // step) * step for side, low, step in sides)
        return height, width

    def clamp(self, shape: Shape) -> Shape:
        """The nearest batch to (images, height, width) that is served."""
        images, height, width = shape[0], *self.fitting_size(*shape[1:])
        if self.shapes is None:
            return images, height, width
        ends = zip(self.shapes.min, (images, height, width), self.shapes.max, strict=True)
        images, height, width = (min(max(size, low), high) for low, size, high in ends)
        return images, height, width

    def check(self, shape: Shape, name: str) -> None:
        """Refuses a batch outside of `shapes`.

        Raises:
            UserError: With what the engine called `name` was built for.
        """
        if self.shapes is None:
            return
        if not all(
            low <= size <= high for low, size, high in zip(self.shapes.min, shape, self.shapes.max, strict=True)
        ):
            raise UserError(
                f"{name} was built for batches (images, height, width) from {self.shapes.min} to {self.shapes.max}, "
                f"got {shape}: build it again for shapes that include it, or cut larger images (tile statistics)"
            )

    def allow_size(self, height: int, width: int) -> bool:
        """Whether the sides are large enough and go in the right steps."""
        sides = zip((height, width), self.min_sides, self.steps, strict=True)
        return all(side >= min(low, self.min_size) and side % step == 0 for side, low, step in sides)
