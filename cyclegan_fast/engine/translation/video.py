"""Videos, frame by frame, through the program ffmpeg."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.inference import infer
from cyclegan_fast.engine.tiling.strips import ProgressCallback
from cyclegan_fast.engine.tiling.tiles import Tiling
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import partial_beside, storage_errors
from cyclegan_fast.images import BadImageError

_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_PIXELS = {1: "gray", 3: "rgb24"}  # by channels
_COPIED = {"aac", "mp3", "ac3"}  # kinds of sound that every such file may hold; others become AAC
# How red, green and blue become what a video stores, and that players are told so.
_COLOURS = "scale=out_color_matrix=bt709,setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"
_FAST = 120  # frames a second, more than which are counted before they are believed
_WHOLE = 0.95  # of the frames that its duration promises, from which a video counts as whole


class _Video(NamedTuple):
    width: int
    height: int
    rate: Fraction  # frames a second
    aspect: str  # width of a pixel over its height, as n/d; empty if the file does not say
    sound: str  # the kind of its first stream of sound
    frames: int  # about; 0 if the file does not say


def translate_video(
    engine: Engine, source: Path, target: Path, *, batch_size: int, tiling: Tiling | None, follow: ProgressCallback
) -> str:
    """Translates a video into one of the same size, frame rate and sound: H.264, with 8 bits.

    While a batch of frames is computed the next is read, and the last written.

    Args:
        engine: A generator of 8- or 16-bit grey or colour images.
        source: The file to read; of several video streams the first.
        target: The file to write, in one move: .mp4, .m4v, .mov or .mkv.
        batch_size: Frames that pass the network at a time.
        tiling: How large frames are cut, as for `infer`.
        follow: Is told the share that is done, as it grows.

    Returns:
        What should be known of the result; mostly nothing.

    Raises:
        BadImageError: It holds no video, or is cut off.
        UserError: ffmpeg is missing or cannot write the result, or the generator makes no 8-bit images.
    """
    pixel_formats = (engine.in_format, engine.out_format)
    if any(pixel_format.channels not in _PIXELS or pixel_format.depth == "float" for pixel_format in pixel_formats):
        raise BadImageError(source, "videos have grey or colour frames of 8 bits, which this generator does not take")
    video = _probe(source)
    done = 0
    with contextlib.ExitStack() as stack:
        frames, complaints = stack.enter_context(_decoder(source, video, engine.in_channels))
        write = stack.enter_context(_encoder(source, target, video, engine.out_channels))
        reading = stack.enter_context(ThreadPoolExecutor(1))
        writing = stack.enter_context(ThreadPoolExecutor(1))
        following, written = reading.submit(_take, frames, batch_size), None
        while chunk := following.result():
            following = reading.submit(_take, frames, batch_size)
            made = infer(engine, chunk, batch_size=batch_size, tiling=tiling)
            if written is not None:
                written.result()
            written = writing.submit(write.writelines, [frame.tobytes() for frame in made])
            done += len(chunk)
            if video.frames:
                follow(min(done / video.frames, 1.0))
        if written is not None:
            written.result()
        said = complaints()
        short = f"only {done} of about {video.frames} frames can be decoded"
        if not done or (said and done < _WHOLE * video.frames):
            raise BadImageError(source, f"{short} ({said})")
    if said:
        return f"ffmpeg says: {said}"
    return f"{short}: it may be cut off" if done < _WHOLE * video.frames else ""


def _take(frames: Iterator[np.ndarray], count: int) -> list[np.ndarray]:
    return list(islice(frames, count))


def _probe(source: Path) -> _Video:
    """Decodes one frame, as ffmpeg turns it upright: the stream that comes tells its size, rate and aspect."""
    words = ["-i", _url(source), "-map", "0:v:0", "-frames:v", "1", "-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "-"]
    command = [find_ffmpeg(), "-hide_banner", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace")
    head = re.match(rb"YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+)(?:.*? A([1-9]\d*):([1-9]\d*))?", done.stdout)
    if head is None:
        raise BadImageError(source, f"ffmpeg cannot read it ({_last_line(said)})")
    width, height, over, under = map(int, head.groups()[:4])
    rate = Fraction(over, under)
    aspect = f"{int(head[5])}/{int(head[6])}" if head[5] else ""
    sound = re.search(r"Stream .*: Audio: (\w+)", said)
    long = re.search(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", said)
    seconds = int(long[1]) * 3600 + int(long[2]) * 60 + float(long[3]) if long else 0.0
    if rate > _FAST and seconds:  # a guess, of a video whose frames come at any time, in milliseconds say
        rate = Fraction(_count(source) / seconds).limit_denominator(1001)
    return _Video(width, height, rate, aspect, sound[1] if sound else "", round(seconds * rate))


def _count(source: Path) -> int:
    """The frames that are stored, without decoding them."""
    words = ["-i", _url(source), "-map", "0:v:0", "-c", "copy", "-f", "null", "-"]
    command = [find_ffmpeg(), "-hide_banner", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    counts = re.findall(rb"frame=\s*(\d+)", done.stderr)
    if not counts or not int(counts[-1]):
        said = done.stderr.decode(errors="replace")
        raise BadImageError(source, f"its frames cannot be counted ({_last_line(said)})")
    return int(counts[-1])


@contextlib.contextmanager
def _decoder(source: Path, video: _Video, channels: int) -> Iterator[tuple[Iterator[np.ndarray], Callable[[], str]]]:
    """Frames, uint8 [H, W, C], at a constant rate; and, once they have come, ffmpeg's last complaint, if any."""
    words = ["-i", _url(source), "-map", "0:v:0", "-r", str(video.rate), "-f", "rawvideo"]
    words += ["-pix_fmt", _PIXELS[channels], "-"]
    with _running(words, stdout=subprocess.PIPE) as (process, errors):
        assert process.stdout is not None
        pipe, shape = process.stdout, (video.height, video.width, channels)
        size = video.height * video.width * channels

        def frames() -> Iterator[np.ndarray]:
            while len(content := pipe.read(size)) == size:
                yield np.frombuffer(bytearray(content), np.uint8).reshape(shape)

        def complaint() -> str:
            failed, said = process.wait() != 0, _said(errors)
            return _last_line(said) if said.strip() or failed else ""

        yield frames(), complaint


