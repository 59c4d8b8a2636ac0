"""python -m cyclegan_fast.evaluate on test images, engines and folders."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast import logs
from cyclegan_fast.checkpoint import load_generators
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.data.scored_images import set_digest
from cyclegan_fast.engine.generator import dump_safetensors, load_generator
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluate import evaluate
from cyclegan_fast.evaluation.feature_distances import frechet_distance
from cyclegan_fast.evaluation.features import FeatureNetwork
from cyclegan_fast.evaluation.folders import score_folder
from cyclegan_fast.evaluation.scorer import SWAPPED
from cyclegan_fast.evaluation.similarity import psnr, ssim
from cyclegan_fast.evaluation.sliced_wasserstein import SlicedWasserstein
from cyclegan_fast.evaluation.structure import gradient_correlation
from cyclegan_fast.metrics import DIRECTIONS
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.training.trainer import Trainer
from cyclegan_fast.version import __version__
from tests.commands import train_settings
from tests.smooth_images import write_smooth_images

FLAGS = (
    "--generator resnet_1blocks --ngf 4 --ndf 4 --discriminator n_layers --n-layers 1 --load-size 36 --crop-size 32 "
    "--device cpu --workers 0 --pool-size 3 --max-steps 4 --log-every 2 --sample-every 0 --checkpoint-every 2 "
    "--keep-checkpoints 0 --eval-every 2 --eval-images 4"
)


def write_images(folder: Path, count: int, seed: int, *, size: tuple[int, int] = (48, 40)) -> Path:
    return write_smooth_images(folder, count, np.random.default_rng(seed), coarse=6, size=size)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for i, name in enumerate(("trainA", "trainB", "testA", "testB")):
        write_images(root / name, 6, seed=i)
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    assert Trainer(train_settings(["--data", str(data), "--out", str(out), *FLAGS.split()])).run() == 0
    return out


def scores_of(out: Path, **options: Any) -> dict[str, Any]:
    assert evaluate(out=out / "scores.json", device="cpu", **options) == 0
    found: dict[str, Any] = json.loads((out / "scores.json").read_text())
    return found


def test_every_kept_checkpoint_has_the_scores_of_its_training(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = scores_of(tmp_path, run=run)
    trained = {event["step"]: event for event in read_events(run) if "scores" in event}
    assert [row["step"] for row in found["scored"]] == [2, 4] == list(trained)
    for row in found["scored"]:
        assert row["values"] == pytest.approx(trained[row["step"]]["scores"], rel=1e-4)
        assert row["spreads"] == pytest.approx(trained[row["step"]]["spreads"], rel=1e-3)
        assert found["untranslated"]["values"] == pytest.approx(trained[row["step"]]["untranslated"])
    assert found["protocol"] == trained[2]["protocol"]
    best = min(found["scored"], key=lambda row: row["values"]["swd"])
    assert found["best"] == best["name"]
    assert found["halves"]["values"].keys() >= {"swd", "swd_AtoB", "color"}
    table = capsys.readouterr().out
    assert f"{best['name']} *" in table and "cycle_ssim ↑" in table and "halves" in table
    single = scores_of(tmp_path, run=run / "checkpoints" / "step_00000002", limit=2, score="cycle_ssim")
    assert [row["step"] for row in single["scored"]] == [2] and single["protocol"].startswith("2 + 2 test images")


def test_what_is_stored_is_enough_to_compute_the_scores_again(run: Path, data: Path, tmp_path: Path) -> None:
    """By a program that gets the file alone, and reads and resizes the images by itself."""
    engine = tmp_path / "AtoB.safetensors"
    engine.write_bytes(dump_safetensors(load_generator(run, "AtoB")))
    scores_of(tmp_path, run=run, limit=5, engines=(engine,))
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["run"] == str(run) and found["data"] == str(data)
    assert found["engines"] == [str(engine)] and found["features"] is None and found["version"] == __version__
    a, b = ([_middle(Path(found["data"], name)) for name in found["files"][side]] for side in "AB")
    assert [len(a), len(b)] == [5, 5]
    digest = hashlib.sha256(b"".join(b"(32, 32, 3) uint8" + pixels.tobytes() for pixels in a + b)).hexdigest()
    assert found["protocol"].startswith(f"5 + 5 test images (set {digest[:8]}), resized to 36x36 (bicubic), the middle")
    swd = SlicedWasserstein(channels=3, min_side=32, images=5)
    one, two = (swd.project([torch.from_numpy(x.copy()).permute(2, 0, 1) / 255 for x in side], 5) for side in (a, b))
    assert found["untranslated"]["values"]["swd_AtoB"] == pytest.approx(swd.distance(one, two).value, rel=1e-4)
    generators, _ = load_generators(Path(found["run"], "checkpoints", found["scored"][0]["name"]), torch.device("cpu"))
    sources = [torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for x in a]
    with torch.inference_mode():
        kept = [gradient_correlation(x, generators["G_A"](x)) for x in sources]
    assert found["scored"][0]["values"]["structure_AtoB"] == pytest.approx(float(torch.cat(kept).mean()), rel=1e-4)


def _middle(path: Path) -> np.ndarray:
    """Resized to 36x36, the middle 32x32."""
    return np.asarray(Image.open(path).resize((36, 36), Image.Resampling.BICUBIC))[2:34, 2:34]


def test_scores_of_other_images_of_as_many_are_by_another_protocol(run: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("testA", "testB")):
        write_images(tmp_path / "other" / name, 6, seed=i + 20)
    own, other = (scores_of(tmp_path, run=run, data=data)["protocol"] for data in (None, tmp_path / "other"))
    assert own != other and own.split("(set")[0] == other.split("(set")[0] and own.split(")")[1] == other.split(")")[1]


def test_engines_are_scored_beside_the_checkpoints(run: Path, tmp_path: Path) -> None:
    engines = tuple(tmp_path / f"{direction}.safetensors" for direction in DIRECTIONS)
    for direction, path in zip(DIRECTIONS, engines, strict=True):
        path.write_bytes(dump_safetensors(load_generator(run, direction)))
    both = scores_of(tmp_path, run=run / "checkpoints" / "step_00000004", engines=engines)
    network, engine = both["scored"]
    assert engine["name"] == "AtoB.safetensors + BtoA.safetensors" and "step" not in engine
    assert engine["values"] == pytest.approx(network["values"], rel=1e-3)
    one = scores_of(tmp_path, run=run, engines=engines[1:])
    assert one["scored"][-1]["values"] == pytest.approx(
        {name: network["values"][name] for name in ("swd_BtoA", "color_BtoA", "structure_BtoA")}, rel=1e-3
    )
    assert one["best"] != "BtoA.safetensors"


def test_swapped_domains_are_pointed_at(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By generators of which each makes its own domain: dark images, and light ones."""

    def paint(value: float) -> Any:
        rng = torch.Generator().manual_seed(0)
        return lambda images: (value + 0.1 * torch.randn(images.shape, generator=rng)).clamp(-1, 1)

    for name, dark in (("testA", True), ("testB", False)):
        (tmp_path / name).mkdir()
        for i in range(4):
            noise = np.random.default_rng(i).normal(0, 12, (40, 40, 3)) if dark else np.zeros((40, 40, 3))
            ramp = np.linspace(0, 90, 40)[:, None, None] if not dark else 0
            Image.fromarray((100 + noise + ramp).clip(0, 255).astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    noisy, smooth = paint(-0.2), lambda images: torch.linspace(-0.2, 0.5, 32)[:, None].expand_as(images)
    stored = SimpleNamespace(progress={}, config=TrainConfig())
    for makes_A, makes_B, expected in ((noisy, smooth, False), (smooth, noisy, True)):
        monkeypatch.setattr(
            "cyclegan_fast.evaluation.runs.load_generators",
            lambda path, device, a=makes_A, b=makes_B: ({"G_A": b, "G_B": a}, stored),
        )
        caplog.clear()
        scores_of(tmp_path / "out", run=run, data=tmp_path)
        assert (f"{tmp_path}: {SWAPPED}" in caplog.messages) is expected


def test_a_folder_is_scored_against_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = write_images(tmp_path / "x", 5, seed=1), write_images(tmp_path / "y", 6, seed=2)
    found = scores_of(tmp_path, images=x, against=y)
    (row,) = found["scored"]
    chosen = [[folder / name for name in found["files"][side]] for folder, side in ((x, "images"), (y, "against"))]
    loaded = [[_unit(path) for path in paths] for paths in chosen]
    swd = SlicedWasserstein(channels=3, min_side=40, images=6)
    distance = swd.distance(swd.project(loaded[0], 5), swd.project(loaded[1], 6))
    assert row["values"]["swd"] == pytest.approx(distance.value, rel=1e-5) and row["name"] == str(x)
    sets = [set_digest([np.asarray(Image.open(path)) for path in paths]) for paths in chosen]
    expected = f"5 images of {x} (set {sets[0]}) against 6 of {y} (set {sets[1]}), as they are (48x40)"
    assert found["protocol"] == expected
    assert found["folders"] == {"images": str(x), "against": str(y)}
    assert [sorted(files) for files in found["files"].values()] == [[f"{i}.png" for i in range(n)] for n in (5, 6)]
    same = scores_of(tmp_path, images=x, against=x)
    assert same["scored"][0]["values"] == {"swd": 0, "color": 0}
    assert "halves" in capsys.readouterr().out
    sized = scores_of(tmp_path, images=x, against=y, size=24, limit=3)
    assert re.fullmatch(
        rf"3 images of {x} \(set \w{{8}}\) against 3 of {y} \(set \w{{8}}\), resized to 24x24 \(bicubic\)",
        sized["protocol"],
    )


def test_a_sample_of_a_folder_is_scored_in_the_order_that_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the names of the files are all that it takes to compute the scores again."""
    monkeypatch.chdir(tmp_path)
    x, y = write_images(tmp_path / "x", 3, seed=1), tmp_path / "y"
    for name in ("c", "a", "b"):
        write_images(y / name, 4, seed=ord(name))
    found = scores_of(tmp_path, images=Path("x"), against=Path("y"), limit=7)
    files = found["files"]["against"]
    assert len(set(files)) == 7 and {Path(name).parent.name for name in files} > {"a"}
    assert found["folders"] == {"images": str(x), "against": str(y)}
    loaded = [_unit(x / name) for name in found["files"]["images"]], [_unit(y / name) for name in files]
    swd = SlicedWasserstein(channels=3, min_side=40, images=7)
    distance = swd.distance(swd.project(loaded[0], 3), swd.project(loaded[1], 7))
    assert found["scored"][0]["values"]["swd"] == pytest.approx(distance.value, rel=1e-5)


def _unit(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255


def test_folders_of_pairs_are_scored_pair_by_pair(tmp_path: Path) -> None:
    x, y = write_images(tmp_path / "x", 4, seed=1), write_images(tmp_path / "y", 4, seed=2)
    (row,) = scores_of(tmp_path, images=x, against=y, paired=True)["scored"]
    pairs = [(_unit(x / f"{i}.png"), _unit(y / f"{i}.png")) for i in range(4)]
    assert row["values"]["psnr"] == pytest.approx(np.mean([psnr(a, b) for a, b in pairs]), rel=1e-4)
    assert row["values"]["ssim"] == pytest.approx(np.mean([ssim(a, b) for a, b in pairs]), abs=1e-5)
    write_images(tmp_path / "larger", 4, seed=3, size=(50, 40))
    with pytest.raises(
        UserError, match=r"x/\d\.png: has 48x40 pixels and its partner 50x40; --size resizes all images"
    ):
        evaluate(images=x, against=tmp_path / "larger", paired=True, out=tmp_path / "s.json", device="cpu")
    (y / "3.png").rename(y / "4.png")
    with pytest.raises(UserError, match="--paired: these have no partner"):
        evaluate(images=x, against=y, paired=True, out=tmp_path / "s.json", device="cpu")


@pytest.mark.parametrize("kind", ["grey of 16 bits", "5 channels", "float"])
def test_folders_of_other_kinds_of_images_are_scored(tmp_path: Path, kind: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(0)
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            noise = rng.random((20, 23))
            pixels: np.ndarray = {
                "grey of 16 bits": (noise * 60000).astype(np.uint16),
                "5 channels": (rng.random((20, 23, 5)) * 255).astype(np.uint8),
                "float": (noise * 300).astype(np.float32),
            }[kind]
            shape = {"planarconfig": "contig"} if pixels.ndim == 3 else {}
            tifffile.imwrite(tmp_path / folder / f"{i}.tif", pixels, photometric="minisblack", **shape)
    (row,) = scores_of(tmp_path, images=tmp_path / "x", against=tmp_path / "y")["scored"]
    assert 0 < row["values"]["swd"] < 300 and 0 < row["values"]["color"] < 0.1


class Means(torch.nn.Module):
    """Of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 1).flatten(1)


