"""pix2pix: its step against the plain restatement, and a whole run of it by the commands."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cyclegan_fast
from cyclegan_fast.checkpoint import load_generators, load_weights, read_settings
from cyclegan_fast.checkpoint.reference_format import load_reference_folder, save_reference_network, to_reference
from cyclegan_fast.config import ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.errors import UserError
from cyclegan_fast.models import MODELS, unet_for
from cyclegan_fast.monitoring.evaluations import score_line
from cyclegan_fast.monitoring.samples import read_samples
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.models import build_step
from cyclegan_fast.training.models.pix2pix import Pix2PixStep
from cyclegan_fast.training.trainer import Trainer
from tests.commands import run_in_process, train_settings
from tests.plain.networks import PlainNLayerDiscriminator, PlainUnetGenerator
from tests.plain.pix2pix import PlainPix2Pix
from tests.training.gradients import recorded_gradients

STEPS = 8
SMALL = "--model pix2pix --ngf 4 --ndf 4 --load-size 36 --crop-size 32 --discriminator n_layers --n-layers 2"


def config(norm: str = "instance", batch: int = 1, micro_batches: int = 1, **objective: object) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(
            model="pix2pix", generator="unet_32", discriminator="n_layers", n_layers=2, ngf=4, ndf=5, norm=norm,  # type: ignore[arg-type]
            channels_B=2,
        ),
        objective=ObjectiveConfig(**({"gan_mode": "vanilla", "pool_size": 0} | objective)),  # type: ignore[arg-type]
        optim=OptimConfig(batch_size=batch // micro_batches, grad_accumulation=micro_batches),
        run=RunConfig(seed=3),
    )  # fmt: skip


def networks_of(found: TrainConfig) -> nn.ModuleDict:
    torch.manual_seed(0)
    networks = build_networks(found.model).double()
    for p in networks.parameters():  # larger weights than the initial ones, so that every term matters
        p.data.mul_(3)
    return networks


def plain_of(networks: nn.ModuleDict, found: TrainConfig) -> tuple[nn.Module, nn.Module]:
    model = found.model
    G = PlainUnetGenerator(3, 2, 5, ngf=model.ngf, norm=model.norm).double()
    D = PlainNLayerDiscriminator(5, ndf=model.ndf, n_layers=2, norm=model.norm).double()
    G.load_state_dict(to_reference(networks["G_A"]))
    D.load_state_dict(to_reference(networks["D_A"]))
    return G, D


def batches(batch: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [
        tuple(torch.rand(batch, channels, 32, 64, dtype=torch.float64) * 2 - 1 for channels in (3, 2))  # type: ignore[misc]
        for _ in range(STEPS)
    ]


def named(network: nn.Module, gradients: dict[nn.Parameter, Tensor]) -> dict[str, Tensor]:
    """Gradients under the reference's names."""
    shadow = copy.deepcopy(network)
    for ours, theirs in zip(shadow.parameters(), network.parameters(), strict=True):
        ours.data = gradients.get(theirs, torch.zeros_like(theirs))
    return to_reference(shadow)


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


@pytest.mark.parametrize(
    ("mode", "norm", "batch", "pool"),
    [
        ("vanilla", "instance", 1, 0),
        ("vanilla", "instance", 2, 3),
        ("vanilla", "batch", 2, 0),
        ("lsgan", "instance", 1, 0),
        ("hinge", "instance", 1, 0),
    ],
)
def test_steps_in_float64_equal_the_plain_step(mode: str, norm: str, batch: int, pool: int) -> None:
    found = config(norm, batch, gan_mode=mode, pool_size=pool)
    networks = networks_of(found)
    G, D = plain_of(networks, found)
    plain = PlainPix2Pix(G, D, mode=mode, pool_size=pool, pool_seed=2 * 3)
    step = build_step(networks, found)
    recorded = recorded_gradients(step)
    for i, (A, B) in enumerate(batches(batch)):
        before = copy.deepcopy(networks)
        images, losses = step(A, B)
        expected = plain.step(A, B)
        assert list(losses) == ["G_A", "L1_A", "D_A"]
        assert set(images) == {"real_A", "real_B", "fake_B"} and images["fake_B"].shape == B.shape
        for name, value in expected.items():
            assert relative_error(losses[name], value) <= 1e-9, f"step {i}: loss {name}"
        for name, network in (("G_A", G), ("D_A", D)):
            for key, gradient in named(networks[name], recorded).items():
                weight = dict(network.named_parameters()).get(key)
                if weight is None or weight.grad is None or not gradient.any():
                    continue  # running statistics, and biases that an instance norm cancels
                assert relative_error(gradient, weight.grad) <= 1e-9, f"step {i}: gradient of {name}.{key}"
        moved = [bool((a != b).any()) for a, b in zip(networks.parameters(), before.parameters(), strict=True)]
        assert any(moved)
    assert pool == 0 or (plain.pool is not None and plain.pool.swaps), "the pool never came into play"


