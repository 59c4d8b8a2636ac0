"""Reading a video: its frames as they are shown, their times, and what is damaged."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclegan_fast.errors import UserError
from cyclegan_fast.images import BadImageError

PIXEL_FORMATS = {1: "gray", 3: "rgb24"}
"""Of 8-bit frames, by their channels."""


class Frame(NamedTuple):
    """A decoded frame."""

    pixels: np.ndarray
    """uint8 [H, W, C], upright."""
    pts: int
    """When it is shown, in ticks of the stream, from its start on."""


def import_av() -> Any:
    """The package av.

    Raises:
        UserError: It is missing.
    """
    try:
        import av
    except ImportError as error:
        raise UserError("videos need PyAV: pip install 'cyclegan-fast[video]'") from error
    return av


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[Any]:
    """Opens a file with PyAV.

    Raises:
        BadImageError: It is none that FFmpeg reads.
    """
    av = import_av()
    try:
        container = av.open(ffmpeg_url(path), metadata_errors="replace")  # titles of any encoding
    except (av.error.FFmpegError, OSError) as error:
        raise BadImageError(path, f"it cannot be read as a video ({error.strerror})") from error
    with container:
        yield container


def demux(container: Any, stream: Any, report: Callable[[str], None]) -> Iterator[Any]:
    """All packets of a stream up to the first that cannot be read, which is reported."""
    error = import_av().error
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except error.EOFError:
            return
        except error.FFmpegError as reason:
            report(reason.strerror or type(reason).__name__)
            return
        if packet is None:
            return
        yield packet


def decode(container: Any, stream: Any, report: Callable[[str], None]) -> Iterator[Any]:
    """All frames of a stream; packets that cannot be decoded are reported and left out."""
    error = import_av().error
    for packet in demux(container, stream, report):
        try:
            frames = packet.decode()
        except error.EOFError:
            return
        except error.FFmpegError as reason:
            report(reason.strerror or type(reason).__name__)
            continue
        yield from frames


class VideoReader:
    """The first video stream of an open file.

    Args:
        container: The file, opened by PyAV.
        path: Its path, for messages.
        channels: Of the frames, 1 or 3.
    """

    def __init__(self, container: Any, path: Path, channels: int) -> None:
        self._container, self._format = container, PIXEL_FORMATS[channels]
        if not container.streams.video:
            raise BadImageError(path, "it holds no video stream")
        self.stream = container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.time_base = Fraction(self.stream.time_base)  # seconds of a tick
        self.rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)  # frames a second, about
        self.start = Fraction(container.start_time or 0, 1_000_000)  # seconds
        self.expected = self.stream.frames or round(self._seconds() * self.rate)  # frames, about; 0 if unknown
        self._lies = False  # whether the frames read so far are stored on their side
        self.damaged = ""  # what is wrong with the first damaged packet or frame

    def frames(self) -> Iterator[Frame]:
        """All frames that can be decoded, as they are shown, upright."""
        shown, step = -1, max(1, round(1 / (self.rate * self.time_base)))
        first = round(self.start / self.time_base)
        for frame in self._decode():
            ticks = frame.pts
            shown = max(shown + 1, shown + step if ticks is None else ticks - first)
            yield Frame(self._upright(frame), shown)

    def report(self, damage: str) -> None:
        """Notes what is wrong with a packet or frame, of the sound, too."""
        self.damaged = self.damaged or damage

    @property
    def aspect(self) -> Fraction | None:
        """The width of a pixel over its height, of an upright frame; None if unknown."""
        aspect = self.stream.sample_aspect_ratio
        return 1 / aspect if aspect and self._lies else aspect

    def _decode(self) -> Iterator[Any]:
        for frame in decode(self._container, self.stream, self.report):
            if frame.is_corrupt:
                self.report(f"the frame at {float(frame.time or 0):.2f} s cannot be decoded completely")
            yield frame

    def _upright(self, frame: Any) -> np.ndarray:
        pixels = frame.to_ndarray(format=self._format)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        quarters = round(frame.rotation / 90)  # counter-clockwise
        self._lies = quarters % 2 == 1
        return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters % 4 else pixels

    def _seconds(self) -> float:
        if self.stream.duration:
            return float(self.stream.duration * self.time_base)
        if tag := self.stream.metadata.get("DURATION"):  # of Matroska: hours:minutes:seconds
            with contextlib.suppress(ValueError):  # a damaged one
                hours, minutes, seconds = map(float, tag.split(":"))
                if math.isfinite(total := 3600 * hours + 60 * minutes + seconds):
                    return total
        return (self._container.duration or 0) / 1_000_000


def ffmpeg_url(path: Path) -> str:
    """A name that FFmpeg takes for a file, whatever characters it starts with."""
    return f"file:{path}"
