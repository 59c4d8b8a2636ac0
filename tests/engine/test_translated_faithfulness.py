"""translate --faithfulness: scores, maps and the page, with runs, engine files and a reference."""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast.checkpoint import load_weights, read_settings, save_checkpoint
from cyclegan_fast.config import DataConfig, ModelConfig, TrainConfig
from cyclegan_fast.engine import load_engine
from cyclegan_fast.engine.inference import translate_values
from cyclegan_fast.engine.translation.faithfulness import MAX_HELD_OUT
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluation.faithfulness import SCORES, measure
from cyclegan_fast.evaluation.outliers import Distribution
from cyclegan_fast.images.model_io import read_input
from cyclegan_fast.monitoring.heat_map import heat_map
from cyclegan_fast.nn import build_networks
from cyclegan_fast.translate import translate


def smooth(height: int, width: int, seed: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    planes = [128 + 100 * np.sin(x * a / 9 + y * b / 7) for a, b in rng.uniform(0.2, 1, (3, 2))]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    (root / "deep").mkdir(parents=True)
    for i in range(10):
        Image.fromarray(smooth(24 + i % 2, 40, i)).save(root / f"{i}.png")
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "deep" / "odd, one.png")
    return root


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "faithfulness.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def run(out: Path, images: Path, engine: Path, **options: Any) -> dict[str, dict[str, str]]:
    found = translate(engine=engine, input=images, output=out, device="cpu", faithfulness=True, batch_size=4, **options)
    assert found == 0
    return rows(out)


def test_every_image_has_scores_and_maps(
    images: Path, tmp_path: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path / "out", images, runs["colour"])
    assert list(found) == [str(path) for path in sorted(images.rglob("*.png"))]
    engine, inverse = (load_engine(runs["colour"], direction=x, device="cpu") for x in ("AtoB", "BtoA"))

    def forward(values: Tensor) -> Tensor:
        return torch.stack(translate_values(engine, [*values]))

    def back(translations: Tensor) -> Tensor:
        return torch.stack(translate_values(inverse, [*translations]))

    for path in (images / "3.png", images / "deep" / "odd, one.png"):
        values = read_input(path, engine.in_format, engine.out_format).values
        translation = forward(values[None])
        expected = measure(values[None], translation, forward, back)
        for name in SCORES:
            assert float(found[str(path)][name]) == pytest.approx(float(getattr(expected, name)[0]), rel=1e-3)
        maps = {"reconstruction": expected.noise_error, "retranslation": expected.retranslation_error}
        for kind, error in maps.items():
            drawn = tmp_path / "out" / "faithfulness" / kind / f"{path.relative_to(images)}.png"
            difference = np.asarray(Image.open(drawn), int) - np.asarray(heat_map(error[0, 0]), int)
            assert difference.shape == (*values.shape[1:], 3) and np.abs(difference).max() <= 2
    page = (tmp_path / "out" / "faithfulness.html").read_text()
    assert page.count("<img") == 10 * 6 and page.count("lagged") >= 10
    assert "images stand out from the translated images themselves; " in capsys.readouterr().out


def test_results_and_metadata_are_those_without_it(images: Path, tmp_path: Path, runs: dict[str, Path]) -> None:
    run(tmp_path / "with", images, runs["colour"])
    assert translate(engine=runs["colour"], input=images, output=tmp_path / "without", device="cpu", batch_size=4) == 0
    for path in (tmp_path / "without").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "with" / path.relative_to(tmp_path / "without")).read_bytes()