@contextlib.contextmanager
def _encoder(source: Path, target: Path, video: _Video, channels: int) -> Iterator[IO[bytes]]:
    """Takes the bytes of frames; the sound, if there is any, comes from the source."""
    partial = partial_beside(target)
    even = video.width % 2 == video.height % 2 == 0  # the usual format halves the colours' size
    frames = ["-f", "rawvideo", "-pix_fmt", _PIXELS[channels], "-s", f"{video.width}x{video.height}"]
    frames += ["-r", str(video.rate), "-i", "-"]
    sound = ["-c:a", "copy"] if video.sound in _COPIED else ["-c:a", "aac", "-b:a", "192k"]
    filters = _COLOURS + (f",setsar={video.aspect}" if video.aspect else "")
    words = [*frames, "-i", _url(source), "-map", "0:v", "-map", "1:a:0?", *sound, "-c:v", "libx264", "-crf", "18"]
    words += ["-vf", filters, "-pix_fmt", "yuv420p" if even else "yuv444p"]
    words += ["-f", _MUXERS[target.suffix.lower()], "-y", _url(partial)]
    with storage_errors(f"cannot write {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _running(words, stdin=subprocess.PIPE) as (process, errors):
            assert process.stdin is not None
            try:
                yield process.stdin
                process.stdin.close()
                broken = process.wait() != 0
            except BrokenPipeError:
                broken = True
            if broken:
                process.wait()
                raise UserError(f"cannot write {target}: ffmpeg says: {_last_line(_said(errors))}")
        with storage_errors(f"cannot write {target}"):
            partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _running(
    words: list[str], *, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """ffmpeg at work, and the file that holds what it says; it ends with the block at the latest."""
    with tempfile.TemporaryFile() as errors:  # no pipe, which would fill up and stop it
        command = [find_ffmpeg(), "-hide_banner", "-nostats", "-loglevel", "error", *words]
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=errors)
        try:
            yield process, errors
        finally:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            process.wait()


def find_ffmpeg() -> str:
    """The program's path.

    Raises:
        UserError: It is missing.
    """
    found = shutil.which("ffmpeg")
    if found is None:
        raise UserError("videos need the program ffmpeg: install it (apt install ffmpeg, or brew install ffmpeg)")
    return found


def _url(path: Path) -> str:
    """A name that ffmpeg takes for a file, whatever characters it starts with."""
    return f"file:{path}"


def _said(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace")


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"
