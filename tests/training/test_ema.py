"""--ema: the average itself, and what of a run it is: samples, scores, checkpoints, exports, and an exact resume."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cyclegan_fast.checkpoint import load_generators, load_weights, save_checkpoint
from cyclegan_fast.config import ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.engine import build_engine
from cyclegan_fast.engine.generator import load_generator
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training import base_step
from cyclegan_fast.training.step import CycleGANStep
from cyclegan_fast.training.trainer import Trainer
from tests.commands import train_settings
from tests.smooth_images import write_smooth_images

MODEL = {"generator": "resnet_1blocks", "discriminator": "n_layers", "n_layers": 1, "ngf": 4, "ndf": 4}
GENERATORS = ("G_A", "G_B")
FLAGS = (
    "--generator resnet_1blocks --ngf 4 --ndf 4 --discriminator n_layers --n-layers 1 --load-size 36 --crop-size 32 "
    "--device cpu --loader cache --workers 0 --pool-size 3 --log-every 2 --sample-every 0 --eval-every 0 --lr 0.01"
)


def make_step(ema: float = 0.0, *, norm: str = "instance", micro_batches: int = 1, **run: Any) -> CycleGANStep:
    torch.manual_seed(0)
    config = TrainConfig(
        model=ModelConfig(**MODEL, norm=norm),  # type: ignore[arg-type]
        objective=ObjectiveConfig(pool_size=2),
        optim=OptimConfig(lr=0.01, ema=ema, grad_accumulation=micro_batches),
        run=RunConfig(side_by_side="off", **run),
    )
    networks = build_networks(config.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return CycleGANStep(networks, config)


def batches(count: int, images: int = 1) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.rand(images, 3, 32, 32) * 2 - 1, torch.rand(images, 3, 32, 32) * 2 - 1) for _ in range(count)]


def copied(networks: Any) -> dict[str, Tensor]:
    """All weights and buffers of both generators."""
    return {f"{name}.{key}": x.clone() for name in GENERATORS for key, x in networks[name].state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


@pytest.mark.parametrize("decay", [0.6, 0.999])  # the one is reached by the warm-up, after the 12th update
@pytest.mark.parametrize("options", [{}, {"norm": "batch", "amp": "bf16"}, {"micro_batches": 2}], ids=str)
def test_it_equals_its_plain_restatement_in_float64(options: dict[str, Any], decay: float, monkeypatch: Any) -> None:
    monkeypatch.setattr(base_step, "reads_working_weights", lambda *_: True)
    step = make_step(decay, **options)
    assert step.averaged is not None
    plain = {key: x.double() for key, x in copied(step.networks).items()}
    largest_move = 0.0
    for t, batch in enumerate(batches(20, options.get("micro_batches", 1)), start=1):
        step(*batch)
        d = min(decay, (1 + t) / (10 + t))
        for key, x in copied(step.networks).items():
            is_statistic = "running" in key or "tracked" in key
            largest_move = max(largest_move, float((x - plain[key]).abs().max()))
            plain[key] = x.double() if is_statistic else d * plain[key] + (1 - d) * x.double()
    assert step.averaged.updates == 20 and largest_move > 0.01
    for key, x in copied(step.averaged.networks).items():
        assert (x.double() - plain[key]).abs().max() <= 1e-6 * plain[key].abs().max(), key
    trained = step.networks["G_A"].state_dict()
    for key, x in step.averaged.networks["G_A"].state_dict().items():
        assert (x.dtype, x.stride()) == (trained[key].dtype, trained[key].stride())


def test_it_changes_no_bit_of_what_is_trained() -> None:
    on, off = make_step(0.99, norm="batch"), make_step(norm="batch")
    for batch in batches(3):
        on(*batch)
        off(*batch)
    assert equal(on.networks.state_dict(), off.networks.state_dict())
    assert off.averaged is None and off.inference_networks["G_A"] is off.networks["G_A"]
    assert on.state_dict().keys() == off.state_dict().keys()


@pytest.mark.parametrize("fault", ["a loss", "a gradient", "a gradient in fp16"])
def test_a_skipped_update_leaves_it_untouched(fault: str) -> None:
    step = make_step(0.9)
    assert step.averaged is not None
    good, bad = batches(4), batches(1)[0]
    for batch in good[:2]:
        step(*batch)
    before, weights = copied(step.averaged.networks), copied(step.networks)
    if fault == "a loss":
        bad[0][:] = float("nan")
    elif fault == "a gradient":
        hook = next(step.networks["G_A"].parameters()).register_hook(lambda gradient: gradient * float("nan"))
    else:
        step.scaler = base_step.LossScaler(torch.device("cpu"), enabled=True)
        step.scaler.state.scale.fill_(1e38)  # type: ignore[union-attr]
    step(*bad)
    assert equal(copied(step.networks), weights) and equal(copied(step.averaged.networks), before)
    assert step.averaged.updates == 2
    if fault == "a gradient":
        hook.remove()
    if step.scaler.state is not None:
        step.scaler.state.scale.fill_(1.0)
    step(*good[2])
    after = copied(step.averaged.networks)
    assert not equal(after, before) and all(x.isfinite().all() for x in after.values())
    assert step.averaged.updates == 3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for domain in ("trainA", "trainB", "testA", "testB"):
        write_smooth_images(root / domain, 4, rng)
    return root


def trainer(images: Path, out: Path, words: str) -> Trainer:
    return Trainer(train_settings(["--data", str(images), "--out", str(out), *FLAGS.split(), *words.split()]))


def newest(out: Path) -> Path:
    return max((out / "checkpoints").iterdir())


def stored(out: Path) -> dict[str, Tensor]:
    return {f"{path.stem} {k}": x for path in newest(out).glob("*.safetensors") for k, x in load_file(path).items()}


@pytest.fixture(scope="module")
def averaged_run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Of 6 steps, with its grid and its scores."""
    run = trainer(
        images, tmp_path_factory.mktemp("runs") / "run", "--ema 0.9 --max-steps 6 --eval-every 6 --norm batch"
    )
    assert run.run() == 0
    return run