def test_every_trained_weight_is_compared_with_the_plain_step() -> None:
    """The comparison above skips what has no gradient; nothing that is trained may be without one."""
    found = config()
    networks = networks_of(found)
    step = build_step(networks, found)
    recorded = recorded_gradients(step)
    step(*batches(1)[0])
    assert set(recorded) == {p for p in networks.parameters() if p.requires_grad}
    assert all(bool(gradient.any()) for gradient in recorded.values())


def test_micro_batches_equal_one_batch() -> None:
    whole, parts = (networks_of(config()) for _ in range(2))
    steps = build_step(whole, config(batch=4)), build_step(parts, config(batch=4, micro_batches=2))
    for A, B in batches(4)[:3]:
        (images, losses), (images_of_parts, losses_of_parts) = (step(A, B) for step in steps)
        torch.testing.assert_close(images_of_parts["fake_B"], images["fake_B"])
        for name, loss in losses.items():
            assert relative_error(losses_of_parts[name], loss) <= 1e-9, name
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_l1_alone_needs_no_discriminator() -> None:
    found = config(lambda_gan=0.0)
    networks = networks_of(found)
    before = copy.deepcopy(networks["D_A"])
    step = build_step(networks, found)
    _, losses = step(*batches(1)[0])
    assert list(losses) == ["L1_A"] and list(step.updates_made()) == ["the generators"]
    assert all(torch.equal(a, b) for a, b in zip(networks["D_A"].parameters(), before.parameters(), strict=True))


def test_a_loss_that_is_not_finite_moves_no_weight_with_anomaly_detection() -> None:
    found = TrainConfig(model=config().model, objective=config().objective, run=RunConfig(detect_anomaly=True))
    networks = networks_of(found)
    before = copy.deepcopy(networks)
    A, B = batches(1)[0]
    build_step(networks, found)(A, B.index_fill(3, torch.tensor(0), torch.nan))
    assert all(torch.equal(a, b) for a, b in zip(networks.parameters(), before.parameters(), strict=True))


def test_a_fault_of_the_generator_alone_is_replayed_and_the_discriminator_has_learned(
    pairs: Path, tmp_path: Path
) -> None:
    """Its scores are finite, and the generator's loss, 1e30 times as large, is not."""
    flags = f"{SMALL} --max-steps 2 --sample-every 0 --eval-every 0 --device cpu --lambda-gan 1e30 --detect-anomaly"
    trainer = Trainer(train_settings([*flags.split(), "--data", str(pairs), "--out", str(tmp_path)]))
    trainer.networks["D_A"].last.weight.data.mul_(1e10)
    before = copy.deepcopy(trainer.networks)
    with pytest.raises(UserError) as raised:
        trainer.run()
    assert re.fullmatch(
        r"step 1: the loss G_A is not finite; the weights of the generators of before it, and those of the "
        r"discriminators, which were updated, are saved in \S+; replayed in float32, "
        r"(all results are finite, and the first tensor|the loss G_A is not finite).*",
        str(raised.value),
    ), raised.value
    for name, moved in (("G_A", False), ("D_A", True)):
        pairs_of_weights = zip(trainer.networks[name].parameters(), before[name].parameters(), strict=True)
        assert any(bool((a != b).any()) for a, b in pairs_of_weights) == moved


def test_the_defaults_are_those_of_the_authors() -> None:
    found = train_settings(["--model", "pix2pix"])
    assert found.data.paired and found.model.dropout
    assert (found.model.generator, found.objective.gan_mode, found.objective.pool_size) == ("unet_256", "vanilla", 0)
    assert found.objective.lambda_L1 == 100 and found.optim == OptimConfig()
    given = train_settings(
        ["--model", "pix2pix", "--generator", "resnet_6blocks", "--no-dropout", "--gan-mode", "lsgan"]
    )
    assert (given.model.generator, given.model.dropout, given.objective.gan_mode) == ("resnet_6blocks", False, "lsgan")
    assert train_settings([]) == TrainConfig()


@pytest.mark.parametrize(
    ("crop", "preprocess", "unet"),
    [
        (256, "resize_and_crop", "unet_256"),
        (512, "crop", "unet_256"),
        (192, "crop", "unet_64"),
        (96, "crop", "unet_32"),
        (200, "crop", ""),
        (256, "scale_width", ""),
    ],
)
def test_the_unet_follows_from_the_crop(crop: int, preprocess: str, unet: str) -> None:
    words = f"--model pix2pix --load-size {crop} --crop-size {crop} --preprocess {preprocess}".split()
    found = train_settings(words)
    assert unet_for(found.data) == unet
    assert found.model.generator == (unet or "resnet_9blocks")


