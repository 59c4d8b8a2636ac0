"""Large images: exactly as in one piece where that is promised, without seams, and in bounded memory."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast import logs
from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.engine import Tiling, infer, inference, load_engine
from cyclegan_fast.engine.tiling import activations, spill, tiles
from cyclegan_fast.engine.tiling.rows import MirroredRows, TensorRows, mirror_to, reduce
from cyclegan_fast.engine.tiling.tiles import translate_rows
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_networks
from cyclegan_fast.translate import translate
from tests.engine.identity import Identity

SIZES = [(64, 96), (8, 8), (61, 43), (9, 130), (100, 66)]


def image(height, width, channels=3):
    """Uneven all over, so that statistics differ from place to place."""
    slope = torch.linspace(-1, 1, width) * torch.linspace(0, 1, height)[:, None]
    return (torch.rand(channels, height, width) * 1.2 - 0.6 + slope).clamp(-1, 1)


def landscape(height, width):
    """Smooth, dark on the left and bright on the right: the share of seams in what is seen is large."""
    waves = torch.sin(torch.arange(width) / 5.0) * torch.sin(torch.arange(height) / 7.0)[:, None]
    slope = torch.linspace(-0.9, 0.9, width).expand(height, width)
    return torch.stack([slope + 0.1 * waves, slope - 0.1 * waves, 0.5 * slope]).clamp(-1, 1)


def whole(engine, values):
    size = engine.limits.fitting_size(*values.shape[1:])
    return engine.run(mirror_to(values, size)[None])[0, :, : values.shape[1], : values.shape[2]]


def tiled(engine, values, tiling, **options):
    return torch.cat(list(translate_rows(engine, TensorRows(values), tiling, **options)), 1)


@pytest.fixture(scope="module")
def engine(runs):
    return load_engine(runs["colour"], device="cpu")


@pytest.fixture(scope="module", params=["instance", "batch", "none"])
def other_norm(request, tmp_path_factory):
    torch.manual_seed(3)
    model = ModelConfig(generator="resnet_3blocks", ngf=4, ndf=4, norm=request.param, dropout=True)
    networks = build_networks(model)
    for parameter in networks.parameters():
        parameter.data.mul_(3.0)
    folder = tmp_path_factory.mktemp("norm")
    save_checkpoint(folder / "checkpoints", 1, networks=networks, config=TrainConfig(model=model), progress={"step": 1})
    return load_engine(folder, device="cpu")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("tile", [1, 24, 40, 4096])
def test_exact_equals_one_piece(engine, size, tile):
    values = image(*size)
    made = tiled(engine, values, Tiling("exact", tile))
    torch.testing.assert_close(made, whole(engine, values), rtol=0, atol=1e-4)


def test_exact_for_every_norm_and_when_all_of_it_is_spilled_to_files(other_norm, monkeypatch, tmp_path):
    monkeypatch.setattr(spill, "_MEMORY_SHARE", 0.0)
    monkeypatch.setattr(spill.tempfile, "tempdir", str(tmp_path))
    values, shares = image(70, 58), []
    made = tiled(other_norm, values, Tiling("exact", 32), progress=lambda done, of: shares.append(done / of))
    torch.testing.assert_close(made, whole(other_norm, values), rtol=0, atol=1e-4)
    assert list(tmp_path.iterdir()) == []
    assert shares == sorted(shares) and shares[-1] == 1
    assert len(shares) > 20 or not other_norm.network.stem_norm.instance


def test_exact_says_before_it_computes_when_there_is_no_room(engine, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(activations.ops, "conv2d", None)
    monkeypatch.setattr(spill, "_MEMORY_SHARE", 0.0)
    monkeypatch.setattr(spill.os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"needs files of \d+ GB in .*No space left.*TMPDIR .*reduced statistics$"):
        tiled(engine, image(16, 16), Tiling("exact", 16))


def test_with_given_statistics_tiles_are_exact_and_not_a_pixel_nearer_would_do(other_norm):
    """An image no larger than its reduced copy has the very statistics of the whole."""
    values = image(150, 200)
    expected, reach = whole(other_norm, values), tiles._reach(other_norm.network)
    made = tiled(other_norm, values, Tiling("reduced", 64), batch_size=3)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)
    short = tiled(other_norm, values, Tiling("reduced", 96, overlap=reach // 4 * 4))
    assert (short - expected).abs().max() > 10 * (made - expected).abs().max()


def test_there_are_seams_in_tiles_and_none_where_statistics_are_the_images(engine):
    values = landscape(96, 256)
    expected = whole(engine, values)

    def seam(made):
        """How far the error jumps from column 127 to 128, where one tile ends."""
        return (made - expected).diff(dim=2)[:, :, 127].abs().mean().item()

    hard, blended = (seam(tiled(engine, values, Tiling("tile", 128, overlap))) for overlap in (0, 64))
    assert hard > 0.1 and blended < hard / 2
    for tiling in (Tiling("exact", 64), Tiling("reduced", 64)):
        assert (tiled(engine, values, tiling) - expected).abs().max() < 1e-4


def test_a_reduced_copy_comes_near(engine, monkeypatch):
    monkeypatch.setattr(tiles, "_REDUCED", 64)
    values = landscape(160, 240)
    expected = whole(engine, values)
    near, far = (
        (tiled(engine, values, tiling) - expected).abs().mean()
        for tiling in (Tiling("reduced", 64), Tiling("tile", 64, overlap=0))
    )
    assert 0 < near < far


@pytest.mark.parametrize("size", [(40, 64), (100, 37), (64, 64)], ids=str)
@pytest.mark.parametrize(("tile", "overlap"), [(16, None), (17, 8), (32, 0), (64, 4), (8, 4)])
def test_tiles_cover_every_pixel_with_weights_that_sum_to_one(size, tile, overlap):
    values, engine = image(*size), Identity()
    made = tiled(engine, values, Tiling("tile", tile, overlap), batch_size=2)
    torch.testing.assert_close(made, values, rtol=0, atol=1e-6)
    assert all(shape[2] % 4 == 0 and shape[3] % 4 == 0 and shape[0] <= 2 for shape in engine.seen)
    assert max(max(shape[2:]) for shape in engine.seen) <= max(-(-tile // 4) * 4, 8)


def test_u_nets_are_blended_or_refused(runs):
    engine = load_engine(runs["unet"], device="cpu")
    values = image(64, 96)
    for tiling in (Tiling("tile", 64), Tiling("reduced", 64)):
        made = tiled(engine, values, tiling)
        assert made.shape == values.shape and made.isfinite().all()
    with pytest.raises(UserError, match=r"exact statistics are for residual generators, and .* is a U-Net"):
        tiled(engine, values, Tiling("exact", 64))


def test_engines_that_hide_their_norms_take_tiles_only(onnx_files):
    engine, values = load_engine(onnx_files["colour"], device="cpu"), image(40, 72)
    assert tiled(engine, values, Tiling("tile", 32)).shape == values.shape
    for statistics in ("reduced", "exact"):
        with pytest.raises(UserError, match=rf"^{statistics} statistics change the norms inside.*give a checkpoint"):
            tiled(engine, values, Tiling(statistics, 32))


def test_statistics_that_cannot_be_had_are_refused_before_a_file_is_read(onnx_files, tmp_path):
    path, engine = tmp_path / "in" / "a.png", onnx_files["colour"]
    path.parent.mkdir()
    path.touch()
    for call in (
        lambda: infer(load_engine(engine, device="cpu"), path, tiling=Tiling("exact", 32)),
        lambda: translate(engine=engine, input=path.parent, output=tmp_path / "out", statistics="exact"),
    ):
        with pytest.raises(UserError, match=r"^exact statistics change the norms inside"):
            call()


def test_results_that_are_not_finite_are_refused(runs, tmp_path):
    engine = load_engine(runs["colour"], device="cpu")
    engine.network.head.weight.data[0, 0, 0, 0] = float("inf")
    for statistics in ("exact", "reduced", "tile"):
        with pytest.raises(UserError, match="not finite"):
            tiled(engine, image(40, 72), Tiling(statistics, 32))


@pytest.mark.parametrize("settings", [("most",), ("tile", 0), ("tile", 64, 33), ("tile", 64, -1)], ids=str)
def test_tilings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=r"statistics must be|a tile must have"):
        Tiling(*settings)


@pytest.mark.fault(22)
def test_a_side_of_30_000_pixels_passes_in_tiles_as_in_one_piece(engine):
    values = image(12, 30_000)
    made = infer(engine, values, tiling=Tiling("exact", 512))
    torch.testing.assert_close(made, whole(engine, values), rtol=0, atol=1e-4)


@pytest.mark.fault(22)
def test_infer_cuts_large_images_by_itself_and_others_on_request(engine, onnx_files, monkeypatch, caplog, user_sees):
    image = np.random.default_rng(2).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    expected = infer(engine, image)
    monkeypatch.setattr(inference, "_WHOLE", 1000)
    seen = []
    monkeypatch.setattr(
        inference, "translate_rows", lambda *args, **kw: (seen.append(args[2]), translate_rows(*args, **kw))[1]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = infer(engine, [image, image[:8, :8]])
    assert seen == [Tiling("exact")]
    assert np.abs(made[0].astype(int) - expected).max() <= 1
    assert np.abs(infer(engine, image, tiling=Tiling("exact", 32)).astype(int) - expected).max() <= 1
    assert seen[1:] == [Tiling("exact", 32)]
    monkeypatch.setattr(logs, "_reported", set())
    for _ in range(2):
        infer(load_engine(onnx_files["colour"], device="cpu"), image)
    (warning,) = [record.getMessage() for record in caplog.records]  # once in a process
    user_sees(warning)
    assert "pass colour.onnx in tiles, each with statistics of its own: a checkpoint of a residual" in warning
    infer(engine, image, tiling=Tiling("tile", 100))
    assert len(seen) == 4, "an image smaller than a tile is not cut"


def test_rows_of_mirrored_and_reduced_images():
    values = image(5, 7)
    mirrored = MirroredRows(TensorRows(values), (16, 12))
    expected = mirror_to(values, (16, 12))
    for low in range(16):
        for high in range(low + 1, 17):
            torch.testing.assert_close(mirrored.rows(low, high), expected[:, low:high], rtol=0, atol=0)
    even = image(12, 8)
    small = torch.nn.functional.avg_pool2d(even[None], 4)[0]
    torch.testing.assert_close(reduce(TensorRows(even), 3), small)
    torch.testing.assert_close(reduce(TensorRows(even), 12), even)
    assert reduce(TensorRows(image(5, 7)), 4).shape == (3, 3, 4)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("statistics", ["exact", "tile"])
def test_a_large_tiff_passes_in_strips_by_the_command(tmp_path, runs, dtype, statistics):
    tifffile = pytest.importorskip("tifffile")
    pixels = (np.random.default_rng(4).random((90, 70, 3)) * np.iinfo(dtype).max).astype(dtype)
    (tmp_path / "slides").mkdir()
    kind = {"photometric": "rgb", "rowsperstrip": 9, "compression": "zlib" if statistics == "exact" else None}
    tifffile.imwrite(tmp_path / "slides" / "a.tif", pixels, **kind)
    (tmp_path / "slides" / "b.tif").write_bytes((tmp_path / "slides" / "a.tif").read_bytes()[:-3000])
    cut = {"statistics": statistics, "tile": 32}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status = translate(
            engine=runs["colour"], input=tmp_path / "slides", output=tmp_path / "out", device="cpu", **cut
        )
    assert status == 2 and [path.name for path in (tmp_path / "out").iterdir()] == ["a.tif"]
    made = tifffile.imread(tmp_path / "out" / "a.tif")
    expected = infer(load_engine(runs["colour"], device="cpu"), pixels, tiling=Tiling(statistics, 32))
    assert made.dtype == dtype and np.abs(made.astype(int) - expected).max() <= 1
    with pytest.raises(UserError, match="choose a way with --statistics"):
        translate(engine=runs["colour"], input=tmp_path / "slides", output=tmp_path / "new", tile=64)


def test_a_large_tiff_that_has_no_rows_is_read_as_a_whole(tmp_path, runs):
    """One that lies on its side, by its orientation tag."""
    pytest.importorskip("tifffile")
    pixels = np.random.default_rng(4).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    tags = Image.Exif()
    tags[274] = 6
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=tags)
    cut = {"statistics": "tile", "tile": 32}
    assert translate(engine=runs["colour"], input=tmp_path / "a.tif", output=tmp_path / "out", device="cpu", **cut) == 0
    assert Image.open(tmp_path / "out" / "a.tif").size == (90, 70)
