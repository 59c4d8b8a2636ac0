"""Sample grids: the same held-out images at every step, by the generators of that step; no trace in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cyclegan_fast.checkpoint import load_generators
from cyclegan_fast.images.tensors import to_model_range
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.monitoring.grids import to_image
from cyclegan_fast.monitoring.samples import MAX_SIDE, SampleRow, read_samples, sample_steps, save_samples
from cyclegan_fast.training.trainer import Trainer
from tests.commands import train_settings
from tests.reliability import Recorder
from tests.smooth_images import write_smooth_images

FLAGS = (
    "--generator resnet_2blocks --ngf 4 --ndf 4 --discriminator n_layers --n-layers 1 --load-size 36 --crop-size 32 "
    "--device cpu --workers 0 --pool-size 3 --max-steps 6 --log-every 6"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for domain in ("trainA", "trainB", "testA", "testB"):
        write_smooth_images(root / domain, 6, rng, coarse=3)
    return root


def trainer(data: Path, out: Path, flags: str = "") -> Trainer:
    return Trainer(train_settings(["--data", str(data), "--out", str(out), *FLAGS.split(), *flags.split()]))


def state(out: Path) -> dict[str, torch.Tensor]:
    newest = max((out / "checkpoints").iterdir())
    return {
        f"{file} {k}": v for file in ("weights", "state") for k, v in load_file(newest / f"{file}.safetensors").items()
    }


def scores_of(out: Path) -> dict[int, dict[str, float]]:
    return {event["step"]: event["scores"] for event in read_events(out) if "scores" in event}


def grid_of(out: Path, step: int) -> bytes:
    return (out / "samples" / f"step_{step:08d}.jpg").read_bytes()


@pytest.mark.parametrize("flags", ["--dropout", "--norm batch --batch-size 2"])
def test_sampling_and_scoring_change_no_bit_of_the_training(data: Path, tmp_path: Path, flags: str) -> None:
    assert trainer(data, tmp_path / "without", f"{flags} --sample-every 0 --eval-every 0").run() == 0
    assert not (tmp_path / "without" / "samples").exists()
    assert trainer(data, tmp_path / "with", f"{flags} --sample-every 1 --eval-every 2").run() == 0
    assert sample_steps(tmp_path / "with") == list(range(7))
    assert trainer(data, tmp_path / "resumed", f"{flags} --sample-every 2 --max-steps 3 --eval-every 2").run() == 0
    assert trainer(data, tmp_path / "resumed", f"{flags} --sample-every 4 --resume auto --eval-every 2").run() == 0
    assert sample_steps(tmp_path / "resumed") == [0, 2, 3, 4, 6]
    plain, sampled, resumed = (state(tmp_path / name) for name in ("without", "with", "resumed"))
    assert plain.keys() == sampled.keys() == resumed.keys()
    assert all(plain[key].equal(sampled[key]) and plain[key].equal(resumed[key]) for key in plain)
    for step in (3, 6):  # and the grids are those of the run that never stopped
        assert grid_of(tmp_path / "with", step) == grid_of(tmp_path / "resumed", step)
    scores = {name: scores_of(tmp_path / name) for name in ("without", "with", "resumed")}
    assert not scores["without"] and list(scores["with"]) == [2, 4, 6] and list(scores["resumed"]) == [2, 3, 4, 6]
    assert all(scores["with"][step] == scores["resumed"][step] for step in (2, 4, 6))


def test_each_grid_shows_the_same_images_by_the_generators_of_its_step(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path, "--sample-every 3 --checkpoint-every 3 --lr 0.02 --dropout")
    assert run.run() == 0
    grids = {step: read_samples(tmp_path, step) for step in sample_steps(tmp_path)}
    assert list(grids) == [0, 3, 6]
    shown = [(row.domain, row.name) for row in grids[0]]
    assert len(set(shown)) == 8 and all(name.startswith(f"test{domain}/") for domain, name in shown)
    for step in (3, 6):
        assert [(row.domain, row.name) for row in grids[step]] == shown
        generators, _ = load_generators(tmp_path / "checkpoints" / f"step_{step:08d}")
        expected = []
        for row, image in zip(grids[step], [*run.translator.images[0], *run.translator.images[1]], strict=True):
            names = ("G_A", "G_B") if row.domain == "A" else ("G_B", "G_A")
            images = [to_model_range(torch.from_numpy(image.pixels)[None])]
            with torch.no_grad():
                for name in names:
                    images.append(generators[name](images[-1]))  # evaluation: no dropout
            expected.append(SampleRow(row.domain, row.name, [to_image(image[0]) for image in images]))
        save_samples(tmp_path / "expected", step, expected)
        assert grid_of(tmp_path, step) == grid_of(tmp_path / "expected", step)
    first, last = (np.asarray(grids[step][0].images[1]).astype(int) for step in (3, 6))
    assert np.abs(first - last).mean() > 2  # the generators have moved


def test_a_new_run_keeps_no_grid_of_an_older_one(data: Path, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for name in ("step_00000002.jpg", "step_00009000.jpg", "mine.jpg"):
        Image.new("RGB", (9, 9)).save(tmp_path / "samples" / name)
    assert trainer(data, tmp_path, "--sample-every 3").run() == 0
    assert sample_steps(tmp_path) == [0, 3, 6] and (tmp_path / "samples" / "mine.jpg").is_file()
    save_samples(tmp_path, 7, read_samples(tmp_path, 6))  # of a crash after the newest checkpoint
    assert trainer(data, tmp_path, "--sample-every 9 --resume auto --max-steps 8").run() == 0
    assert sample_steps(tmp_path) == [0, 3, 6, 8]


def test_compiled_networks_are_sampled_without_compiling_them_anew(data: Path, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("compiled")

    run = trainer(data, tmp_path)
    for network in run.networks.values():
        network.compile(backend=refuse)
    assert len(run.translator.rows()) == 8
    assert all(network.training for network in run.networks.values())


@pytest.mark.fault(24)
def test_a_full_gpu_costs_the_grid_and_nothing_else(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, user_sees: Recorder
) -> None:
    run = trainer(data, tmp_path, "--sample-every 3 --eval-every 3")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(run.translator, "translate", full)
    assert run.run() == 0
    assert sample_steps(tmp_path) == [] and scores_of(tmp_path) == {}
    assert caplog.messages.count("no scores: the memory is full; --eval-every 0 leaves them out") == 1
    warning = next(line for line in caplog.messages if "no sample grid" in line)
    user_sees(warning)
    assert warning == "no sample grid: the memory is full; --sample-every 0 leaves them out"


def test_a_full_host_costs_the_grid_and_nothing_else(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    translator = trainer(data, tmp_path).translator

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(translator, "translate", full)
    assert translator.rows() == []
    assert "no sample grid: the memory is full; --sample-every 0 leaves them out" in caplog.messages


def test_files_of_grids_hold_their_layout(tmp_path: Path) -> None:
    sizes = [(40, 30), (40, 30), (MAX_SIDE * 2, 100)]
    images = [Image.new("RGB", size, color) for size, color in zip(sizes, ("red", "lime", "blue"), strict=True)]
    save_samples(tmp_path, 5, [SampleRow("A", "é\udcff/ü.png", images), SampleRow("B", "b", images[:1])])
    first, second = read_samples(tmp_path, 5)
    assert (first.domain, first.name, second.domain) == ("A", "é\udcff/ü.png", "B")
    assert [image.size for image in first.images] == [(40, 30), (40, 30), (MAX_SIDE, 50)]
    for image, color in zip(first.images, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
        assert np.abs(np.asarray(image).astype(int) - color).max() < 40  # JPEG
    Image.new("RGB", (9, 9)).save(tmp_path / "samples" / "step_00000006.jpg")  # of an earlier version
    (tmp_path / "samples" / "step_00000007.jpg").write_bytes(b"damaged")
    assert sample_steps(tmp_path) == [5, 6, 7]
    assert read_samples(tmp_path, 6) == read_samples(tmp_path, 7) == read_samples(tmp_path, 8) == []


@pytest.mark.gpu
def test_sampling_beside_cuda_graphs_changes_no_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    flags = "--device cuda --cuda-graphs --max-steps 9 --amp"
    for name, every in (("without", 0), ("with", 1)):
        run = trainer(data, tmp_path / name, f"{flags} --sample-every {every} --eval-every {every}")
        assert run.run() == 0
    plain, sampled = state(tmp_path / "without"), state(tmp_path / "with")
    assert all(plain[key].equal(sampled[key]) for key in plain)
    assert len(sample_steps(tmp_path / "with")) == 10
