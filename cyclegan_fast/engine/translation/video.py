"""Videos, frame by frame, through PyAV: real timestamps, the sound copied, H.264 out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.inference import infer
from cyclegan_fast.engine.tiling.tiling import Tiling
from cyclegan_fast.engine.translation.video_reader import PIXEL_FORMATS, Frame, VideoReader, open_video
from cyclegan_fast.engine.translation.video_writer import open_writer
from cyclegan_fast.images import BadImageError
from cyclegan_fast.monitoring.progress import Progress

_WHOLE = 0.95  # of the frames that its header promises, from which a video counts as whole


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
    if any(
        form.channels not in PIXEL_FORMATS or form.depth == "float" for form in (engine.in_format, engine.out_format)
    ):
        raise BadImageError(source, "videos have grey or colour frames of 8 bits, which this generator does not take")
    done, written = 0, None
    with contextlib.ExitStack() as stack:
        reader = VideoReader(stack.enter_context(open_video(source)), source, engine.in_channels)
        writer = stack.enter_context(open_writer(source, target, reader, engine.out_channels))
        reading, writing = (stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2))
        frames = reader.frames()
        following: Future[list[Frame]] = reading.submit(_take, frames, batch_size)
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


def _take(frames: Iterator[Frame], count: int) -> list[Frame]:
    return list(islice(frames, count))