@pytest.mark.parametrize(("count", "notes"), [(6, ["FID of 6 images"]), (50, []), (99, []), (100, [])])
def test_only_what_is_scored_is_too_few_for_fid(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, count: int, notes: list[str]
) -> None:
    """And not the halves of the target, which are a yardstick."""
    monkeypatch.setattr(logs, "_reported", set())
    network = FeatureNetwork("means", Means(), None)
    x, y = (write_images(tmp_path / name, count, seed=i, size=(16, 16)) for i, name in enumerate("xy"))
    found = score_folder(x, y, torch.device("cpu"), features=network)
    assert found["halves"]["values"].keys() >= {"fid", "kid"}
    assert [line.split(" says")[0] for line in caplog.messages] == notes
    assert ("FID says little" in found["protocol"]) is bool(notes)


def test_features_of_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.export.save(torch.export.export(Means(), (torch.rand(1, 3, 40, 40),)), tmp_path / "f.pt2")
    x, y = (write_images(tmp_path / name, 8, seed=i, size=(40, 40)) for i, name in enumerate("xy"))
    found = scores_of(tmp_path, images=x, against=y, features=str(tmp_path / "f.pt2"))
    means = [torch.stack([_unit(folder / f"{i}.png").double().mean(dim=(1, 2)) for i in range(8)]) for folder in (x, y)]
    assert found["scored"][0]["values"]["fid"] == pytest.approx(frechet_distance(*means), rel=1e-4)
    assert found["scored"][0]["spreads"]["kid"] > 0
    digest = hashlib.sha256((tmp_path / "f.pt2").read_bytes()).hexdigest()[:8]
    few = "FID says little of fewer than 50 images: prefer KID"
    assert found["protocol"].endswith(f"; features of f.pt2 (SHA-256 {digest}) at 40x40 (bicubic); {few}")
    assert found["features"] == str(tmp_path / "f.pt2")
    assert few in " ".join(capsys.readouterr().out.split())  # above the table, too


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "what is to be scored is named by one of --checkpoint, --run, --images; got none of them"),
        ({"run": Path("r"), "images": Path("i")}, "got --run and --images"),
        (
            {"engines": (Path("a.onnx"),), "data": Path("d")},
            "got none of them; for an engine alone translate the test images with it, and score those by --images and",
        ),
        ({"images": Path("i")}, "--against is missing"),
        ({"images": Path("none"), "against": Path("none")}, "none: there is no such folder"),
        ({"run": Path("none")}, "none: there is no checkpoint here"),
        ({"run": Path("r"), "score": "swdd"}, "unknown score 'swdd', did you mean 'swd'?"),
        ({"run": Path("r"), "features_size": 3}, "--features-size is the input of a network"),
        ({"run": Path("r"), "features": "f.pt2"}, "--features f.pt2: there is no such file"),
        ({"run": Path("r"), "features": "f", "features_size": 0}, "--features-size must be at least 1, got 0"),
        ({"images": Path("i"), "size": 0}, "--size must be at least 1, got 0"),
        ({"checkpoint": Path("c"), "paired": True}, "--paired goes with --run or --images, not with --checkpoint"),
        ({"run": Path("r"), "batch_size": 4}, "--batch-size goes with --checkpoint, not with --run"),
        ({"images": Path("i"), "data": Path("d")}, "--data goes with --checkpoint or --run, not with --images"),
        (
            {"checkpoint": Path("c"), "features": "f.pt2"},
            "--features goes with --run or --images, not with --checkpoint",
        ),
        ({"run": Path("r"), "engines": (Path("e"),), "max_drop": 0.1}, "--max-drop goes with --checkpoint"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        evaluate(**options, device="cpu")
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_folders_that_cannot_be_compared(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    small = write_images(tmp_path / "small", 1, seed=0, size=(6, 20))
    with pytest.raises(UserError, match="has 6x20 pixels; 7 of each side are needed"):
        evaluate(images=small, against=small, out=tmp_path / "s.json", device="cpu")
    with pytest.raises(UserError, match="--size must be at least 7, got 6"):
        evaluate(images=small, against=small, size=6, out=tmp_path / "s.json", device="cpu")
    (tmp_path / "five").mkdir()
    five = np.zeros((20, 20, 5), np.uint8)
    tifffile.imwrite(tmp_path / "five" / "x.tif", five, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UserError, match="the images have 3 and 5 channels"):
        evaluate(images=small, against=tmp_path / "five", out=tmp_path / "s.json", device="cpu")


def test_a_run_without_test_images_is_one_sentence(run: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=r"data: no test images of A and B; --data takes a folder with testA and testB"):
        evaluate(run=run, data=tmp_path / "data", out=tmp_path / "s.json", device="cpu")


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        ("l1", "--score l1 compares an image with its partner: add --paired, or choose another"),
        ("psnr_BtoA", "--score psnr_BtoA compares an image with its partner: add --paired"),
        ("fid", "--score fid compares features: name a network with --features, or choose another"),
    ],
)
def test_a_score_that_is_not_computed_tells_no_best(run: Path, tmp_path: Path, score: str, reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        evaluate(run=run, score=score, out=tmp_path / "s.json", device="cpu")


def test_a_run_of_locations_names_no_folder_of_tests(data: Path, tmp_path: Path) -> None:
    flags = [*FLAGS.split(), "--data-A", str(data / "trainA"), "--data-B", str(data / "trainB")]
    assert Trainer(train_settings(["--out", str(tmp_path / "run"), *flags])).run() == 0
    with pytest.raises(UserError, match=r"^the run has no --data: name a folder with testA and testB by --data"):
        evaluate(run=tmp_path / "run", out=tmp_path / "s.json", device="cpu")
    assert scores_of(tmp_path, run=tmp_path / "run", data=data)["data"] == str(data)
