"""`train --estimate --device cuda` without a GPU: counts of a step that hold against counts made in other ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cyclegan_fast.config import TrainConfig, with_settings
from cyclegan_fast.nn import build_networks
from cyclegan_fast.train import main
from cyclegan_fast.training.plan import prediction
from cyclegan_fast.training.plan.prediction import count_step
from tests.commands import run_in_process
from tests.training.test_samples import FLAGS, data

__all__ = ["data"]

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def config(**settings: object) -> TrainConfig:
    return with_settings(TrainConfig(), {"side_by_side": "off", "crop_size": 64, "ngf": 16, "ndf": 16} | settings)


def forward_flops(made: TrainConfig) -> tuple[int, int]:
    """Of one image through a generator and through a discriminator."""
    with torch.device("meta"):
        networks, image = build_networks(made.model), torch.empty(1, 3, made.data.crop_size, made.data.crop_size)
    counts = []
    for name in ("G_A", "D_A"):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            networks[name](image)
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def test_the_arithmetic_is_that_of_the_passes() -> None:
    made = config()
    generator, discriminator = forward_flops(made)
    found = count_step(made, 7)
    # Three images through each generator, forwards and twice as much backwards; a fake, and a pair, through each
    # discriminator: the fake's gradient by the weights is left out. First layers lack the gradient of their input.
    passes = 18 * generator + (2 * 2 + 4 * 3) * discriminator
    assert 0.93 * passes < found.flops < passes
    assert (found.steps, found.size) == (7, (1, 64, 64))


def test_counts_grow_with_the_images_and_shrink_with_16_bits() -> None:
    one, four, half = (count_step(config(**more), 1) for more in ({}, {"batch_size": 4}, {"amp": "bf16"}))
    assert four.flops == 4 * one.flops and four.kernels == one.kernels
    assert 2.5 * one.peak_bytes < four.peak_bytes < 4 * one.peak_bytes  # the gradients of weights do not grow
    assert half.flops == one.flops
    assert half.peak_bytes < 0.6 * one.peak_bytes and half.seconds_per_step < one.seconds_per_step
    accumulated = count_step(config(grad_accumulation=4), 1)
    assert accumulated.flops == four.flops and accumulated.peak_bytes < four.peak_bytes


def test_what_lives_between_steps() -> None:
    made = config(pool_size=10)
    weights = sum(4 * weight.numel() for weight in build_networks(made.model).parameters())
    assert count_step(made, 1).state_bytes == 3 * weights + 2 * 10 * 4 * 3 * 64 * 64
    generators = weights - sum(
        4 * weight.numel() for name in "AB" for weight in build_networks(made.model)[f"D_{name}"].parameters()
    )
    assert count_step(config(pool_size=0, ema=0.9), 1).state_bytes == 3 * weights + generators


def test_memory_is_freed_as_a_step_frees_it() -> None:
    with prediction._Count(4, 1e12) as count:
        for _ in range(3):
            kept = torch.empty(1000, device="meta") + 1  # 4,000 bytes and 4,000 bytes
            del kept
    assert count.live == 0 and count.peak == 8000 and count.kernels == 3


@without_gpu
def test_the_command_predicts_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    words = ["--data", str(data), "--out", str(tmp_path / "run"), *FLAGS.split(), "--device", "cuda", "--estimate"]
    done = run_in_process(lambda: main([*words, "--max-steps", "1000"]))
    assert done.returncode == 0, done.stderr
    first, time, memory = done.stdout.splitlines()
    assert first == "no GPU is here: what follows is counted and predicted, not measured"
    assert time.startswith("time: ") and "by a rough model an H200 takes" in time and time.endswith("for 1,000 steps")
    assert memory.startswith("GPU memory: ") and not (tmp_path / "run").exists()


@without_gpu
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data nowhere", "nowhere"),
        ("--crop-size 8 --load-size 8", "--crop-size"),
        ("--lr -1", "--lr"),
    ],
)
def test_what_cannot_be_trained_is_not_predicted(flags: str, message: str, tmp_path: Path) -> None:
    words = ["--out", str(tmp_path / "run"), "--device", "cuda", "--estimate", *flags.split()]
    done = run_in_process(lambda: main(words))
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr


def test_activation_checkpointing_saves_memory_and_computes_more() -> None:
    plain, checkpointed = (count_step(config(activation_checkpointing=flag), 1) for flag in (False, True))
    assert checkpointed.peak_bytes < 0.9 * plain.peak_bytes
    assert plain.flops < checkpointed.flops < 1.5 * plain.flops


@without_gpu
def test_images_of_several_sizes_are_refused(data: Path, tmp_path: Path) -> None:
    words = ["--data", str(data), "--out", str(tmp_path / "run"), "--device", "cuda", "--estimate"]
    done = run_in_process(lambda: main([*words, "--preprocess", "scale_width"]))
    assert done.returncode == 2 and "--preprocess scale_width gives several" in done.stderr


@pytest.mark.parametrize("model", ["pix2pix", "simgan", "feature_gan", "bigan", "cogan"])
def test_every_model_is_counted(model: str) -> None:
    found = count_step(with_settings(config(pool_size=3), {"model": model}), 1)
    assert found.flops > 0 and found.peak_bytes > 0
