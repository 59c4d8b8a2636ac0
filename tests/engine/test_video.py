"""Videos through the translate command, with the real ffmpeg."""

import os
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.engine import Shapes, Tiling, load_engine
from cyclegan_fast.engine.translation import video
from cyclegan_fast.engine.translation.files import translate_files
from cyclegan_fast.engine.translation.jobs import Job, plan_jobs
from cyclegan_fast.engine.translation.video import translate_video
from cyclegan_fast.errors import UserError
from cyclegan_fast.translate import translate
from tests.engine.test_inference import Identity


@pytest.fixture(scope="module", autouse=True)
def ffmpeg(tmp_path_factory):
    """The program, in the PATH."""
    found = shutil.which("ffmpeg") or pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    folder = tmp_path_factory.mktemp("bin")
    (folder / "ffmpeg").symlink_to(found)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield found


def frame(i, height, width):
    """Smooth, so that coding changes it little."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 90 * np.sin(x / 11 + y / (7 + c) + i / 3 + c) for c in range(3)]
    return np.stack(planes, -1).astype(np.uint8)


def write_video(path, *, count=12, size=(48, 64), rate="30000/1001", sound=False, words=()):
    height, width = size
    command = ["ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", rate, "-i", "-"]
    if sound:
        command += ["-f", "lavfi", "-i", "sine=frequency=440:duration=1", "-c:a", "aac", "-shortest"]
    command += [*words, "-c:v", "libx264", "-crf", "8", "-pix_fmt", "yuv444p", str(path)]
    content = b"".join(frame(i, height, width).tobytes() for i in range(count))
    subprocess.run(command, input=content, check=True)
    return path


def read_video(path):
    """(frames, what ffmpeg says of the file)."""
    said = subprocess.run(["ffmpeg", "-i", str(path)], capture_output=True, text=True, check=False).stderr
    size = re.search(r"Video: .*?, (\d+)x(\d+)", said)
    command = ["ffmpeg", "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    content = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(content, np.uint8).reshape(-1, int(size[2]), int(size[1]), 3), said


@pytest.mark.parametrize("size", [(48, 64), (35, 50)], ids=str)
def test_size_rate_sound_and_colours_are_kept(tmp_path, size):
    source = write_video(tmp_path / "a.mp4", size=size, sound=True)
    shares = []
    translate_video(Identity(), source, tmp_path / "out" / "a.mp4", batch_size=5, tiling=None, follow=shares.append)
    made, said = read_video(tmp_path / "out" / "a.mp4")
    assert made.shape == (12, *size, 3) and "29.97 fps" in said and "Audio: aac" in said
    assert re.search(r"yuv4\d\dp\((tv, )?bt709[,)]", said), "all three, or ffmpeg would name each"
    expected = np.stack([frame(i, *size) for i in range(12)])
    apart = made.astype(int) - expected
    assert np.abs(apart).mean() < 5 and np.abs(apart.mean((0, 1, 2))).max() < 2  # colours are stored at half the size
    assert shares == sorted(shares) and len(shares) == 3 and shares[-1] > 0.9


def test_a_phones_video_stands_upright(tmp_path):
    flat = write_video(tmp_path / "flat.mp4", size=(32, 64))
    turned = tmp_path / "turned.mp4"
    content = bytearray(flat.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # 3x3, behind the track's dates, number, duration, layer and volume
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)  # 90 deg
    turned.write_bytes(content)
    translate_video(Identity(), turned, tmp_path / "made.mp4", batch_size=4, tiling=None, follow=lambda _: None)
    assert read_video(tmp_path / "made.mp4")[0].shape[1:] == (64, 32, 3)


def test_the_command_takes_videos_beside_images(tmp_path, runs, capsys):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "ride.mp4", count=5, size=(32, 32))
    write_video(tmp_path / "in" / "old.avi", count=3, size=(32, 32))
    (tmp_path / "in" / "cut.mov").write_bytes((tmp_path / "in" / "ride.mp4").read_bytes()[:600])
    (tmp_path / "in" / "text.mkv").write_text("no video")
    Image.fromarray(frame(0, 32, 32)).save(tmp_path / "in" / "a.png")
    status = translate(engine=runs["colour"], input=tmp_path / "in", output=tmp_path / "out", device="cpu")
    said = capsys.readouterr()
    assert status == 2 and "3 of 5 files" in said.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ride.mp4", "old.mkv", "a.png"}
    assert re.search(r"cut\.mov: ffmpeg cannot read it \(", said.err) and "text.mkv: ffmpeg cannot" in said.err
    assert len(read_video(tmp_path / "out" / "ride.mp4")[0]) == 5
    with pytest.raises(UserError, match="grids of images, and the input holds videos"):
        translate(engine=runs["colour"], input=tmp_path / "in", output=tmp_path / "new", reconstruct=True)


@pytest.mark.parametrize("damage", ["cut off", "in the middle"])
def test_damaged_videos_are_told(tmp_path, damage):
    source = write_video(tmp_path / "a.mkv", count=60)
    content = bytearray(source.read_bytes())
    start = len(content) // 2
    if damage == "cut off":
        del content[start:]
    else:
        content[start : start + 400] = np.random.default_rng(0).bytes(400)
    source.write_bytes(content)
    good = write_video(tmp_path / "b.mkv", count=3)
    jobs = [Job(path, tmp_path / "out" / path.name) for path in (source, good)]
    first, second = translate_files(Identity(), jobs, batch_size=4)
    assert first.fault or first.note
    assert re.match(r"only \d+ of about 60 frames can be decoded \(", first.fault) or damage != "cut off"
    assert first.job.target.exists() == (not first.fault)
    assert (second.fault, second.note) == ("", "") and second.job.target.exists()


def test_sound_that_the_file_cannot_hold_becomes_aac(tmp_path):
    silent = write_video(tmp_path / "silent.mkv", count=12)
    command = ["ffmpeg", "-loglevel", "error", "-i", str(silent), "-f", "lavfi", "-i", "sine=duration=0.4"]
    for name, kind in (("a.avi", "pcm_s16le"), ("b.mov", "pcm_s16le"), ("c.mkv", "flac"), ("d.mkv", "ac3")):
        subprocess.run([*command, "-c:v", "mpeg4", "-c:a", kind, str(tmp_path / name)], check=True)
        target = tmp_path / "out" / name.replace("avi", "mkv")
        (done,) = translate_files(Identity(), [Job(tmp_path / name, target)])
        assert done.fault == "" and f"Audio: {'ac3' if kind == 'ac3' else 'aac'}" in read_video(target)[1]


def test_frames_that_come_at_any_time_are_not_multiplied(tmp_path):
    source = tmp_path / "a.mkv"
    some = "select='not(mod(n,97))+not(mod(n,131))+not(mod(n,41))'"
    command = ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=s=32x32:r=1000:d=2", "-vf", some]
    subprocess.run([*command, "-fps_mode", "passthrough", "-c:v", "mpeg4", str(source)], check=True)
    stored = video._count(source)
    assert 60 < stored < 120
    (done,) = translate_files(Identity(), [Job(source, tmp_path / "b.mkv")])
    assert done.fault == "" and abs(len(read_video(tmp_path / "b.mkv")[0]) - stored) < 15


def test_the_shape_of_pixels_is_kept(tmp_path):
    source = write_video(tmp_path / "a.mkv", words=["-vf", "setsar=16/15"])
    (done,) = translate_files(Identity(), [Job(source, tmp_path / "b.mkv")])
    assert done.fault == "" and "SAR 16:15" in read_video(tmp_path / "b.mkv")[1]


def test_frames_larger_than_an_engine_serves_are_cut_on_request(tmp_path):
    engine = Identity()
    engine.shapes = Shapes((1, 8, 8), (1, 32, 32), (2, 32, 32))
    source, small = write_video(tmp_path / "a.mkv", count=3), write_video(tmp_path / "b.mkv", count=5, size=(32, 32))
    jobs = [Job(path, tmp_path / "out" / path.name) for path in (source, small)]
    first, second = translate_files(engine, jobs)
    assert "was built for batches" in first.fault and second.fault == ""
    first, second = translate_files(engine, jobs, tiling=Tiling("tile", 32))
    assert (first.fault, second.fault) == ("", "")
    assert max(shape[0] for shape in engine.seen) == 2
    assert read_video(tmp_path / "out" / "a.mkv")[0].shape == (3, 48, 64, 3)


def test_what_a_video_cannot_hold_is_said(tmp_path, monkeypatch):
    source = write_video(tmp_path / "a.mp4", count=2)
    many = Identity(channels=4)
    (done,) = translate_files(many, [Job(source, tmp_path / "out.mp4")])
    assert "videos have grey or colour frames of 8 bits" in done.fault
    with pytest.raises(UserError, match=r"cannot write .*nowhere.*ffmpeg says: |cannot write .*nowhere"):
        (tmp_path / "nowhere").touch()
        translate_video(
            Identity(), source, tmp_path / "nowhere" / "a.mp4", batch_size=2, tiling=None, follow=lambda _: None
        )
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="videos need the program ffmpeg: install it"):
        list(translate_files(Identity(), [Job(source, tmp_path / "out.mp4")]))


def test_results_of_two_inputs_must_differ(tmp_path):
    for name in ("a.avi", "a.wmv"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    with pytest.raises(UserError, match=r"a\.mkv would be the result of .*a\.avi and .*a\.wmv"):
        plan_jobs(tmp_path / "in", tmp_path / "out")


def test_the_networks_frames_are_those_of_images(tmp_path, runs):
    source = write_video(tmp_path / "a.mp4", count=3, size=(32, 48))
    engine = load_engine(runs["colour"], device="cpu")
    translate_video(engine, source, tmp_path / "made.mp4", batch_size=2, tiling=None, follow=lambda _: None)
    made = read_video(tmp_path / "made.mp4")[0]
    from cyclegan_fast.engine import infer

    expected = infer(engine, read_video(source)[0].copy())
    coarse = [x.reshape(3, 4, 8, 6, 8, 3).mean((2, 4)) for x in (made, expected)]  # colours are stored at half the size
    assert np.abs(coarse[0] - coarse[1]).mean() < 6 < np.abs(coarse[0][0] - coarse[1][2]).mean() + 6
