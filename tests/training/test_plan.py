"""`dataset plan`: the rules on made-up sets, the survey of real files, and trainings with what was proposed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cyclegan_fast import dataset
from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data.catalog.manifest import Manifest
from cyclegan_fast.data.catalog.survey import DomainSurvey, survey
from cyclegan_fast.data.transforms import check_geometry, sample_size
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import as_image_file
from cyclegan_fast.nn import image_requirements
from cyclegan_fast.train import main
from cyclegan_fast.training.plan import trial
from cyclegan_fast.training.plan.plan import as_text, make_plan
from cyclegan_fast.training.plan.rules import Facts, Machine, propose
from cyclegan_fast.training.settings import resolve_settings
from tests.commands import run_in_process, train_settings
from tests.data.sample_images import needs_deep, noise

GPU = Machine(type="cuda", free_memory=80 * 10**9, has_dali=True)
CPU = Machine(type="cpu", free_memory=16 * 10**9)


def images(count: int, *sizes: tuple[int, int], channels: tuple[int, ...] = (3,), **more: Any) -> DomainSurvey:
    return DomainSurvey(count, np.array(sizes), frozenset(channels), **more)


def scan(**more: Any) -> DomainSurvey:
    return images(800, (512, 512), channels=(1,), **more)


HORSES = images(1067, (256, 256)), images(1334, (256, 256))
FACADES = images(400, (256, 256)), images(400, (256, 256))
CITYSCAPES = images(2975, (256, 128)), images(2975, (256, 128))
TILES = images(5000, (5000, 5000)), images(4000, (5000, 5000))
PHOTOS = images(900, (4000, 3000), (3000, 4000), (1024, 683)), images(700, (4000, 3000), (640, 480))
MODEST = images(300, (300, 400), (400, 300), (350, 350)), images(200, (420, 280), (300, 300))
HUGE = images(50_000, (256, 256)), images(100_000, (256, 256))
TINY = images(60, (64, 64)), images(80, (64, 64))
CT = scan(depth="float", low=-1024.0, high=3071.0), scan(depth="float", low=0.0, high=4000.0)

CASES: list[tuple[str, tuple[DomainSurvey, DomainSurvey], Machine, dict[str, Any]]] = [
    ("the paper's set on a GPU", HORSES, GPU, {
        "crop_size": 256, "load_size": 286, "preprocess": "resize_and_crop", "generator": "resnet_9blocks", "ngf": 64,
        "discriminator": "basic", "n_epochs": 100, "n_epochs_decay": 100, "batch_size": 1, "amp": "bf16",
        "cuda_graphs": "auto", "channels_A": 3, "channels_B": 3,
    }),
    ("the paper's set on a CPU", HORSES, CPU, {
        "crop_size": 128, "load_size": 143, "generator": "resnet_6blocks", "ngf": 32, "ndf": 32, "cuda_graphs": "off",
        "n_epochs": 22, "n_epochs_decay": 22, "amp": "bf16",
    }),
    ("the paper's smallest set", FACADES, GPU, {"n_epochs": 100, "n_epochs_decay": 100}),
    ("images twice as wide as high", CITYSCAPES, GPU, {
        "crop_size": 128, "preprocess": "crop", "generator": "resnet_6blocks", "n_epochs": 50, "n_epochs_decay": 50,
    }),
    ("large aerial tiles", TILES, GPU, {"crop_size": 256, "preprocess": "crop", "epoch_size": None}),
    ("few large aerial tiles", (images(12, (2048, 2048)), images(10, (2048, 2048))), GPU, {
        "preprocess": "crop", "epoch_size": 768, "n_epochs": 100, "n_epochs_decay": 100,
    }),
    ("a few dozen large aerial tiles", (images(36, (2048, 2048)), images(10, (2048, 2048))), CPU, {
        "preprocess": "crop", "epoch_size": 1500, "n_epochs": 20, "n_epochs_decay": 20,
    }),
    ("photos of any shape", PHOTOS, GPU, {
        "crop_size": 256, "preprocess": "scale_width_and_crop", "load_size": 429, "generator": "resnet_9blocks",
    }),
    ("mixed sizes a little larger than the crop", MODEST, GPU, {
        "crop_size": 256, "preprocess": "crop", "n_epochs": 134, "n_epochs_decay": 133,
    }),
    ("very many images", HUGE, GPU, {"batch_size": 4, "n_epochs": 2, "n_epochs_decay": 2}),
    ("very many images on a CPU", HUGE, CPU, {"batch_size": 1, "n_epochs": 2, "n_epochs_decay": 2}),
    ("few small images on a CPU", TINY, CPU, {
        "crop_size": 64, "load_size": 72, "generator": "resnet_3blocks", "ngf": 16, "discriminator": "n_layers",
        "n_layers": 2, "n_epochs": 200, "n_epochs_decay": 200,
    }),
    ("images below every crop", (images(10, (20, 20)), images(10, (21, 20))), CPU, {
        "crop_size": 32, "load_size": 36, "preprocess": "resize_and_crop",
    }),
    ("CT and MR", CT, GPU, {
        "channels_A": 1, "channels_B": 1, "preprocess": "crop", "crop_size": 256, "value_low": -1024.0,
        "value_high": 3071.0, "value_low_B": 0.0, "value_high_B": 4000.0,
    }),
    ("one range for both", (CT[0], CT[0]), GPU, {"value_low": -1024.0, "value_high": 3071.0, "value_low_B": None}),
    ("only B without a range", (scan(), CT[1]), GPU, {"value_low": None, "value_low_B": 0.0, "value_high_B": 4000.0}),
    ("16 bit", (scan(depth="16"), scan(depth="16")), GPU, {"preprocess": "crop", "depth": "auto", "value_low": None}),
    ("grey scans of 8 bit", (scan(), scan()), GPU, {"preprocess": "resize_and_crop", "channels_A": 1}),
    ("grey and RGB mixed in A", (images(9, (64, 64), channels=(1, 3)), TINY[1]), CPU, {"channels_A": 3}),
    ("grey to RGB", (images(9, (64, 64), channels=(1,)), TINY[1]), CPU, {"channels_A": 3, "channels_B": 3}),
    ("bands to RGB", (images(9, (300, 300), channels=(7,), are_images=False), HORSES[1]), GPU, {
        "channels_A": 7, "channels_B": 3, "preprocess": "crop",
    }),
    ("images that cannot be read", (TINY[0], images(80, (64, 64), unreadable=2)), CPU, {"on_bad_image": "skip"}),
    ("all can be read", TINY, CPU, {"on_bad_image": "error"}),
    ("a CPU without bfloat16", HORSES, Machine(type="cpu", free_memory=10**9, slow_bfloat16=True), {"amp": "off"}),
    ("a GPU without bfloat16", HORSES, Machine(type="cuda", free_memory=10**9, old_cuda=True), {"amp": "fp16"}),
]  # fmt: skip


@pytest.mark.parametrize(("found", "machine", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_rules(found: tuple[DomainSurvey, DomainSurvey], machine: Machine, expected: dict[str, Any]) -> None:
    config, proposals = propose(Facts(*found, machine), TrainConfig())
    groups = (config.model, config.objective, config.optim, config.data, config.run)
    settings = {name: value for group in groups for name, value in vars(group).items()}
    assert {name: settings[name] for name in expected} == expected
    assert all(proposal.reason and "\n" not in proposal.reason for proposal in proposals)
    size_divisor, min_size = image_requirements(config.model)
    min_side = check_geometry(config.data, size_divisor, min_size)
    for width, height in np.concatenate([found[0].sizes, found[1].sizes]).tolist():
        assert min(width, height) >= min_side
        assert sample_size((width, height), config.data) == (config.data.crop_size, config.data.crop_size)
    if machine.type == "cpu":
        resolve_settings(config, torch.device("cpu"))


@pytest.mark.parametrize(
    ("found", "machine", "expected"),
    [
        (HORSES, GPU, "will be cache: decoded, the set takes about 589 MB of 80 GB free"),
        (
            HORSES,
            Machine(type="cuda", free_memory=10**9, free_host_memory=64 * 10**9),
            "will be cache: decoded, the set takes about 589 MB of 64 GB free in host memory",
        ),
        (TILES, GPU, "will be dali: decoded, the set takes about 675 GB, more than --cache-share 0.25 of 80 GB free"),
        (TILES, Machine(type="cuda", free_memory=8 * 10**9), "will be torch (dali with the extra [dali])"),
        (TILES, CPU, "will be torch: decoded, "),
        ((scan(depth="16"), scan(depth="16")), Machine(type="cuda", free_memory=10**9), "will be torch: decoded, "),
    ],
)
def test_the_loader_that_auto_will_choose(
    found: tuple[DomainSurvey, DomainSurvey], machine: Machine, expected: str
) -> None:
    assert propose(Facts(*found, machine), TrainConfig())[1][-1].reason.startswith(expected)


def test_sets_without_a_plan() -> None:
    for wrong, message in (
        (images(3, channels=()), "no image of A can be read"),
        (images(9, (64, 64), channels=(3, 7), are_images=False), "the images of A have 3, 7 channels"),
    ):
        with pytest.raises(UserError, match=message):
            propose(Facts(wrong, TINY[1], CPU), TrainConfig())


def test_a_survey_stops_when_its_time_is_up_and_goes_on_the_next_time(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(50)]
    for i, path in enumerate(files):
        noise(20 + i, 30, seed=i).save(path)
    sources = [as_image_file(path) for path in files]
    first = survey(sources, tmp_path, seconds=1e-9)
    assert first.count == 50 and len(first.sizes) == 32
    counted: list[tuple[float, float]] = []
    whole = survey(sources, tmp_path, seconds=600, progress=lambda done, total: counted.append((done, total)))
    assert len(whole.sizes) == 50 and {w for w, _ in whole.sizes.tolist()} == set(range(20, 70))
    assert counted[-1] == (50, 50)
    manifest = Manifest(tmp_path)
    manifest.probe(sources)
    assert manifest.files_read == 0  # neither a check nor a training reads them again


def write_set(folder: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    for domain, count in (("trainA", 5), ("trainB", 4)):
        (folder / domain).mkdir(parents=True)
        for i in range(count):
            path = folder / domain / str(i)
            match kind:
                case "rgb":
                    noise(70 + 9 * i, 70, seed=i).save(path.with_suffix(".jpg"))
                case "grey16":
                    pixels = rng.integers(0, 65536, (70, 70), dtype=np.uint16)
                    Image.fromarray(pixels).save(path.with_suffix(".png"))
                case "float":
                    pixels = rng.normal(-200, 300, (66, 70)).astype(np.float32)
                    Image.fromarray(pixels).save(path.with_suffix(".tif"))
                case "bands":
                    tifffile = pytest.importorskip("tifffile")
                    bands = rng.integers(0, 256, (40, 40, 5), dtype=np.uint8)
                    tifffile.imwrite(path.with_suffix(".tif"), bands, photometric="minisblack", planarconfig="contig")


def plan(*words: str | Path) -> str:
    done = run_in_process(lambda: dataset.main([*map(str, words)]))
    assert done.returncode == 0, done.stderr
    return done.stdout


SMALL = ["--ngf", "4", "--ndf", "4", "--max-steps", "2", "--workers", "0"]


@pytest.mark.parametrize("kind", ["rgb", "grey16", "float", pytest.param("bands", marks=needs_deep)])
def test_training_runs_with_the_proposed_flags(tmp_path: Path, kind: str) -> None:
    write_set(tmp_path / "a set", kind)
    words = ["plan", tmp_path / "a set", "--out", tmp_path / "run", "--device", "cpu"]
    shown = plan(*words, "--no-trial")
    assert "steps in 400 epochs; time and memory were not measured (--no-trial)" in shown
    command = shown.splitlines()[-1]
    assert command.startswith("python -m cyclegan_fast.train --")
    done = run_in_process(lambda: main([*shlex.split(command)[3:], *SMALL]))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()

    file = tmp_path / "plan.yaml"
    assert (
        plan(*words, "--no-trial", "--yaml", file).splitlines()[-1] == f"python -m cyclegan_fast.train --config {file}"
    )
    assert train_settings(["--config", str(file)]) == train_settings(shlex.split(command)[3:])
    assert "  # " in file.read_text() and set(yaml.safe_load(file.read_text())) <= {"model", "optim", "data", "run"}


def test_a_trial_measures_real_steps_and_keeps_nothing(tmp_path: Path) -> None:
    write_set(tmp_path / "set", "rgb")
    found = json.loads(plan("plan", tmp_path / "set", "--out", tmp_path / "run", "--device", "cpu", "--json"))
    assert found["trial"]["steps"] >= 2 and found["trial"]["seconds_per_step"] > 0
    assert found["trial"]["peak_memory_gib"] > 0
    assert found["images"]["A"] == {
        "count": 5, "read": 5, "unreadable": 0, "smallest": [70, 70], "largest": [106, 70], "channels": [3],
        "depth": "8",
    }  # fmt: skip
    assert found["settings"]["data"]["crop_size"] == 64 and found["steps"] == 5 * 400
    assert not (tmp_path / "run").exists() and {p.name for p in (tmp_path / "set").iterdir()} == {
        ".cyclegan_fast", "trainA", "trainB",
    }  # fmt: skip


def test_a_plan_that_does_not_fit_recomputes_activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set", "rgb")
    measure, tried = trial._measure, []

    def measure_in_little_memory(trainer: Any, seconds: float) -> trial.Trial:
        tried.append(trainer.config.run.activation_checkpointing)
        if not tried[-1]:
            raise torch.OutOfMemoryError
        return measure(trainer, 0)

    monkeypatch.setattr(trial, "_measure", measure_in_little_memory)
    words = ["plan", tmp_path / "set", "--device", "cpu"]
    assert "--activation-checkpointing" in plan(*words).splitlines()[-1] and tried == [False, True]
    monkeypatch.setattr(trial, "_measure", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    done = run_in_process(lambda: dataset.main([*map(str, words)]))
    assert done.returncode == 2 and "a step of this plan needs more memory than this machine has (" in done.stderr


@pytest.mark.gpu
def test_a_trial_on_a_gpu_replays_the_graph_and_measures_its_memory(tmp_path: Path) -> None:
    write_set(tmp_path / "set", "rgb")
    found = json.loads(plan("plan", tmp_path / "set", "--device", "cuda", "--json"))
    assert found["settings"]["run"]["cuda_graphs"] == "auto" and found["settings"]["run"]["amp"] in ("bf16", "fp16")
    assert found["trial"]["steps"] >= 2 and 0 < found["trial"]["peak_memory_gib"] < 80


def test_bad_images_are_counted_and_the_command_leaves_them_out(tmp_path: Path) -> None:
    data = tmp_path / "set"
    write_set(data, "rgb")
    (data / "trainA" / "broken.jpg").write_text("no image")
    words = ["plan", data, "--no-trial", "--device", "cpu", "--out", tmp_path / "run"]
    shown = plan(*words)
    assert "A: 6 images, 70x70 to 106x70, RGB, 8 bit, 1 cannot be read\n" in shown
    (reason,) = [line for line in shown.splitlines() if line.startswith("  --on-bad-image skip ")]
    assert reason.endswith("at files that cannot be read; dataset check --quarantine leaves them out for good")
    done = run_in_process(lambda: main([*shlex.split(shown.splitlines()[-1])[3:], *SMALL]))
    assert done.returncode == 0, done.stderr
    run_in_process(lambda: dataset.main(["check", str(data), "--quarantine"]))
    assert "on-bad-image" not in plan(*words)  # the alternative


def test_the_reason_for_the_channels_is_true_of_mixed_images() -> None:
    mixed = images(9, (64, 64), channels=(1, 3))
    for found, reason in (
        ((mixed, TINY[1]), "all images are read as RGB"),
        ((scan(), scan()), "all images are read as grey"),
        ((images(9, (64, 64), channels=(7,), are_images=False), mixed), "A is of 7 bands, B is read as RGB; the ident"),
    ):
        assert propose(Facts(*found, CPU), TrainConfig())[1][0].reason.startswith(reason)


def test_pairs_side_by_side_and_locations(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for i in range(3):
        noise(140, 70, seed=i).save(tmp_path / "train" / f"{i}.png")
    found = json.loads(plan("plan", tmp_path, "--paired", "--no-trial", "--json", "--device", "cpu"))
    assert found["images"]["A"]["largest"] == found["images"]["B"]["largest"] == [70, 70]
    assert "--paired" in found["command"] and found["settings"]["data"]["crop_size"] == 64
    words = ["--data-A", tmp_path / "train", "--data-B", tmp_path / "train", "--no-trial", "--device", "cpu"]
    assert f"--data-A {tmp_path / 'train'} --data-B {tmp_path / 'train'}" in plan("plan", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: name the folder that holds trainA and trainB, or --data-A and --data-B"),
        (["nowhere"], "error: nowhere: there is no such data folder"),
        (["nowhere", "--seconds", "0"], "error: --seconds must be more than 0, got 0"),
        (["--data-A", "photos"], "error: --data-A and --data-B go together"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], message: str) -> None:
    done = run_in_process(lambda: dataset.main(["plan", *words]))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_planned(tmp_path: Path) -> None:
    (tmp_path / "trainA").mkdir()
    noise(70, 70).save(tmp_path / "trainA" / "0.png")
    with pytest.raises(UserError, match="the folder trainB is missing"):
        make_plan(DataConfig(data=tmp_path), tmp_path / "run", "cpu", seconds=1)
    write_set(tmp_path / "set", "rgb")
    made = make_plan(DataConfig(data=tmp_path / "set"), tmp_path / "run", "cpu", seconds=9)
    assert any("--crop-size 64" in line for line in as_text(made, None))


def test_a_plan_of_pairs_names_the_model_that_learns_from_them(tmp_path: Path) -> None:
    write_set(tmp_path / "set", "rgb")
    for words, named in ((["--paired"], True), ([], False)):
        plan = ["plan", str(tmp_path / "set"), "--no-trial", "--seconds", "9", *words]
        done = run_in_process(lambda plan=plan: dataset.main(plan))
        assert done.returncode == 0, done.stderr
        assert ("whose losses do not see pairs; --model pix2pix learns from them" in done.stdout + done.stderr) == named
