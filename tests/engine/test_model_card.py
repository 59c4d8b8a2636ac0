"""The folder that is published says only what is so, runs by its own words, and tells nothing of this machine."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from cyclegan_fast.engine import build_engine, infer, load_engine
from cyclegan_fast.engine.export.model_card import write_card
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_networks


@pytest.fixture
def run(tmp_path):
    """A run whose training set has test images, and which was scored."""
    rng = np.random.default_rng(0)
    for name in ("testA/0.png", "testA/1.jpg", "testB/0.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 300, 3), dtype=np.uint8)).save(tmp_path / "data" / name)
    config = TrainConfig(
        model=ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4),
        data=DataConfig(data=tmp_path / "data"),
        run=RunConfig(out=tmp_path / "run"),
    )
    networks = build_networks(config.model)
    save_checkpoint(tmp_path / "run" / "checkpoints", 7, networks=networks, config=config, progress={"step": 1234})
    (tmp_path / "run" / "scores.json").write_text(json.dumps({"photo_to_labels": {"class_iou": 0.5}, "step": 1234}))
    return tmp_path / "run"


def test_scores_of_engines_do_not_pass_for_those_of_the_weights(run, tmp_path):
    own = {"photo_to_labels": {"class_iou": 0.25}}
    (run / "scores.json").write_text(json.dumps({"photo_to_labels": {"class_iou": 0.125}, "checkpoint": own}))
    text = (write_card(run, tmp_path / "h2z", licence="cc-by-4.0", device="cpu") / "README.md").read_text()
    assert "| photo to labels | 0.250 |" in text and "0.125" not in text
    assert json.loads((tmp_path / "h2z" / "scores.json").read_text()) == own


def test_scores_of_scenes_are_those_of_the_published_checkpoint(run, tmp_path):
    for number, shown in ((6, False), (7, True)):
        scored = {"photo_to_labels": {"class_iou": 0.25}}
        of_run = {"run": f"/home/me/run/checkpoints/step_{number:08d}"}
        of_step = {"step": 1234 if shown else 1000}
        for i, stored in enumerate((scored | of_run, {"checkpoint": scored, **of_run}, scored | of_step)):
            (run / "scores.json").write_text(json.dumps(stored))
            card = write_card(run, tmp_path / f"{number}-{i}", licence="cc-by-4.0", device="cpu")
            text = (card / "README.md").read_text()
            assert ("| photo to labels | 0.250 |" in text) == shown and "/home/me" not in text, stored
    (run / "scores.json").write_text('{"run": 5}')
    with pytest.raises(UserError, match=r"cannot be read"):
        write_card(run, tmp_path / "damaged", licence="cc-by-4.0", device="cpu")


def image_scores(step, swd):
    values = {"swd": swd + 1, "swd_AtoB": swd, "swd_BtoA": swd + 2, "psnr_AtoB": None}
    return {"name": f"step_{step}", "step": step, "values": values, "spreads": {"swd_AtoB": 0.25}}


def test_scores_of_test_images_are_those_of_the_published_weights(run, tmp_path):
    scores = {
        "protocol": "5 + 5 test images",
        "scored": [image_scores(1000, 31.5), image_scores(1234, 41.5), {**image_scores(0, 9.0), "step": None}],
    }
    private = {
        "run": "/home/me/run",
        "data": "/home/me/data",
        "files": {"A": ["testA/Ms Smith.png"]},
        "engines": ["/x"],
    }
    (run / "scores.json").write_text(json.dumps(scores | private))
    out = write_card(run, tmp_path / "h2z", licence="cc-by-4.0", device="cpu")
    assert json.loads((out / "scores.json").read_text()).keys() == scores.keys()
    text = (out / "README.md").read_text()
    assert "| score | AtoB | BtoA | better is |" in text and "Of 5 + 5 test images." in text
    assert "| Sliced Wasserstein distance | 41.5 ± 0.25 | 43.5 | lower |" in text and "PSNR" not in text
    assert [row["step"] for row in json.loads((out / "scores.json").read_text())["scored"]] == [1234]
    (run / "scores.json").write_text(json.dumps(scores | {"scored": scores["scored"][:1]}))
    text = (write_card(run, tmp_path / "other", licence="cc-by-4.0", device="cpu") / "README.md").read_text()
    assert "## Scores" not in text  # of other weights


def test_scores_of_the_training_stand_in_for_those_of_a_command(run, tmp_path):
    (run / "scores.json").unlink()
    config = TrainConfig(
        model=ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4),
        data=DataConfig(data=tmp_path / "data", direction="BtoA"),
    )
    scores = {"swd_AtoB": 20.5, "swd_BtoA": 30.5}
    folder, networks = tmp_path / "scored", build_networks(config.model)
    save_checkpoint(folder / "checkpoints", 9, networks=networks, config=config, progress={"step": 9}, scores=scores)
    text = (write_card(folder, tmp_path / "h2z", licence="cc-by-4.0", device="cpu") / "README.md").read_text()
    assert "| Sliced Wasserstein distance | 30.5 | 20.5 | lower |" in text  # the networks' A is the folder's B
    assert "Of test images. [scores.json]" in text


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_a_model_of_one_direction_is_described_as_that(tmp_path, direction):
    torch.manual_seed(0)
    model = ModelConfig(model="pix2pix", generator="unet_32", ngf=4, ndf=4)
    config = TrainConfig(model=model, data=DataConfig(paired=True, direction=direction))
    scores = {"swd_AtoB": 20.5}  # as the networks name the domains
    save = {"networks": build_networks(model), "config": config, "progress": {"step": 9}, "scores": scores}
    save_checkpoint(tmp_path / "run" / "checkpoints", 9, **save)
    out = write_card(tmp_path / "run", tmp_path / "card", device="cpu")
    text = (out / "README.md").read_text()
    assert f"| score | {direction} | better is |" in text and "| Sliced Wasserstein distance | 20.5 | lower |" in text
    assert (
        "| weight of L1 to the partner | 100 |" in text
        and "cycle weights" not in text
        and "identity weight" not in text
    )
    assert "Conditional Adversarial Networks. CVPR 2017" in text and "ICCV" not in text
    alone = write_card(out / f"{direction}.safetensors", tmp_path / "alone", device="cpu")
    assert "A pix2pix (Isola et al. 2017) model" in (alone / "README.md").read_text()  # though it has no settings


def test_the_folder_holds_what_the_card_says(run, tmp_path):
    out = write_card(run, tmp_path / "h2z", licence="cc-by-4.0", device="cpu")
    text = (out / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "cc-by-4.0" and head["library_name"] == "cyclegan-fast"
    assert "| cycle weights | 10 and 10 |\n| identity weight | 0.5 |" in text and "ICCV 2017" in text
    assert "# h2z\n" in text and "| steps | 1,234 |" in text and "| photo to labels | 0.500 |" in text
    names = {path.name for path in out.iterdir()}
    assert names == {"README.md", "AtoB.safetensors", "BtoA.safetensors", "settings.yaml", "scores.json",
                     "AtoB.png", "BtoA.png"}  # fmt: skip
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target in names
    digests = dict(re.findall(r"\| (\S+) \| [\d,]+ \| `(\w{64})` \|", text))
    assert len(digests) == 4
    for name, digest in digests.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    for path in (out / "README.md", out / "settings.yaml"):
        assert str(tmp_path) not in path.read_text()
    with Image.open(out / "AtoB.png") as grid:
        assert grid.width >= 3 * 256 * 0.5 and grid.height > 2 * 15
    image = np.random.default_rng(1).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    for direction in ("AtoB", "BtoA"):
        published = load_engine(out / f"{direction}.safetensors", device="cpu")
        np.testing.assert_array_equal(
            infer(published, image), infer(load_engine(run, direction=direction, device="cpu"), image)
        )


def test_its_python_runs_as_written(run, tmp_path):
    out = write_card(run, tmp_path / "h2z", device="cpu")
    (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    Image.new("RGB", (20, 30)).save(out / "image.jpg")
    done = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Image.open(out / "translated.png") as image:
        assert image.size == (20, 30)


def test_the_commands_former_name_says_so(tmp_path):
    command = [sys.executable, "-m", "cyclegan_fast.card", "--checkpoint", "none", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    note, error = done.stderr.splitlines()
    assert note.startswith("note: python -m cyclegan_fast.card is now python -m cyclegan_fast.model_card")
    assert done.returncode == 2 and error.startswith("error: none")


def test_one_generator_without_a_run(run, tmp_path):
    weights = build_engine(run, tmp_path / "g.safetensors", direction="BtoA")
    out = write_card(weights, tmp_path / "g", images={"BtoA": tmp_path / "data" / "testB"}, device="cpu")
    assert {path.name for path in out.iterdir()} == {"README.md", "BtoA.safetensors", "BtoA.png"}
    text = (out / "README.md").read_text()
    assert "## Training" not in text and "## Scores" not in text and "license" not in text
    with pytest.raises(UserError, match="holds no generator AtoB"):
        write_card(weights, tmp_path / "other", images={"AtoB": tmp_path / "data" / "testA"})


@pytest.mark.parametrize("place", ["data", "data/testA"])
def test_images_in_quarantine_are_not_shown(run, tmp_path, place):
    (tmp_path / "data" / "testA" / "1.jpg").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"1\.jpg: not an image"):
        write_card(run, tmp_path / "card", device="cpu")
    (tmp_path / place / "quarantine.txt").write_text("testA/1.jpg\n" if place == "data" else "1.jpg\n")
    assert (write_card(run, tmp_path / "card", device="cpu") / "AtoB.png").is_file()


def test_bad_input_leaves_nothing(run, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already: name a new folder"):
        write_card(run, tmp_path / "there")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        write_card(run, tmp_path / "card", images={"AtoB": tmp_path / "empty"}, device="cpu")
    assert not (tmp_path / "card").exists() and not list(tmp_path.glob(".partial*"))
    (run / "scores.json").write_text("{")
    with pytest.raises(UserError, match=r"scores\.json cannot be read"):
        write_card(run, tmp_path / "card")
