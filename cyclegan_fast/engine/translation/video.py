"""Videos, frame by frame, through PyAV: real timestamps, the sound copied, H.264 out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.inference import infer
from cyclegan_fast.engine.tiling.tiling import Tiling
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import partial_beside, storage_errors
from cyclegan_fast.images import BadImageError
from cyclegan_fast.monitoring.progress import Progress

_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_PIXELS = {1: "gray", 3: "rgb24"}  # by channels
_COPIED_SOUND = {"aac", "mp3", "ac3"}  # that every such file may hold; others become AAC
_AAC_FRAME, _AAC_RATE = 1024, 48_000  # samples; samples a second where AAC does not know the source's
_AAC_BIT_RATE = 192_000
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}  # by channels
_CRF = "18"
_BT709, _LIMITED = 1, 1  # as players read it from the file
_WHOLE = 0.95  # of the frames that its header promises, from which a video counts as whole


class _Frame(NamedTuple):
    pixels: np.ndarray  # uint8 [H, W, C], upright
    pts: int  # when it is shown, in ticks of the stream


def translate_video(
    engine: Engine, source: Path, target: Path, *, batch_size: int, tiling: Tiling | None, progress: Progress
) -> str:
    """Translates a video into one with the same frames' times, shape of pixels and sound: H.264, with 8 bits.

    While a batch of frames is computed the next is read, and the last written.

    Args:
        engine: A generator of 8- or 16-bit grey or colour images.
        source: The file to read; of several video streams the first.
        target: The file to write, in one move: .mp4, .m4v, .mov or .mkv.
        batch_size: Frames that pass the network at a time.
        tiling: How large frames are cut, as for `infer`.
        progress: Called with the frames that are done, and about how many there are, if the header holds that.

    Returns:
        What should be known of the result; mostly nothing.

    Raises:
        BadImageError: It holds no video, or is cut off.
        UserError: PyAV is missing, the result cannot be written, or the generator makes no 8-bit images.
    """
    if any(form.channels not in _PIXELS or form.depth == "float" for form in (engine.in_format, engine.out_format)):
        raise BadImageError(source, "videos have grey or colour frames of 8 bits, which this generator does not take")
    done, written = 0, None
    with contextlib.ExitStack() as stack:
        reader = _Reader(stack.enter_context(_open(source)), source, engine.in_channels)
        writer = stack.enter_context(_writer(source, target, reader, engine.out_channels))
        reading, writing = (stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2))
        frames = reader.frames()
        following: Future[list[_Frame]] = reading.submit(_take, frames, batch_size)
        while batch := following.result():
            following = reading.submit(_take, frames, batch_size)
            outputs = infer(engine, [frame.pixels for frame in batch], batch_size=batch_size, tiling=tiling)
            if written is not None:
                written.result()
            written = writing.submit(writer.write, outputs, [frame.pts for frame in batch])
            done += len(batch)
            if reader.expected:
                progress(min(done, reader.expected), reader.expected)
        if written is not None:
            written.result()
        short = f"only {done} of about {reader.expected} frames can be decoded"
        if not done or (reader.damaged and done < _WHOLE * reader.expected):
            raise BadImageError(source, short + (f" ({reader.damaged})" if reader.damaged else ""))
    if reader.damaged:
        return f"parts are damaged: {reader.damaged}"
    return f"{short}: it may be cut off" if done < _WHOLE * reader.expected else ""


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


class _Reader:
    """The first video stream of an open file.

    Args:
        container: The file, opened by PyAV.
        path: Its path, for messages.
        channels: Of the frames, 1 or 3.
    """

    def __init__(self, container: Any, path: Path, channels: int) -> None:
        self._av, self._container, self._format = import_av(), container, _PIXELS[channels]
        if not container.streams.video:
            raise BadImageError(path, "it holds no video stream")
        self.stream = container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.time_base = Fraction(self.stream.time_base)  # seconds of a tick
        self.rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)  # frames a second, about
        self.start = Fraction(container.start_time or 0, 1_000_000)  # seconds
        self.expected = self.stream.frames or round(self._seconds() * self.rate)  # frames, about; 0 if unknown
        self._lies = False  # whether the frames read so far are stored on their side
        self.damaged = ""  # what was wrong with the first packet or frame that is

    def frames(self) -> Iterator[_Frame]:
        """All frames that can be decoded, as they are shown, upright."""
        shown, step = -1, max(1, round(1 / (self.rate * self.time_base)))
        first = round(self.start / self.time_base)
        for frame in self._decode():
            ticks = frame.pts
            shown = max(shown + 1, shown + step if ticks is None else ticks - first)
            yield _Frame(self._upright(frame), shown)

    @property
    def aspect(self) -> Fraction | None:
        """The width of a pixel over its height, of an upright frame; None if unknown."""
        aspect = self.stream.sample_aspect_ratio
        return 1 / aspect if aspect and self._lies else aspect

    def _decode(self) -> Iterator[Any]:
        packets = self._container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
                decoded = packet.decode()
            except (StopIteration, self._av.error.EOFError):
                return
            except self._av.error.FFmpegError as error:
                if self.damaged == "":
                    self.damaged = error.strerror or type(error).__name__
                if not isinstance(error, self._av.error.InvalidDataError):
                    return
                continue
            for frame in decoded:
                if frame.is_corrupt and not self.damaged:
                    self.damaged = f"the frame at {float(frame.time or 0):.2f} s cannot be decoded completely"
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
            hours, minutes, seconds = map(float, tag.split(":"))
            return 3600 * hours + 60 * minutes + seconds
        return (self._container.duration or 0) / 1_000_000


class _Writer:
    """Writes frames as H.264, and the sound of the source beside them."""

    def __init__(self, container: Any, source: Any, reader: _Reader, channels: int) -> None:
        self._av, self._container, self._source, self._reader = import_av(), container, source, reader
        self._format = _PIXELS[channels]
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
            self._sound = (_copied_sound if copied else _aac_sound)(self._source, self._container, self._reader.start)

    def _copy_sound(self, until: float) -> None:
        """Writes the packets up to that time, in seconds."""
        while (packet := self._waiting or next(self._sound, None)) is not None:
            self._waiting = packet
            if packet.dts is not None and float(packet.dts * packet.time_base) > until:
                return
            self._container.mux(packet)
            self._waiting = None


def _copied_sound(source: Any, target: Any, start: Fraction) -> Iterator[Any]:
    """The packets of the first sound stream, as they are, for a new stream of `target`; `start` becomes 0."""
    stream = source.streams.audio[0]
    copy = target.add_stream_from_template(stream)

    def packets() -> Iterator[Any]:
        first = round(start / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:  # the last is empty
                packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, copy
                yield packet

    return packets()


def _aac_sound(source: Any, target: Any, start: Fraction) -> Iterator[Any]:
    """The same, encoded anew as AAC."""
    av, stream = import_av(), source.streams.audio[0]
    rate = stream.rate if stream.rate in av.codec.Codec("aac", "w").audio_rates else _AAC_RATE
    layout = stream.layout.name
    if layout.endswith("channels"):  # their places are not stored, as in an AVI of PCM
        layout = _LAYOUTS.get(stream.channels, "stereo")
    encoder = target.add_stream("aac", rate=rate, layout=layout, bit_rate=_AAC_BIT_RATE)
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=_AAC_FRAME)

    def packets() -> Iterator[Any]:
        for frame in source.decode(stream):
            frame.pts = None if frame.pts is None else frame.pts - round(start / frame.time_base)
            for part in resampler.resample(frame):
                yield from encoder.encode(part)
        for part in resampler.resample(None):
            yield from encoder.encode(part)
        yield from encoder.encode(None)

    return packets()


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    av = import_av()
    try:
        container = av.open(_url(path))
    except (av.error.FFmpegError, OSError) as error:
        raise BadImageError(path, f"it cannot be read as a video ({error.strerror})") from error
    with container:
        yield container


@contextlib.contextmanager
def _writer(source: Path, target: Path, reader: _Reader, channels: int) -> Iterator[_Writer]:
    """A writer of a file that appears when the block ends, and not if it fails."""
    av, partial = import_av(), partial_beside(target)
    try:
        with _storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            container = av.open(_url(partial), "w", format=_MUXERS[target.suffix.lower()])
            with container, _open(source) as again:
                writer = _Writer(container, again, reader, channels)
                yield writer
                writer.finish()
            partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _storage_errors(target: Path) -> Iterator[None]:
    """`storage_errors`, of FFmpeg's own errors, too."""
    with storage_errors(f"cannot write {target}"):
        try:
            yield
        except import_av().error.FFmpegError as error:
            raise OSError(error.errno, error.strerror) from error


def _take(frames: Iterator[_Frame], count: int) -> list[_Frame]:
    return list(islice(frames, count))


def _url(path: Path) -> str:
    """A name that FFmpeg takes for a file, whatever characters it starts with."""
    return f"file:{path}"