def test_engine_files_of_both_directions(
    images: Path, tmp_path: Path, runs: dict[str, Path], onnx_files: dict[str, Path]
) -> None:
    by_run = run(tmp_path / "run", images, runs["colour"])
    by_file = run(tmp_path / "file", images, onnx_files["colour"], back_engine=onnx_files["colour_BtoA"])
    for file, row in by_run.items():
        assert float(by_file[file]["cycle"]) == pytest.approx(float(row["cycle"]), rel=1e-3)
    options: dict[str, Any] = {"input": images, "output": tmp_path / "new", "device": "cpu", "faithfulness": True}
    with pytest.raises(UserError, match=r"--faithfulness needs both generators: .* --back-engine"):
        translate(engine=onnx_files["colour"], **options)
    with pytest.raises(UserError, match=r"--back-engine translates results back, as .*: give one of them, or leave"):
        translate(
            engine=onnx_files["colour"], back_engine=onnx_files["colour_BtoA"], **options | {"faithfulness": False}
        )
    with pytest.raises(UserError, match="AtoB"):
        translate(engine=onnx_files["colour"], back_engine=onnx_files["colour"], **options)
    with pytest.raises(UserError, match="of the other direction"):
        translate(engine=runs["grey_to_colour"], back_engine=onnx_files["colour_BtoA"], **options)


