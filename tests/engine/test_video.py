"""Videos through PyAV: what is kept of them, what becomes of damage, and that the colours are right."""

import re
import struct
import sys
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.engine import Shapes, Tiling, infer, load_engine
from cyclegan_fast.engine.translation.files import translate_files
from cyclegan_fast.engine.translation.tasks import Task, plan_tasks
from cyclegan_fast.engine.translation.video import translate_video
from cyclegan_fast.errors import UserError
from cyclegan_fast.translate import translate
from tests.engine.identity import Identity

av = pytest.importorskip("av")

RATE, SOUND_RATE = Fraction(30000, 1001), 44100


def frame(i, height, width):
    """Smooth, so that coding changes it little."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 90 * np.sin(x / 11 + y / (7 + c) + i / 3 + c) for c in range(3)]
    return np.stack(planes, -1).astype(np.uint8)


def write_video(path, *, count=12, size=(48, 64), rate=RATE, times=None, codec="libx264", pixels="yuv444p", sound="",
                aspect=None, frames=None):  # fmt: skip
    """Frames by `frame`, at `times` in milliseconds or at `rate`, and a tone of their length in a codec `sound`."""
    height, width = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "8"} if codec == "libx264" else {"q": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        context = stream.codec_context
        context.time_base = Fraction(1, 1000) if times else 1 / Fraction(rate)
        context.bit_rate = 4_000_000 if codec != "libx264" else 0
        if aspect:
            context.sample_aspect_ratio = aspect
        tone = container.add_stream(sound, rate=SOUND_RATE, layout="mono") if sound else None
        for i in range(count):
            image = av.VideoFrame.from_ndarray(frame(i, height, width) if frames is None else frames[i], format="rgb24")
            image = image.reformat(format=pixels)
            image.pts, image.time_base = times[i] if times else i, context.time_base
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
        if tone:
            samples = np.arange(int(SOUND_RATE * count / rate))
            wave = np.sin(samples * 2 * np.pi * 440 / SOUND_RATE).astype(np.float32)[None] * 0.5
            resampler = av.AudioResampler(format=tone.format, layout="mono", rate=SOUND_RATE, frame_size=1024)
            source = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            source.rate, source.pts, source.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
            for part in (*resampler.resample(source), *resampler.resample(None)):
                container.mux(tone.encode(part))
            container.mux(tone.encode(None))
    return path


class Video(NamedTuple):
    frames: np.ndarray  # uint8 [N, H, W, 3]
    times: list[float]  # seconds
    rate: Fraction
    aspect: Fraction
    stored: tuple  # codec, pixels, and what players are told of the colours
    sound: str
    sound_seconds: float
    packets: list[bytes]  # of the sound


def read_video(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        frames = np.stack([one.to_ndarray(format="rgb24") for one in decoded])
        times = [float(one.pts * one.time_base) for one in decoded]
        context, rate, aspect = stream.codec_context, stream.average_rate, stream.sample_aspect_ratio
        colours = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        stored = context.name, context.pix_fmt, *map(int, colours)
    packets, seconds, name = [], 0.0, ""
    with av.open(str(path)) as container:
        for sound in container.streams.audio:
            name = sound.codec_context.name
            packets = [bytes(packet) for packet in container.demux(sound) if packet.size]
    if name:
        with av.open(str(path)) as container:
            seconds = sum(part.samples / part.rate for part in container.decode(audio=0))
    return Video(frames, times, rate, aspect, stored, name.removesuffix("float"), seconds, packets)


def no_progress(done, total):
    pass


def translated(source, target, engine=None, **options):
    (result,) = translate_files(engine or Identity(), [Task(source, target)], **options)
    assert (result.fault, result.note) == ("", "")
    return read_video(target)


@pytest.mark.parametrize("size", [(48, 64), (35, 50)], ids=str)
def test_size_rate_sound_and_colours_are_kept(tmp_path, size):
    source = write_video(tmp_path / "a.mp4", size=size, sound="aac")
    shares = []
    translate_video(
        Identity(), source, tmp_path / "out" / "a.mp4", batch_size=5, tiling=None,
        progress=lambda done, total: shares.append(done / total),
    )  # fmt: skip
    made, before = read_video(tmp_path / "out" / "a.mp4"), read_video(source)
    assert made.frames.shape == (12, *size, 3) and made.rate == RATE
    assert made.times == pytest.approx(before.times, abs=1e-4)
    assert made.packets == before.packets and made.sound == "aac"
    assert made.stored == ("h264", "yuv420p" if size == (48, 64) else "yuv444p", 1, 1, 1, 1)
    expected = np.stack([frame(i, *size) for i in range(12)])
    apart = made.frames.astype(int) - expected
    assert np.abs(apart).mean() < 5 and np.abs(apart.mean((0, 1, 2))).max() < 2  # colours are stored at half the size
    assert shares == sorted(shares) and len(shares) == 3 and shares[-1] == 1


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_phones_video_stands_upright(tmp_path, quarters):
    photo = np.zeros((32, 64, 3), np.uint8)
    photo[:12, :20] = 255  # the upper left
    flat = write_video(tmp_path / "flat.mp4", size=(32, 64), count=3, frames=[photo] * 3, aspect=Fraction(4, 3))
    content = bytearray(flat.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # 3x3, behind the track's dates, number, duration, layer and volume
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]  # a quarter turn clockwise each
    corner = [(0, 0), (32, 0), (64, 32), (0, 64)][quarters]
    fixed = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, corner[0] << 16, corner[1] << 16, 1 << 30]
    content[matrix : matrix + 36] = struct.pack(">9i", *fixed)
    (tmp_path / "turned.mp4").write_bytes(content)
    made = translated(tmp_path / "turned.mp4", tmp_path / "made.mp4", batch_size=4)
    expected = np.rot90(photo, -quarters)
    assert made.frames.shape[1:] == expected.shape and np.abs(made.frames[0].astype(int) - expected).mean() < 6
    assert made.aspect == (Fraction(4, 3) if quarters % 2 == 0 else Fraction(3, 4))


def test_the_command_takes_videos_beside_images(tmp_path, runs, capsys):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "ride.mp4", count=5, size=(32, 32))
    write_video(tmp_path / "in" / "old.avi", count=3, size=(32, 32), codec="mpeg4", pixels="yuv420p")
    (tmp_path / "in" / "cut.mov").write_bytes((tmp_path / "in" / "ride.mp4").read_bytes()[:600])
    (tmp_path / "in" / "text.mkv").write_text("no video")
    Image.fromarray(frame(0, 32, 32)).save(tmp_path / "in" / "a.png")
    status = translate(engine=runs["colour"], input=tmp_path / "in", output=tmp_path / "out", device="cpu")
    said = capsys.readouterr()
    assert status == 2 and "3 of 5 files" in said.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ride.mp4", "old.mkv", "a.png"}
    for name in (r"cut\.mov", r"text\.mkv"):
        assert re.search(rf"{name}: it cannot be read as a video \(.*[Ii]nvalid data", said.err)
    assert len(read_video(tmp_path / "out" / "ride.mp4").frames) == 5
    with pytest.raises(UserError, match="--reconstruct is for images, and the input holds videos"):
        translate(engine=runs["colour"], input=tmp_path / "in", output=tmp_path / "new", reconstruct=True)


@pytest.mark.parametrize("damage", ["cut off", "in the middle"])
@pytest.mark.parametrize("name", ["a.mkv", "a.mov"])
def test_damaged_videos_are_reported(tmp_path, damage, name):
    source = write_video(tmp_path / name, count=60)
    content = bytearray(source.read_bytes())
    if name == "a.mov":  # whose index stands at the end: a flaw among the frames
        damage = "in the middle"
    start = len(content) // 2
    if damage == "cut off":
        del content[start:]
    else:
        content[start : start + 400] = np.random.default_rng(0).bytes(400)
    source.write_bytes(content)
    good = write_video(tmp_path / "b.mkv", count=3)
    tasks = [Task(path, tmp_path / "out" / path.name) for path in (source, good)]
    first, second = translate_files(Identity(), tasks, batch_size=4)
    assert first.fault or first.note
    if damage == "cut off":
        assert re.match(r"only \d+ of about 60 frames can be decoded", first.fault or first.note)
    assert first.task.target.exists() == (not first.fault)
    assert (second.fault, second.note) == ("", "") and second.task.target.exists()


@pytest.mark.parametrize("codec", ["aac", "flac"])
def test_damaged_sound_is_reported_and_costs_no_frame(tmp_path, codec):
    source = write_video(tmp_path / "a.mkv", count=30, sound=codec)
    packets = read_video(source).packets
    content = bytearray(source.read_bytes())
    for packet in packets[3:8]:
        start = content.index(packet)
        content[start : start + len(packet)] = np.random.default_rng(0).bytes(len(packet))
    source.write_bytes(content)
    (result,) = translate_files(Identity(), [Task(source, tmp_path / "out.mkv")])
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert result.fault == "" and len(list(container.decode(video=0))) == 30
    assert result.note.startswith("parts are damaged: ") or codec == "aac"  # which is copied as it is


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [("a.avi", "pcm_s16le", "aac"), ("b.mov", "pcm_s16le", "aac"), ("c.mkv", "flac", "aac"), ("d.mkv", "ac3", "ac3")],
)
def test_sound_that_the_file_cannot_hold_becomes_aac(tmp_path, name, codec, kept):
    source = write_video(tmp_path / name, codec="mpeg4", pixels="yuv420p", sound=codec)
    made = translated(source, tmp_path / "out" / name.replace("avi", "mkv"))
    assert made.sound == kept and made.sound_seconds == pytest.approx(12 / RATE, abs=0.08)
    assert (made.packets == read_video(source).packets) == (kept == codec)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov"])
def test_frames_keep_their_times_however_uneven(tmp_path, name):
    times = sorted(np.random.default_rng(0).choice(2000, 60, replace=False).tolist())
    source = write_video(tmp_path / name, count=60, size=(32, 32), times=times, rate=30)
    before = read_video(source)
    assert np.diff(before.times).std() > 0.02, "the test's own video is uneven"
    made = translated(source, tmp_path / "out" / name)
    start = before.times[0]
    assert made.times == pytest.approx([t - start for t in before.times], abs=2e-3) or made.times == pytest.approx(
        before.times, abs=2e-3
    )


def test_the_shape_of_pixels_is_kept(tmp_path):
    source = write_video(tmp_path / "a.mkv", aspect=Fraction(16, 15))
    assert translated(source, tmp_path / "b.mkv").aspect == Fraction(16, 15)


def test_frames_larger_than_an_engine_serves_are_cut_on_request(tmp_path):
    engine = Identity(shapes=Shapes((1, 8, 8), (1, 32, 32), (2, 32, 32)))
    source, small = write_video(tmp_path / "a.mkv", count=3), write_video(tmp_path / "b.mkv", count=5, size=(32, 32))
    tasks = [Task(path, tmp_path / "out" / path.name) for path in (source, small)]
    first, second = translate_files(engine, tasks)
    assert "was built for batches" in first.fault and second.fault == ""
    first, second = translate_files(engine, tasks, tiling=Tiling("tile", 32))
    assert (first.fault, second.fault) == ("", "")
    assert max(shape[0] for shape in engine.seen) == 2
    assert read_video(tmp_path / "out" / "a.mkv").frames.shape == (3, 48, 64, 3)


def test_frames_that_grow_make_a_larger_video(tmp_path):
    source = write_video(tmp_path / "a.mp4", count=3)
    made = translated(source, tmp_path / "b.mp4", Identity(scale=2))
    assert made.frames.shape == (3, 96, 128, 3)
    assert np.abs(made.frames[:, ::2, ::2].astype(int) - read_video(source).frames).mean() < 6


def test_grey_generators_take_and_make_grey_frames(tmp_path):
    source = write_video(tmp_path / "a.mp4", count=3)
    grey = translated(source, tmp_path / "b.mp4", Identity(channels=1)).frames.astype(int)
    luma = read_video(source).frames @ np.array([0.299, 0.587, 0.114])
    assert np.ptp(grey, axis=-1).max() <= 3 and np.abs(grey[..., 0] - luma).mean() < 6


def test_what_a_video_cannot_hold_is_reported(tmp_path, monkeypatch):
    source = write_video(tmp_path / "a.mp4", count=2)
    (result,) = translate_files(Identity(channels=4), [Task(source, tmp_path / "out.mp4")])
    assert "videos have grey or colour frames of 8 bits" in result.fault
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        (tmp_path / "nowhere").touch()
        translate_video(
            Identity(), source, tmp_path / "nowhere" / "a.mp4", batch_size=2, tiling=None, progress=no_progress
        )
    only_sound = tmp_path / "sound.mp4"
    with av.open(str(only_sound), "w") as container:
        tone = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate = SOUND_RATE
        container.mux(tone.encode(silence))
        container.mux(tone.encode(None))
    (result,) = translate_files(Identity(), [Task(only_sound, tmp_path / "out.mp4")])
    assert result.fault == "it holds no video stream"
    assert not (tmp_path / "out.mp4").exists() and not list(tmp_path.glob(".partial*"))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"videos need PyAV: pip install 'cyclegan-fast\[video\]'"):
        list(translate_files(Identity(), [Task(source, tmp_path / "out.mp4")]))


def test_results_of_two_inputs_must_differ(tmp_path):
    for name in ("a.avi", "a.wmv"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    with pytest.raises(UserError, match=r"a\.mkv would be the result of .*a\.avi and .*a\.wmv"):
        plan_tasks(tmp_path / "in", tmp_path / "out")


def test_the_networks_frames_are_those_of_images(tmp_path, runs):
    source = write_video(tmp_path / "a.mp4", count=3, size=(32, 48))
    engine = load_engine(runs["colour"], device="cpu")
    made = translated(source, tmp_path / "made.mp4", engine, batch_size=2).frames
    expected = infer(engine, read_video(source).frames.copy())
    coarse = [x.reshape(3, 4, 8, 6, 8, 3).mean((2, 4)) for x in (made, expected)]  # colours are stored at half the size
    assert np.abs(coarse[0] - coarse[1]).mean() < 6 < np.abs(coarse[0][0] - coarse[1][2]).mean() + 6