def train(out: Path, flags: str = "", *words: str) -> Trainer:
    """Trains for a few steps; returns the trainer afterwards."""
    settings = f"{SMALL} --out {out} --log-every 1 --sample-every 4 --device cpu {flags}"
    trainer = Trainer(train_settings([*settings.split(), *words]))
    trainer.run()
    return trainer


def losses(out: Path) -> list[dict[str, float]]:
    records = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    return [record["losses"] for record in records if "losses" in record]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs") / "data"
    render_dataset(root, 36, 6, 4, seed=0, paired=True)
    return root


@pytest.fixture(scope="module")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(out, "--ema 0.9 --amp --max-steps 8 --eval-every 4 --score ssim_AtoB", "--data", str(pairs))
    return out


def test_paired_scenes_show_the_same_scene_under_one_name(pairs: Path) -> None:
    folders = [sorted(path.name for path in (pairs / name).iterdir()) for name in ("trainA", "trainB")]
    assert folders[0] == folders[1] and len(folders[0]) == 6
    labels, photo = (np.asarray(Image.open(pairs / name / folders[0][0]).convert("L")) for name in ("trainA", "trainB"))
    other = np.asarray(Image.open(pairs / "trainB" / folders[0][1]).convert("L"))
    edges = [np.abs(np.diff(image.astype(float), axis=1)).ravel() for image in (labels, photo, other)]
    assert np.corrcoef(edges[0], edges[1])[0, 1] > np.corrcoef(edges[0], edges[2])[0, 1] + 0.2


def test_a_run_scores_and_shows_its_one_direction(run: Path) -> None:
    assert [list(found) for found in losses(run)] == [["G_A", "L1_A", "D_A"]] * 8
    values = scores_of(run)["scores"]
    assert {"l1_AtoB", "psnr_AtoB", "ssim_AtoB", "swd_AtoB"} <= values.keys()
    assert not any(name.endswith("_BtoA") or name.startswith(("cycle", "hidden")) for name in values)
    rows = read_samples(run, 8)
    assert len(rows) == 4 and {row.domain for row in rows} == {"A"} and all(len(row.images) == 3 for row in rows)
    assert score_line(scores_of(run), None).startswith("scores after step 4: swd_AtoB ")
    report = (run / "report.html").read_text()
    assert "Mean of both directions" not in report and "Sliced Wasserstein distance" in report
    assert "pix2pix run" in report and "partner" in report and "reconstruction" not in report


def scores_of(run: Path) -> dict[str, Any]:
    """The first record of scores."""
    records = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return next(record for record in records if "scores" in record)


def test_the_third_image_of_a_sample_is_the_partner(run: Path, pairs: Path) -> None:
    for row in read_samples(run, 8):
        names = [np.asarray(Image.open(pairs / f"test{d}" / Path(row.name).name).convert("RGB"), float) for d in "AB"]
        middle = [image[2:-2, 2:-2] for image in names]  # 36 pixels, cropped to 32
        for image, truth in zip((row.images[0], row.images[2]), middle, strict=True):
            assert np.abs(np.asarray(image, float) - truth).mean() < 12  # of 255: JPEG


def test_the_generator_of_a_run_is_loaded_translated_with_and_exported(run: Path, pairs: Path, tmp_path: Path) -> None:
    generators, settings = load_generators(run)
    assert list(generators) == ["G_A"] and settings.config.model.model == "pix2pix"
    engine = cyclegan_fast.load_engine(run)
    assert engine.direction == "AtoB"
    images = sorted((pairs / "testA").iterdir())
    photo = cyclegan_fast.infer(engine, images[0])
    assert photo.size == (36, 36)
    exported = cyclegan_fast.build_engine(run, tmp_path / "a2b.safetensors")
    again = cyclegan_fast.infer(cyclegan_fast.load_engine(exported), images[0])
    assert np.array_equal(np.asarray(photo), np.asarray(again))
    with pytest.raises(UserError, match="a pix2pix model, which translates AtoB alone; for BtoA train another one"):
        cyclegan_fast.load_engine(run, direction="BtoA")


def test_translating_back_is_refused_in_one_sentence(run: Path, pairs: Path, tmp_path: Path) -> None:
    from cyclegan_fast.translate import main

    words = ["--engine", str(run), "--input", str(pairs / "testA"), "--output", str(tmp_path / "out")]
    ended = run_in_process(lambda: main([*words, "--reconstruct"]))
    assert ended.returncode == 2 and "a pix2pix model, which translates AtoB alone" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert run_in_process(lambda: main(words)).returncode == 0
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_run_is_scored_by_the_command(run: Path, pairs: Path, tmp_path: Path) -> None:
    from cyclegan_fast.evaluate import main

    file = tmp_path / "scores.json"
    ended = run_in_process(lambda: main(["--run", str(run), "--data", str(pairs), "--out", str(file)]))
    assert ended.returncode == 0, ended.stderr
    values = json.loads(file.read_text())["scored"][0]["values"]
    assert values["ssim_AtoB"] > 0 and not any(name.endswith("BtoA") for name in values)


