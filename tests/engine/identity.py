"""An engine whose results are known."""

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.engine import Engine, EngineInfo, ShapeLimits


class Identity(Engine):
    """Returns its input, each pixel `scale` times in both directions, and remembers the shapes that it was run on."""

    def __init__(self, channels=3, out_channels=None, size_divisor=4, min_size=8, shapes=None, scale=1):
        out_channels = out_channels or channels
        super().__init__(
            EngineInfo(
                name="identity",
                device="cpu",
                precision="fp32",
                direction="AtoB",
                in_format=PixelFormat(channels=channels),
                out_format=PixelFormat(channels=out_channels),
                limits=ShapeLimits(size_divisor=size_divisor, min_size=min_size, shapes=shapes),
            )
        )
        self.seen, self.scale = [], scale

    def _compute(self, batch):
        self.seen.append(tuple(batch.shape))
        if self.out_channels != self.in_channels:
            batch = batch[:, :1].expand(-1, self.out_channels, -1, -1)
        return batch.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