def test_a_checkpoint_holds_both(averaged_run: Trainer) -> None:
    out, step = averaged_run.config.run.out, averaged_run.step
    assert step.averaged is not None
    averaged, settings = load_generators(out)
    raw, _ = load_generators(out, raw=True)
    assert settings.config.optim.ema == 0.9
    assert equal(copied(averaged), copied(step.averaged.networks)) and equal(copied(raw), copied(step.networks))
    assert not equal(copied(averaged), copied(raw))
    assert sorted(path.name for path in newest(out).glob("*.safetensors")) == [
        *("raw_weights.safetensors", "state.safetensors", "weights.safetensors")
    ]  # fmt: skip


def test_samples_and_scores_are_those_of_the_averages(averaged_run: Trainer) -> None:
    step, translator = averaged_run.step, averaged_run.translator
    assert step.averaged is not None and not averaged_run.done < 6
    image = averaged_run.evaluator.images[0][0]
    by_average = translator.translate("A", image)
    real = by_average[0][None]
    with torch.no_grad():
        translation = step.averaged.networks["G_A"](real)
        assert by_average[1].equal(translation[0])
        assert by_average[2].equal(step.averaged.networks["G_B"](translation)[0])
        assert (step.networks["G_A"].eval()(real) - translation).abs().max() > 1e-3
    assert averaged_run.evaluator.translator is translator
    report = (averaged_run.config.run.out / "report.html").read_text("utf-8")
    assert "Images and scores are those of the averaged generators, --ema 0.9." in report