def test_the_other_direction_is_a_run_of_its_own(pairs: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", "--max-steps 2 --direction BtoA --eval-every 2", "--data", str(pairs))
    assert cyclegan_fast.load_engine(tmp_path / "run").direction == "BtoA"
    assert cyclegan_fast.Run(tmp_path / "run").engine().direction == "BtoA"


@pytest.mark.parametrize("flags", ["", "--ema 0.9 --grad-accumulation 2 --norm batch", "--pool-size 3 --no-dropout"])
def test_a_resumed_run_is_exactly_the_uninterrupted_one(pairs: Path, tmp_path: Path, flags: str) -> None:
    data = "--data", str(pairs)
    train(tmp_path / "whole", f"--max-steps 6 --eval-every 0 {flags}", *data)
    train(tmp_path / "parts", f"--max-steps 3 --eval-every 0 {flags}", *data)
    train(tmp_path / "parts", f"--max-steps 6 --eval-every 0 --resume auto {flags}", *data)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    stored = [read_weights_of(tmp_path / name) for name in ("whole", "parts")]
    assert all(torch.equal(value, stored[1][name]) for name, value in stored[0].items())


def read_weights_of(out: Path) -> dict[str, Tensor]:
    networks = build_networks(read_settings(out).config.model)
    load_weights(out, networks)
    return dict(networks.state_dict())


def test_without_data_it_trains_on_rendered_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan_fast.training.example_data.TRAIN_IMAGES", 3)
    monkeypatch.setattr("cyclegan_fast.training.example_data.TEST_IMAGES", 2)
    trainer = train(tmp_path / "run", "--max-steps 1 --eval-every 0")
    assert trainer.config.data.data == tmp_path / "run" / "scenes_36px_pairs"


def test_images_that_are_no_pairs_are_one_sentence(tmp_path: Path, pairs: Path) -> None:
    with pytest.raises(UserError, match="no partner of the same name in the other domain"):
        (tmp_path / "data").mkdir()
        for name in ("trainA", "trainB"):
            (tmp_path / "data" / name).symlink_to(pairs / ("trainA" if name == "trainA" else "testB"))
        train(tmp_path / "run", "--max-steps 1", "--data", str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"holds no pairs; .* so does --model pix2pix"):
        (tmp_path / "empty").mkdir()
        train(tmp_path / "other", "--max-steps 1", "--data", str(tmp_path / "empty"))


def test_paired_alone_is_logged_to_change_the_sampling_only(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = f"--paired --data {pairs} --out {tmp_path / 'run'} --generator resnet_1blocks --ngf 4 --ndf 4"
    with caplog.at_level("INFO"):
        Trainer(train_settings([*words.split(), "--load-size", "36", "--crop-size", "32"])).close()
    assert any("the losses of CycleGAN do not see that they are: --model pix2pix" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lambda-gan 0 --lambda-L1 0", "nothing to train: --lambda-gan and --lambda-L1 are both 0"),
        ("--side-by-side on", "--side-by-side: pix2pix trains one direction"),
        ("--score cycle_l1", "--score cycle_l1 needs a generator of the other direction, which pix2pix"),
        ("--score ssim_BtoA", "--score ssim_BtoA needs a generator of the other direction"),
    ],
)
def test_settings_that_mean_nothing_to_it(pairs: Path, tmp_path: Path, flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", flags, "--data", str(pairs))


def test_a_checkpoint_of_the_authors_starts_a_run(tmp_path: Path) -> None:
    """latest_net_G.pth and latest_net_D.pth, with batch norm as theirs have it, are G_A and D_A."""
    model = config("batch").model
    torch.manual_seed(5)
    theirs = build_networks(model)
    for name, network in theirs.items():
        save_reference_network(tmp_path / f"latest_net_{name[0]}.pth", network)
    ours = build_networks(model)
    load_reference_folder(tmp_path, ours)
    for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    engine = cyclegan_fast.load_engine(tmp_path / "latest_net_G.pth")
    assert (engine.in_channels, engine.out_channels) == (3, 2)


def test_checkpoints_without_a_model_are_those_of_cyclegan() -> None:
    from cyclegan_fast.config import from_dict, to_dict

    stored = to_dict(TrainConfig())
    del stored["model"]["model"]
    del stored["objective"]["lambda_L1"]
    assert from_dict(TrainConfig, stored) == TrainConfig()


def test_the_step_is_that_of_the_table() -> None:
    assert isinstance(build_step(networks_of(config()), config()), Pix2PixStep)
    assert MODELS["pix2pix"].losses == ("G_A", "L1_A", "D_A")