def test_results_are_compared_with_a_reference(
    images: Path, tmp_path: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    reference = tmp_path / "testA"
    reference.mkdir()
    for i in range(9):
        Image.fromarray(smooth(24, 40, 100) + np.uint8(i)).save(reference / f"{i}.png")  # nearly alike
    usual = run(tmp_path / "usual", reference, runs["colour"])
    distribution = Distribution.of([{name: float(row[name]) for name in SCORES} for row in usual.values()])
    (reference / "bad.png").write_bytes(b"no image")
    found = run(tmp_path / "out", images, runs["colour"], faithfulness_reference=str(reference))
    expected = {
        file: "; ".join(distribution.reasons({name: float(row[name]) for name in SCORES}))
        for file, row in found.items()
    }
    assert {file: row["why"] for file, row in found.items()} == expected and any(expected.values())
    assert all(row["flagged"] == ("yes" if row["why"] else "no") for row in found.values())
    assert f"stand out from 9 images of {reference}" in capsys.readouterr().out
    (reference / "8.png").unlink()
    (reference / "7.png").unlink()
    options: dict[str, Any] = {"engine": runs["colour"], "input": images, "output": tmp_path / "new", "device": "cpu"}
    with pytest.raises(UserError, match="7 images; a distribution needs 8 or more"):
        translate(**options, faithfulness=True, faithfulness_reference=str(reference))
    with pytest.raises(UserError, match="give both, or leave it out"):
        translate(**options, faithfulness_reference=str(reference))
    table = tmp_path / "other.csv"
    table.write_text("file,cycle\n1.png,0.1\n")
    with pytest.raises(UserError, match=r"is no faithfulness\.csv of this version"):
        translate(**options, faithfulness=True, faithfulness_reference=str(table))
    with pytest.raises(UserError, match="No such file"):
        translate(**options, faithfulness=True, faithfulness_reference=str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match="there is no such folder"):
        translate(**options, faithfulness=True, faithfulness_reference=str(tmp_path / "none"))


@pytest.fixture
def trained(runs: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A run on data whose testA holds 12 images, nearly alike, and testB one; its parameter is --direction."""
    return train_on(runs, tmp_path, DataConfig(data=tmp_path / "data", direction=getattr(request, "param", "AtoB")))


def train_on(runs: dict[str, Path], tmp_path: Path, where: DataConfig) -> Path:
    """Writes the test images and a run that names them by `where`."""
    data = tmp_path / "data"
    for name in ("testA", "testB"):
        (data / name).mkdir(parents=True)
    for i in range(12):
        Image.fromarray(smooth(24, 40, 100) + np.uint8(i)).save(data / "testA" / f"{i}.png")
    Image.fromarray(smooth(24, 40, 3)).save(data / "testB" / "0.png")
    model = read_settings(runs["colour"]).config.model
    networks = build_networks(model)
    load_weights(runs["colour"], networks)
    config = TrainConfig(model=model, data=where)
    save_checkpoint(tmp_path / "run" / "checkpoints", 1, networks=networks, config=config, progress={"step": 1})
    return tmp_path / "run"


def test_results_are_compared_with_what_the_run_holds_out(
    images: Path, tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = tmp_path / "data"
    by_name = run(tmp_path / "named", images, trained, faithfulness_reference=data / "testA")
    by_default = run(tmp_path / "default", images, trained)
    assert by_default == by_name and any(row["flagged"] == "yes" for row in by_default.values())
    assert f"stand out from 12 images of {data} (test images)" in capsys.readouterr().out
    assert f"compared with 12 of the 12 test images of {data}; --faithfulness-reference names" in caplog.text
    flagged = next(file for file, row in by_default.items() if row["flagged"] == "yes")
    one = run(tmp_path / "one", Path(flagged), trained)
    assert one[flagged]["flagged"] == "yes"  # a single image has something to compare with
    table = tmp_path / "table" / "faithfulness.csv"
    run(table.parent, data / "testA", trained)
    by_table = run(tmp_path / "by_table", images, trained, faithfulness_reference=str(table))
    assert {file: row["flagged"] for file, row in by_table.items()} == {
        file: row["flagged"] for file, row in by_name.items()
    }
    assert f"stand out from 12 images of {table}" in capsys.readouterr().out
    assert run(tmp_path / "itself", images, trained, faithfulness_reference="results") != by_name
    assert "stand out from the translated images themselves" in capsys.readouterr().out


def test_results_are_compared_with_test_images_at_locations_of_their_own(
    images: Path, tmp_path: Path, runs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Of the direction that is translated; where they are gone, with each other."""
    caplog.set_level(logging.INFO)
    tests = {f"test_{x}": (str(tmp_path / "data" / f"test{x}"),) for x in "AB"}
    trained = train_on(runs, tmp_path, DataConfig(data_A=("a",), data_B=("b",), **tests))  # type: ignore[arg-type]
    by_name = run(tmp_path / "named", images, trained, faithfulness_reference=tmp_path / "data" / "testA")
    assert run(tmp_path / "default", images, trained) == by_name
    assert f"compared with 12 of the 12 test images of {' '.join(x for (x,) in tests.values())}; " in caplog.text
    shutil.rmtree(tmp_path / "data" / "testB")
    run(tmp_path / "gone", images, trained)
    assert "faithfulness: " in caplog.text and "testB: is not there" in caplog.text
    assert "compared with each other, as 0 test images of" in caplog.text


def test_translated_images_are_no_measure_of_themselves(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    test = tmp_path / "data" / "testA"
    run(tmp_path / "three", test / "[0-2].png", trained)
    assert "9 images of" in capsys.readouterr().out
    run(tmp_path / "most", test, trained)
    assert "stand out from the translated images themselves" in capsys.readouterr().out
    assert "compared with each other, as 0 test images of" in caplog.text
    for i in range(5):
        (test / f"{i}.png").write_bytes(b"no image")
    run(tmp_path / "bad", tmp_path / "data" / "testB", trained)
    assert "7 images of" in caplog.text and "can be read; the results are compared with each other" in caplog.text


def test_a_sample_of_many_held_out_images_is_enough(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = tmp_path / "data" / "testA"
    for i in range(12, MAX_HELD_OUT + 5):
        Image.fromarray(smooth(8, 8, i)).save(test / f"{i}.png")
    first = run(tmp_path / "first", tmp_path / "data" / "testB", trained)
    assert f"{MAX_HELD_OUT} images of" in capsys.readouterr().out
    assert run(tmp_path / "again", tmp_path / "data" / "testB", trained) == first


@pytest.mark.parametrize("trained", ["AtoB", "BtoA"], indirect=True)
def test_each_direction_has_its_own_held_out_images(
    tmp_path: Path, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    test = tmp_path / "data" / "testA"
    run(tmp_path / "back", test, trained, direction="BtoA")
    assert "as 1 test images of" in caplog.text
    run(tmp_path / "forth", tmp_path / "data" / "testB", trained)
    assert "compared with 12 of the 12 test images of" in caplog.text


def test_a_model_of_one_direction_is_compared_with_the_test_images_of_its_input(
    images: Path, tmp_path: Path, trained: Path, onnx_files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = ModelConfig(model="pix2pix", generator="resnet_1blocks", ngf=6, ndf=4)
    config = TrainConfig(model=model, data=DataConfig(data=tmp_path / "data", direction="BtoA", paired=True))
    networks = build_networks(model)
    save_checkpoint(tmp_path / "back" / "checkpoints", 1, networks=networks, config=config, progress={"step": 1})
    run(tmp_path / "out", images / "deep", tmp_path / "back", back_engine=onnx_files["colour"])
    assert "as 1 test images of" in caplog.text


def test_generators_that_hide_are_named(
    images: Path, tmp_path: Path, runs: dict[str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """A translation that shows gray, and holds its input in less than half a level."""
    module = "cyclegan_fast.engine.translation"

    def hide(engine: Any, values: list[Tensor], **_: Any) -> list[Tensor]:
        if engine.direction == "AtoB":
            return [value * (0.4 / 127.5) for value in values]
        return [(value * (127.5 / 0.4)).clamp(-1, 1) for value in values]

    for name in ("files", "faithfulness"):
        monkeypatch.setattr(f"{module}.{name}.translate_values", hide)
    caplog.set_level(logging.WARNING)
    found = run(tmp_path / "out", images, runs["colour"])
    assert all(float(row["cycle"]) < 1e-6 and float(row["hidden"]) > 20 for row in found.values())
    assert sum("the generators hide the input in patterns that nobody sees" in line for line in caplog.messages) == 1


def test_what_cannot_be_measured_is_refused(images: Path, tmp_path: Path, runs: dict[str, Path]) -> None:
    options: dict[str, Any] = {"engine": runs["colour"], "device": "cpu", "faithfulness": True}
    with pytest.raises(UserError, match="--resume leaves some out: use --overwrite"):
        translate(input=images, output=tmp_path / "out", resume=True, **options)
    with pytest.raises(UserError, match="--faithfulness writes scores, too: name a folder"):
        translate(input=images / "1.png", output=tmp_path / "out.png", **options)
    (images / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="--faithfulness is for images, and the input holds videos"):
        translate(input=images, output=tmp_path / "out", **options)


def test_a_reconstruction_that_is_there_is_not_made_again(
    images: Path, tmp_path: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def counted(engine: Any, values: list[Tensor], **options: Any) -> list[Tensor]:
        passes.append(len(values) if engine.direction == "BtoA" else 0)
        return translate_values(engine, values, **options)

    for name in ("files", "faithfulness"):
        monkeypatch.setattr(f"cyclegan_fast.engine.translation.{name}.translate_values", counted)
    alone = run(tmp_path / "alone", images / "deep", runs["colour"])
    needed = sum(passes)
    passes.clear()
    both = run(tmp_path / "both", images / "deep", runs["colour"], reconstruct=True)
    assert sum(passes) == needed and both == alone


def test_an_interrupted_run_names_the_flag_that_starts_anew(
    images: Path, tmp_path: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    def interrupted(*_: Any, **__: Any) -> list[Tensor]:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"engine": runs["colour"], "input": images, "output": tmp_path / "out", "device": "cpu"}
    with monkeypatch.context() as patched:
        patched.setattr("cyclegan_fast.engine.translation.files.translate_values", interrupted)
        assert translate(**options, faithfulness=True) == 130
    said = capsys.readouterr()
    assert said.err == "interrupted, 11 were left: the same command with --overwrite starts anew\n"
    assert "no image was measured" in said.out
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"\(1 of 33 results\): choose another folder, or --overwrite$"):
        translate(**options, faithfulness=True)


def test_few_images_are_measured_and_none_is_flagged(
    images: Path, tmp_path: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path / "out", images / "deep", runs["colour"])
    assert [row["flagged"] for row in found.values()] == ["no"]
    assert "none is flagged, as that takes 8 images to compare with" in capsys.readouterr().out


def test_colors_of_maps() -> None:
    drawn = np.asarray(heat_map(torch.tensor([[0.0, 0.25, 1.0, torch.nan]])))[0].tolist()
    assert drawn == [[0, 0, 4], [252, 255, 164], [252, 255, 164], [255, 255, 255]]
    gray = np.asarray(heat_map(torch.linspace(0, 0.25, 200)[None]).convert("L"), int)[0]
    assert (np.diff(gray) >= 0).all()  # larger errors are brighter