def test_without_it_nothing_speaks_of_it(
    images: Path, tmp_path: Path, averaged_run: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    words = "--max-steps 6 --eval-every 6 --norm batch"
    assert trainer(images, tmp_path / "off", words).run() == 0
    assert not [line for line in caplog.messages if "averaged" in line]
    assert "averaged" not in (tmp_path / "off" / "report.html").read_text("utf-8")
    assert not (newest(tmp_path / "off") / "raw_weights.safetensors").exists()
    on, off = stored(averaged_run.config.run.out), stored(tmp_path / "off")
    trained = {key.replace("raw_weights ", "weights "): x for key, x in on.items() if "weights G" not in key}
    trained |= {key.removeprefix("raw_"): x for key, x in on.items() if key.startswith("raw_")}
    assert equal(trained, off)  # what is trained is the same to the bit
    assert trainer(images, tmp_path / "on", f"{words} --ema 0.9")
    assert "samples, scores and checkpoints are those of the averaged generators: --ema 0.9" in caplog.messages


@pytest.mark.parametrize("words", ["", "--norm batch --batch-size 2", "--amp bf16 --grad-accumulation 2"])
def test_a_resumed_run_equals_one_that_never_stopped(images: Path, tmp_path: Path, words: str) -> None:
    words = f"--ema 0.7 {words}"
    assert trainer(images, tmp_path / "straight", f"{words} --max-steps 7").run() == 0
    assert trainer(images, tmp_path / "resumed", f"{words} --max-steps 3").run() == 0
    assert trainer(images, tmp_path / "resumed", f"{words} --max-steps 7 --resume auto").run() == 0
    straight, resumed = stored(tmp_path / "straight"), stored(tmp_path / "resumed")
    assert equal(straight, resumed)
    raw = {key.removeprefix("raw_"): x for key, x in straight.items() if key.startswith("raw_")}
    assert all(key in straight for key in raw) and not all(straight[key].equal(x) for key, x in raw.items())


def test_resuming_with_another_decay_is_refused(images: Path, averaged_run: Trainer) -> None:
    out = averaged_run.config.run.out
    with pytest.raises(UserError, match=r"--ema was 0\.9, now 0\.0; leave that as it was"):
        trainer(images, out, "--norm batch --ema 0 --max-steps 9 --resume auto")


def test_another_run_starts_from_the_averages(images: Path, tmp_path: Path, averaged_run: Trainer) -> None:
    out = averaged_run.config.run.out
    assert averaged_run.step.averaged is not None
    averages = copied(averaged_run.step.averaged.networks)
    for words in ("--ema 0.9", ""):
        run = trainer(images, tmp_path / f"run{words[6:]}", f"--norm batch --max-steps 1 --init-from {out} {words}")
        run.state.load()
        assert equal(copied(run.networks), averages) and equal(copied(run.step.inference_networks), averages)
        run.close()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_exports_are_the_averages_and_on_request_the_raw_weights(
    tmp_path: Path, averaged_run: Trainer, suffix: str
) -> None:
    step, out = averaged_run.step, averaged_run.config.run.out
    assert step.averaged is not None
    x = torch.rand(1, 3, 32, 32)
    for raw, network in ((False, step.averaged.networks["G_B"]), (True, step.networks["G_B"].eval())):
        file = build_engine(out, tmp_path / f"net_G_B{suffix}", direction="BtoA", raw_weights=raw)
        with torch.no_grad():
            assert torch.allclose(load_generator(file).network(x), network(x), atol=1e-6)


def test_raw_weights_are_asked_of_a_checkpoint_that_has_them(tmp_path: Path) -> None:
    config = TrainConfig(model=ModelConfig(**MODEL))  # type: ignore[arg-type]
    networks = build_networks(config.model)
    checkpoint = save_checkpoint(tmp_path, 1, networks=networks, config=config, progress={})
    with pytest.raises(UserError, match="holds no raw weights, as its generators are no averages"):
        load_weights(checkpoint, networks, raw=True)
    file = build_engine(checkpoint, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="raw weights lie in checkpoints beside averaged ones"):
        load_generator(file, raw=True)
