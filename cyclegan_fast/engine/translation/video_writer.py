"""Writing a video: H.264 with the times of the source's frames, and the source's sound."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan_fast.engine.translation.video_reader import (
    PIXEL_FORMATS,
    VideoReader,
    decode,
    demux,
    ffmpeg_url,
    import_av,
    open_video,
)
from cyclegan_fast.files import building_file

_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_COPIED_SOUND = {"aac", "mp3", "ac3"}  # that every such file may hold; others become AAC
_AAC_FRAME, _AAC_RATE = 1024, 48_000  # samples; samples a second where AAC does not know the source's
_AAC_BIT_RATE = 192_000
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}  # by channels
_CRF = "18"
_BT709, _LIMITED = 1, 1  # as players read it from the file


@contextlib.contextmanager
def open_writer(source: Path, target: Path, reader: VideoReader, channels: int) -> Iterator[VideoWriter]:
    """A writer of a file that appears when the block ends, and not if it fails."""
    av = import_av()
    with building_file(target) as partial, _ffmpeg_errors():
        exact = {"fflags": "+bitexact"}  # the same bytes each time: Matroska's numbers would be random
        container = av.open(ffmpeg_url(partial), "w", format=_MUXERS[target.suffix.lower()], options=exact)
        with container, open_video(source) as again:
            writer = VideoWriter(container, again, reader, channels)
            yield writer
            writer.finish()


@contextlib.contextmanager
def _ffmpeg_errors() -> Iterator[None]:
    """Turns FFmpeg's own errors into the system's."""
    try:
        yield
    except import_av().error.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


class VideoWriter:
    """Writes frames as H.264, and the sound of the source beside them."""

    def __init__(self, container: Any, source: Any, reader: VideoReader, channels: int) -> None:
        self._av, self._container, self._source, self._reader = import_av(), container, source, reader
        self._format = PIXEL_FORMATS[channels]
        self._stream: Any = None  # from the first frame on, which gives the size
        self._sound: Iterator[Any] = iter(())  # packets
        self._waiting: Any = None  # the next of them

    def write(self, frames: list[np.ndarray], times: list[int]) -> None:
        """Writes uint8 [H, W, C] each, shown at these ticks of the source's stream."""
        for pixels, pts in zip(frames, times, strict=True):
            if self._stream is None:
                self._start(*pixels.shape[:2])
            image = pixels[..., 0] if self._format == "gray" else pixels
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=self._format)
            frame = frame.reformat(format=self._stream.pix_fmt, dst_colorspace=_BT709, dst_color_range=_LIMITED)
            frame.pts, frame.time_base = pts, self._reader.time_base
            self._container.mux(self._stream.encode(frame))
            self._copy_sound(float(pts * self._reader.time_base))

    def finish(self) -> None:
        """Writes what the encoder still holds, and the rest of the sound."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
            self._copy_sound(float("inf"))

    def _start(self, height: int, width: int) -> None:
        """Sets up both streams: none may be added once a packet is written."""
        stream = self._container.add_stream("libx264", rate=self._reader.rate, options={"crf": _CRF})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"  # the former halves the colours' size
        context = stream.codec_context
        context.time_base = self._reader.time_base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        if self._reader.aspect:
            context.sample_aspect_ratio = self._reader.aspect
        self._stream = stream
        if self._source.streams.audio:
            sound = self._source.streams.audio[0]
            copied = sound.codec_context.name.removesuffix("float") in _COPIED_SOUND
            self._sound = (_copied_sound if copied else _aac_sound)(self._source, self._container, self._reader)

    def _copy_sound(self, until: float) -> None:
        """Writes the packets up to that time, in seconds."""
        while (packet := self._waiting or next(self._sound, None)) is not None:
            self._waiting = packet
            if packet.dts is not None and float(packet.dts * packet.time_base) > until:
                return
            self._container.mux(packet)
            self._waiting = None


def _copied_sound(source: Any, target: Any, reader: VideoReader) -> Iterator[Any]:
    """The packets of the first sound stream, as they are, for a new stream of `target`; the video's start becomes 0."""
    stream = source.streams.audio[0]
    copy = target.add_stream_from_template(stream)

    def packets() -> Iterator[Any]:
        first = round(reader.start / stream.time_base)
        for packet in demux(source, stream, reader.report):
            if packet.dts is not None and packet.pts is not None:  # the last is empty
                packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, copy
                yield packet

    return packets()


def _aac_sound(source: Any, target: Any, reader: VideoReader) -> Iterator[Any]:
    """The same, encoded anew as AAC."""
    av, stream = import_av(), source.streams.audio[0]
    rate = stream.rate if stream.rate in av.codec.Codec("aac", "w").audio_rates else _AAC_RATE
    layout = stream.layout.name
    if layout.endswith("channels"):  # their places are not stored, as in an AVI of PCM
        layout = _LAYOUTS.get(stream.channels, "stereo")
    encoder = target.add_stream("aac", rate=rate, layout=layout, bit_rate=_AAC_BIT_RATE)
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=_AAC_FRAME)

    def packets() -> Iterator[Any]:
        for frame in decode(source, stream, reader.report):
            frame.pts = None if frame.pts is None else frame.pts - round(reader.start / frame.time_base)
            for part in resampler.resample(frame):
                yield from encoder.encode(part)
        for part in resampler.resample(None):
            yield from encoder.encode(part)
        yield from encoder.encode(None)

    return packets()
