"""The translate and export commands, run as a user runs them or called as the module calls them."""

import io
import pwd
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast import export
from cyclegan_fast import translate as translate_module
from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.engine import infer, load_engine
from cyclegan_fast.engine.inference import translate_values
from cyclegan_fast.engine.translation import files, large_tiff
from cyclegan_fast.engine.translation.files import translate_files
from cyclegan_fast.engine.translation.tasks import plan_tasks
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import user_cache
from cyclegan_fast.images.decode import read_unscaled
from cyclegan_fast.nn import build_networks
from cyclegan_fast.translate import translate
from tests.data.sample_images import needs_deep
from tests.engine.identity import Identity


def image(height, width, channels=3, seed=0):
    """Smooth, so that JPEG changes it little."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    planes = [128 + 100 * np.sin(x * a / 9 + y * b / 7) for a, b in rng.uniform(0.2, 1, (channels, 2))]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.fixture
def images(tmp_path) -> Path:
    root = tmp_path / "in"
    (root / "deep" / "er").mkdir(parents=True)
    Image.fromarray(image(31, 45)).save(root / "odd.jpg", quality=98)
    Image.fromarray(image(24, 40, seed=1)).save(root / "deep" / "b.png")
    Image.fromarray(image(24, 40, seed=2)).save(root / "deep" / "er" / "c.WebP", "WEBP", quality=98)
    Image.fromarray(image(9, 8, 1)[..., 0]).save(root / "grey.png")
    Image.fromarray(image(16, 16, seed=3)).save(root / "d.bmp")
    Image.fromarray(image(16, 17, seed=4)).save(root / "really_png.jpg", "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image(20, 32, seed=5)).save(root / "turned.jpeg", exif=exif, quality=98)
    (root / "notes.txt").write_text("no image and no claim to be one")
    return root


FORMATS = {
    "odd.jpg": ("JPEG", (45, 31)), "deep/b.png": ("PNG", (40, 24)), "deep/er/c.WebP": ("WEBP", (40, 24)),
    "grey.png": ("PNG", (8, 9)), "d.bmp": ("BMP", (16, 16)), "really_png.jpg": ("PNG", (17, 16)),
    "turned.jpeg": ("JPEG", (20, 32)),
}  # fmt: skip


def files_under(root):
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_names_folders_formats_and_sizes_are_kept(images, tmp_path, runs, onnx_files, kind, capsys):
    source = runs["colour"] if kind == "torch" else onnx_files["colour"]
    before = {name: (images / name).read_bytes() for name in FORMATS}
    status = translate(engine=source, input=images, output=tmp_path / "out", device="cpu", batch_size=3)
    assert status == 0
    assert "7 of 7 files" in capsys.readouterr().out
    assert files_under(tmp_path / "out") == set(FORMATS)
    engine = load_engine(source, device="cpu")
    for name, (kind_of_file, size) in FORMATS.items():
        with Image.open(tmp_path / "out" / name) as made:
            assert (made.format, made.size, made.mode) == (kind_of_file, size, "RGB")
            buffer = io.BytesIO()
            options = {"quality": 95} if kind_of_file in ("JPEG", "WEBP") else {}
            infer(engine, images / name).save(buffer, kind_of_file, **options)
            with Image.open(buffer) as expected:
                error = np.abs(np.asarray(made).astype(int) - np.asarray(expected))
            assert error.mean() < 0.1, name  # another batch may round a level differently
        assert (images / name).read_bytes() == before[name]


@pytest.mark.fault(5)
@needs_deep
def test_sixteen_bits_are_kept(tmp_path, runs):
    (tmp_path / "in").mkdir()
    deep = np.linspace(0, 65535, 20 * 24).reshape(20, 24).astype(np.uint16)
    shades = np.stack([deep >> 8] * 3, axis=-1).astype(np.uint8)
    Image.fromarray(shades).save(tmp_path / "in" / "shallow.png")
    for name in ("a.png", "a.tif"):
        Image.fromarray(deep).save(tmp_path / "in" / name)
    options = {"input": tmp_path / "in", "device": "cpu"}
    assert not translate(engine=runs["grey_to_colour"], output=tmp_path / "colour", **options)  # B is colour, A is grey
    for name, kind in (("a.png", np.uint16), ("a.tif", np.uint16), ("shallow.png", np.uint8)):
        pixels = read_unscaled(tmp_path / "colour" / name, 3)
        assert pixels.dtype == kind and pixels.shape == (20, 24, 3)
        assert kind == np.uint8 or len(np.unique(pixels)) > 256

    model = ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4, channels_A=1, channels_B=1)
    config = TrainConfig(model=model)
    save_checkpoint(tmp_path / "grey", 1, networks=build_networks(model), config=config, progress={})
    assert not translate(engine=tmp_path / "grey", output=tmp_path / "out", **options)
    expected = infer(load_engine(tmp_path / "grey", device="cpu"), deep[..., None])[..., 0]
    for name in ("a.png", "a.tif"):
        with Image.open(tmp_path / "out" / name) as made:
            assert made.mode == "I;16"
            assert np.abs(np.asarray(made).astype(int) - expected).max() <= 2  # of 65535
    assert len(np.unique(expected % 257)) > 1, "only 8 bits were used"
    with Image.open(tmp_path / "out" / "shallow.png") as made:
        assert made.mode == "L"


def test_bad_files_are_named_at_the_end_and_the_good_ones_done(images, tmp_path, runs, capsys):
    (images / "text.jpg").write_text("no image")
    (images / "empty.png").touch()
    cut = images / "cut.jpg"
    Image.fromarray(image(64, 64)).save(cut)
    cut.write_bytes(cut.read_bytes()[:700])
    status = translate(engine=runs["colour"], input=images, output=tmp_path / "out", device="cpu", batch_size=4)
    assert status == 2
    assert files_under(tmp_path / "out") == set(FORMATS)
    said = capsys.readouterr()
    assert "7 of 10 files" in said.out
    lines = {line.split(":")[1].strip().rsplit("/")[-1]: line for line in said.err.strip().splitlines()}
    assert lines.keys() == {"text.jpg", "empty.png", "cut.jpg"}
    assert "not an image" in lines["text.jpg"] and "is empty" in lines["empty.png"] and "damaged" in lines["cut.jpg"]


@pytest.mark.parametrize("batch_size", [0, -2])
def test_a_batch_size_below_one_is_refused_before_anything_is_loaded(images, tmp_path, batch_size):
    with pytest.raises(UserError, match=f"^--batch-size must be a whole number of at least 1, got {batch_size}"):
        translate(engine=tmp_path / "none", input=images, output=tmp_path / "out", batch_size=batch_size)
    with pytest.raises(UserError, match="batch_size"):
        list(translate_files(None, plan_tasks(images, tmp_path / "out"), batch_size=batch_size))


def test_gif_pgm_and_a_single_pixel(tmp_path, runs):
    (tmp_path / "in").mkdir()
    Image.fromarray(image(20, 24)).save(tmp_path / "in" / "a.gif")
    Image.fromarray(image(20, 24, 1)[..., 0].astype(np.uint16) * 257).save(tmp_path / "in" / "deep.pgm")
    Image.fromarray(image(1, 1)).save(tmp_path / "in" / "pixel.png")
    assert not translate(engine=runs["colour"], input=tmp_path / "in", output=tmp_path / "out", device="cpu")
    assert read_unscaled(tmp_path / "out" / "deep.pgm", 3).dtype == np.uint16
    made = {}
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as opened:
            made[path.name] = (opened.format, opened.size)
    assert made == {"a.gif": ("GIF", (24, 20)), "deep.pgm": ("PPM", (24, 20)), "pixel.png": ("PNG", (1, 1))}


def test_one_file(images, tmp_path, runs):
    options = {"engine": runs["colour"], "device": "cpu", "input": images / "d.bmp"}
    assert translate(output=tmp_path / "out", **options) == 0
    assert files_under(tmp_path / "out") == {"d.bmp"}
    with pytest.raises(UserError, match="is one of the inputs"):
        translate(output=images, overwrite=True, **options)


def test_a_link_that_leads_out_does_not_stop_the_others(images, tmp_path, runs, caplog):
    outside = tmp_path / "secret.png"
    Image.fromarray(image(16, 16)).save(outside)
    (images / "deep" / "link.png").symlink_to(outside)
    assert translate(engine=runs["colour"], device="cpu", input=images, output=tmp_path / "out") == 0
    assert files_under(tmp_path / "out") == files_under(images) - {"notes.txt", "deep/link.png"}
    (warning,) = [line for line in caplog.messages if "link" in line]
    assert warning.startswith(f"{images / 'deep' / 'link.png'}: this link leads out of the folder, to {outside}")


def test_inputs_and_results_are_not_overwritten(images, tmp_path, runs):
    for output in (images, images / "out", images / "deep" / ".." / "x", images.parent / "in"):
        with pytest.raises(UserError, match="lies in the input folder"):
            plan_tasks(images, output, overwrite=True)
    link = tmp_path / "link"
    link.symlink_to(images)
    with pytest.raises(UserError, match="lies in the input folder"):
        plan_tasks(images, link, overwrite=True)
    (images / "in").mkdir()
    Image.fromarray(image(16, 16)).save(images / "in" / "odd.jpg")
    with pytest.raises(UserError, match="is one of the inputs"):
        plan_tasks(images, images.parent, overwrite=True)

    old = tmp_path / "out" / "d.bmp"
    old.parent.mkdir()
    old.write_bytes(b"precious")
    with pytest.raises(UserError, match=r"d\.bmp exists already \(1 of 8 results\): choose .*--resume .*--overwrite"):
        translate(engine=runs["colour"], input=images, output=tmp_path / "out", device="cpu")
    assert old.read_bytes() == b"precious" and files_under(tmp_path / "out") == {"d.bmp"}
    assert translate(engine=runs["colour"], input=images, output=tmp_path / "out", device="cpu", overwrite=True) == 0
    assert old.read_bytes() != b"precious"


def test_a_pattern_keeps_what_lies_below_its_fixed_part(images, tmp_path, runs):
    options = {"engine": runs["colour"], "device": "cpu"}
    assert translate(input=images / "**" / "*.[pW]*", output=tmp_path / "out", **options) == 0
    assert files_under(tmp_path / "out") == {"deep/b.png", "deep/er/c.WebP", "grey.png"}
    assert translate(input=images / "d*" / "b.png", output=tmp_path / "few", **options) == 0
    assert files_under(tmp_path / "few") == {"deep/b.png"}
    with pytest.raises(UserError, match="matches no file outside the output folder: correct the pattern"):
        translate(input=images / "*.tif", output=tmp_path / "none", **options)
    with pytest.raises(UserError, match="matches no file outside"):  # all of it lies in the output
        translate(input=images / "*.bmp", output=images, overwrite=True, **options)
    below = {"input": images / "**" / "*.bmp", "output": images / "out", **options}
    assert translate(**below) == 0 and translate(**below, resume=True) == 0
    assert files_under(images / "out") == {"d.bmp"}


def test_resume_does_the_rest(images, tmp_path, runs, capsys):
    options = {"engine": runs["colour"], "input": images, "output": tmp_path / "out", "device": "cpu"}
    assert translate(**options) == 0
    left = {"odd.jpg", "deep/b.png"}
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in FORMATS.keys() - left}
    for name in left:
        (tmp_path / "out" / name).unlink()
    with pytest.raises(UserError, match=r"use --resume .*or --overwrite"):
        translate(**options)
    with pytest.raises(UserError, match="use one of them"):
        translate(**options, resume=True, overwrite=True)
    capsys.readouterr()
    for _ in range(2):
        assert translate(**options, resume=True) == 0
        assert files_under(tmp_path / "out") == set(FORMATS)
        assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept
    said = capsys.readouterr().out
    assert "7 of 7 files are in" in said and "5 of them from before" in said and "7 of them from before" in said


def test_reconstruct_writes_grids(images, tmp_path, runs, onnx_files):
    options = {"input": images, "device": "cpu", "reconstruct": True, "direction": "BtoA"}
    assert translate(engine=runs["colour"], output=tmp_path / "out", **options) == 0
    grids = {f"reconstructions/{name}.png" for name in FORMATS}
    assert files_under(tmp_path / "out") == FORMATS.keys() | grids
    there, back = (load_engine(runs["colour"], direction=way, device="cpu") for way in ("BtoA", "AtoB"))
    values = torch.from_numpy(image(24, 40, seed=1)).permute(2, 0, 1) / 127.5 - 1
    made = infer(there, values)
    columns = [values, made, infer(back, made)]
    grid = np.asarray(Image.open(tmp_path / "out" / "reconstructions" / "deep" / "b.png.png"))
    rows = grid[-24 - 2 : -2].astype(int)
    starts = [np.flatnonzero((rows != 255).any((0, 2)))[0]]
    assert starts == [2]
    expected = (columns[0].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(rows[:, 2:42] - expected.numpy()).max() <= 1
    right = (columns[2].permute(1, 2, 0) + 1) * 127.5
    best = min(np.abs(rows[:, x : x + 40] - right.numpy()).mean() for x in range(60, grid.shape[1] - 39))
    assert best < 1
    for engine in (onnx_files["colour"], tmp_path / "bare.pth"):
        with pytest.raises(UserError, match="needs both generators: give a run's folder"):
            translate(engine=engine, output=tmp_path / "new", **options)


def test_one_result_that_cannot_be_written_does_not_stop_the_others(images, tmp_path, runs, capsys):
    long = "x" * 250 + ".png"  # a name that is possible, and whose grid's is not
    Image.fromarray(image(16, 16)).save(images / long)
    (tmp_path / "out" / "d.bmp").mkdir(parents=True)
    options = {"engine": runs["colour"], "input": images, "output": tmp_path / "out", "device": "cpu"}
    assert translate(**options, reconstruct=True, overwrite=True, batch_size=2) == 2
    said = capsys.readouterr()
    assert "6 of 8 files" in said.out and "File name too long" in said.err and "Is a directory" in said.err
    assert translate(**options, resume=True) == 2  # a folder is no result
    said = capsys.readouterr()
    assert "7 of 8 files" in said.out and "6 of them from before" in said.out


def test_a_grid_does_not_take_the_place_of_a_result(tmp_path, runs):
    for name in ("a.png", "reconstructions/a.png.png"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(image(16, 16)).save(tmp_path / "in" / name)
    with pytest.raises(UserError, match=r"reconstructions/a\.png\.png would be the result of .*a\.png and .*\.png"):
        translate(engine=runs["colour"], input=tmp_path / "in", output=tmp_path / "out", reconstruct=True)


@pytest.mark.fault(24)
def test_where_a_batch_needs_too_much_memory_its_images_go_one_by_one(images, tmp_path, user_sees):
    class Small(Identity):
        most = 1

        def _compute(self, batch):
            if len(batch) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super()._compute(batch)

    engine = Small()
    for i in range(3):
        Image.fromarray(image(16, 16, seed=i)).save(images / f"same{i}.png")
    done = list(translate_files(engine, plan_tasks(images, tmp_path / "out")))
    assert [one.fault for one in done] == [""] * 10
    engine.most = 0
    with pytest.raises(
        UserError,
        match=r"a batch of shape \[1, 3, 16, 16\] needs more memory than this machine has.* smaller batch size",
    ) as error:
        infer(engine, image(16, 16))
    user_sees(error.value)


def test_an_interrupted_run_keeps_what_is_done_and_says_how_to_go_on(images, tmp_path, runs, capsys, monkeypatch):
    calls = []

    def interrupted(*args, **options):
        calls.append(len(args[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return translate_values(*args, **options)

    options = {"engine": runs["colour"], "input": images, "output": tmp_path / "out", "device": "cpu"}
    with monkeypatch.context() as patched:
        patched.setattr(files, "translate_values", interrupted)
        assert translate(**options, batch_size=2) == 130
    said = capsys.readouterr()
    done = files_under(tmp_path / "out")
    assert 0 < len(done) <= 4 and re.match(
        r"interrupted, \d were left: the same command with --resume goes on\n", said.err
    )
    assert translate(**options, resume=True) == 0
    assert files_under(tmp_path / "out") == set(FORMATS)
    assert f"{len(done)} of them from before" in capsys.readouterr().out


def test_an_input_without_images_is_reported(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        plan_tasks(tmp_path / "nowhere", tmp_path / "out")
    for url in ("https://x.y/z.jpg", "s3://bucket/*.png"):
        with pytest.raises(UserError, match=rf"^{re.escape(url)}: URLs are not fetched: download it"):
            plan_tasks(Path(url), tmp_path / "out")
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        plan_tasks(tmp_path / "in", tmp_path / "out")


def test_the_commands_from_checkpoint_to_images(images, tmp_path, runs, run_command_here):
    engine = tmp_path / "g.onnx"
    ended = run_command_here(export.main, "--checkpoint", runs["colour"], "--direction", "BtoA", "--out", engine)
    assert (ended.status, ended.err) == (0, "") and ended.out.startswith(f"{engine}: ")
    (images / "text.jpg").write_text("no image")
    options = ["--engine", engine, "--input", images, "--output", tmp_path / "out", "--device", "cpu"]
    ended = run_command_here(translate_module.main, *options)
    assert ended.status == 2
    assert ended.err == f"not translated: {images / 'text.jpg'}: not an image in a known format " + (
        "(JPEG, PNG, WebP, BMP, TIFF, PPM, GIF)\n"
    )
    assert files_under(tmp_path / "out") == set(FORMATS)
    assert "7 of 8 files" in ended.out and "files/s" in ended.out
    refused = run_command_here(translate_module.main, "--model", engine, "--input", images, "--output", images)
    assert refused.status == 2 and refused.err.startswith("error: ") and refused.err.count("\n") == 1


def test_help_shows_an_example_and_no_former_name(run_command_here, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for name, main in (("export", export.main), ("translate", translate_module.main)):
        ended = run_command_here(main, "--help")
        assert ended.status == 0 and f"python -m cyclegan_fast.{name} --" in ended.out
        assert "--both-ways" not in ended.out


def test_former_names_of_flags_still_work_and_are_reported(tmp_path, runs, run_command_here):
    (tmp_path / "in").mkdir()
    Image.fromarray(image(16, 16)).save(tmp_path / "in" / "a.png")
    options = ["--model", runs["colour"], "--input", tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu"]
    ended = run_command_here(translate_module.main, *options, "--both-ways")
    assert (ended.status, ended.err) == (0, "note: --both-ways is now --reconstruct; the old name goes soon\n")
    assert files_under(tmp_path / "out") == {"a.png", "reconstructions/a.png.png"}


def test_the_real_command_ends_with_its_status(tmp_path):
    """One process of its own, for what runs before and after `main`."""
    command = [sys.executable, "-m", "cyclegan_fast.translate", "--model", "none", "--input", "none", "--output", "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: none does not exist\n")


@pytest.mark.parametrize("where", ["read", "translated", "written", "grid", "strips"])
@pytest.mark.parametrize(
    "error", [RuntimeError("libtiff:\nbad"), KeyError("x"), MemoryError(), OSError(5, "I/O error")]
)
def test_one_file_that_no_library_can_take_does_not_end_a_run(tmp_path, runs, monkeypatch, capsys, where, error):
    for i in range(5):
        kind = "tif" if where == "strips" else "png"
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 40 * i, np.uint8)).save(tmp_path / "in" / f"{i}.{kind}")
    bad = tmp_path / "in" / f"2.{kind}"
    module, name = {
        "read": (files, "read_input"), "translated": (files, "translate_values"), "written": (files, "format_for"),
        "grid": (files, "sample_grid"), "strips": (large_tiff, "write_tiff"),
    }[where]  # fmt: skip
    real = getattr(module, name)

    def is_bad(first, *rest):
        values = {"translated": lambda: rest[0], "grid": lambda: [first[0][0]]}.get(where, list)()
        dark = [(v.mean() + 1) * 127.5 for v in values]
        return first.name == bad.name if not values else any(abs(mean - 80) < 1 for mean in dark)

    def failing(*args, **options):
        if is_bad(*args):
            raise error
        return real(*args, **options)

    monkeypatch.setattr(module, name, failing)
    options = {"statistics": "tile", "tile": 16} if where == "strips" else {"reconstruct": where == "grid"}
    status = translate(
        engine=runs["colour"], input=tmp_path / "in", output=tmp_path / "out", device="cpu", batch_size=3, **options
    )
    said = capsys.readouterr()
    assert status == 2 and "4 of 5 files" in said.out
    (line,) = said.err.splitlines()
    assert line.startswith(f"not translated: {bad}: ") and type(error).__name__ in line
    done = {f"{i}.{kind}" for i in range(5) if i != 2}
    assert {path.name for path in (tmp_path / "out").glob(f"*.{kind}")} == done


def test_a_folder_with_marks_of_patterns_in_its_name(tmp_path, runs):
    root = tmp_path / "p [2024] *?"
    for name in ("a.png", "sub [1]/b.png", "sub [1]/[c].png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(16, 16)).save(root / name)
    options = {"engine": runs["colour"], "device": "cpu"}
    for i, (pattern, expected) in enumerate(
        {
            "*.png": {"a.png"},
            "**/*.png": {"a.png", "sub [1]/b.png", "sub [1]/[c].png"},
            "sub [1]/*.png": {"b.png", "[c].png"},
            "sub [1]/[c].png": {"[c].png"},
            "s*/[a-c].png": {"sub [1]/b.png"},
        }.items()
    ):
        assert translate(input=root / pattern, output=tmp_path / f"out{i}", **options) == 0
        assert files_under(tmp_path / f"out{i}") == expected, pattern
    assert len(infer(load_engine(runs["colour"], device="cpu"), str(root / "sub [1]" / "*.png"))) == 2


def test_names_that_the_terminal_cannot_write(tmp_path, runs, monkeypatch, run_command_here):
    folder = tmp_path / "\u65e5\u672c"
    folder.mkdir()
    Image.fromarray(image(16, 16)).save(folder / "a.png")
    (folder / "b.png").write_text("no image")
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True))
    options = ["--engine", runs["colour"], "--input", folder, "--output", tmp_path / "out \u65e5", "--device", "cpu"]
    ended = run_command_here(translate_module.main, *options)
    said, faults = (stream.buffer.getvalue().decode("cp1252") for stream in (sys.stdout, sys.stderr))
    assert ended.status == 2 and "1 of 2 files are in" in said and r"out \u65e5" in said
    assert r"\u65e5\u672c" in faults and "not an image" in faults


def test_caches_are_optional_for_a_user_without_a_home(monkeypatch):
    def nobody(_):
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert user_cache() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert user_cache() == Path("/cache/cyclegan_fast")
