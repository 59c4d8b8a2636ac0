"""`--detect-anomaly`: faults planted in a chosen layer are named, with the images; a sound run keeps its bits."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cyclegan_fast.errors import UserError
from cyclegan_fast.training.anomaly import explain_anomaly
from cyclegan_fast.training.trainer import Trainer
from tests.training.test_samples import data, state, trainer

__all__ = ["data"]

FLAGS = "--sample-every 0 --detect-anomaly"


def overflow_forward(networks: nn.ModuleDict) -> None:
    """Sums of a layer leave the range of float32; its weights do not."""
    networks["G_A"].blocks[1].conv1.weight.data.fill_(3e38)


def overflow_score(networks: nn.ModuleDict) -> None:
    networks["D_B"].last.weight.data.fill_(3e38)


def overflow_loss(networks: nn.ModuleDict) -> None:
    networks["D_A"].last.bias.data.fill_(1e30)


def overflow_backward(networks: nn.ModuleDict) -> None:
    """All results are finite, as a layer of zeros lies between two large ones, and its gradient is their product."""
    D_A = networks["D_A"]
    D_A.first.weight.data.fill_(1e20)
    D_A.middle[0].weight.data.zero_()
    D_A.last.weight.data.fill_(1e20)


IMAGES = r"in the step's images \S*trainA/\d\.png and \S*trainB/\d\.png"
BEFORE = r"replayed in float32, the first tensor that is not finite is the output of"


@pytest.mark.parametrize(
    ("plant", "flags", "loss", "message"),
    [
        (
            overflow_forward,
            "",
            "the loss .*",
            rf"{BEFORE} G_A\.blocks\.1\.conv1 \(CancelledBiasConv2d\), \[2, 16, 8, 8\], which holds "
            rf"[\d,]+ (infinite|NaN).* of 2,048 values, of inputs from \S+ to \S+, {IMAGES}",
        ),
        (overflow_score, "", "the loss .*", rf"{BEFORE} D_B\.last \(Conv2d\), .*{IMAGES}"),
        (
            overflow_loss,
            "",
            "the loss G_A and D_A",
            rf"replayed in float32, the loss G_A is not finite, though all that the networks computed is, {IMAGES}",
        ),
        (
            overflow_backward,
            "--norm none",
            "a gradient",
            r"replayed in float32, all results are finite, and the first tensor that is not is the gradient of "
            rf"D_A\.middle\.0\.weight, \[8, 4, 4, 4\], which holds .* of 512 values, {IMAGES}",
        ),
    ],
)
def test_the_first_tensor_is_named(
    data: Path, tmp_path: Path, plant: Callable[[nn.ModuleDict], None], flags: str, loss: str, message: str
) -> None:
    run = trainer(data, tmp_path, f"{FLAGS} {flags}")
    plant(run.networks)
    before = {name: weight.clone() for name, weight in run.networks.state_dict().items()}
    with pytest.raises(UserError) as raised:
        run.run()
    assert re.fullmatch(
        rf"step 1: {loss} is not finite; the weights of before it are saved in \S+; {message}", str(raised.value)
    ), raised.value
    assert all(weight.equal(before[name]) for name, weight in run.networks.state_dict().items())
    saved = load_file(next((tmp_path / "failed").glob("step_*")) / "weights.safetensors")
    assert all(weight.isfinite().all() for weight in saved.values())


def test_without_the_flag_the_message_names_it(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path, "--sample-every 0")
    overflow_score(run.networks)
    with pytest.raises(UserError, match="with --resume auto --detect-anomaly names layer and tensor"):
        run.run()


def test_a_sound_run_keeps_its_bits_also_when_resumed_with_and_without_the_flag(data: Path, tmp_path: Path) -> None:
    trainer(data, tmp_path / "without", "--sample-every 0").run()
    trainer(data, tmp_path / "with", FLAGS).run()
    for name, first, then in (("later", "", "--detect-anomaly"), ("before", "--detect-anomaly", "--no-detect-anomaly")):
        trainer(data, tmp_path / name, f"--sample-every 0 --max-steps 3 {first}").run()
        trainer(data, tmp_path / name, f"--sample-every 0 --resume auto {then}").run()
    plain = state(tmp_path / "without")
    for name in ("with", "later", "before"):
        other = state(tmp_path / name)
        assert plain.keys() == other.keys() and all(plain[key].equal(other[key]) for key in plain)


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Any:
    made = trainer(data, tmp_path, "--sample-every 0")
    yield made
    made.close()


def batch(images: int) -> dict[str, Any]:
    real = {side: torch.rand(images, 3, 32, 32) * 2 - 1 for side in "AB"}
    return real | {f"paths_{side}": [f"{side}/{i}.png" for i in range(images)] for side in "AB"}


def test_a_weight_that_was_bad_before_the_step(run: Trainer) -> None:
    G_A = run.networks["G_A"]
    for weight in (G_A.stem.weight, G_A.blocks[0].conv2.weight):  # as a gradient spreads
        weight.data[0, 1, 2, 0] = torch.nan
    assert explain_anomaly(run.networks, run.config, batch(1)) == (
        "the weight G_A.blocks.0.conv2.weight, [16, 16, 3, 3], which holds 1 NaN of 2,304 values, is not finite, "
        "already before this step"
    )


def test_the_images_of_a_batch_that_are_at_fault(run: Trainer) -> None:
    images = batch(6)
    for i in (1, 2, 4, 5):
        images["B"][i, 0, 3, 4] = torch.inf
    assert explain_anomaly(run.networks, run.config, images) == (
        "replayed in float32, the image of B itself holds 1 infinite of 3,072 values, in the step's images "
        "A/1.png and B/1.png, A/2.png and B/2.png, A/4.png and B/4.png and 1 more"
    )


@pytest.mark.parametrize(
    ("amp", "found"),
    [
        ("bf16", "replayed in float32 it is finite, so the precision of --amp bf16 is at fault: use --amp off"),
        (
            "fp16",
            "replayed in float32 it is finite, so the precision of --amp fp16 is at fault: use --amp off, or bf16,",
        ),
        ("off", "an earlier translation in the image pool, or a random number, made the difference"),
    ],
)
def test_a_step_that_is_finite_in_float32(run: Trainer, amp: str, found: str) -> None:
    object.__setattr__(run.config.run, "amp", amp)
    weights = {name: weight.clone() for name, weight in run.networks.state_dict().items()}
    assert found in explain_anomaly(run.networks, run.config, batch(2))
    assert all(weight.equal(weights[name]) for name, weight in run.networks.state_dict().items())


@pytest.mark.parametrize("flags", ["--norm batch", "--gan-mode wgangp", "--activation-checkpointing", "--dropout"])
def test_other_networks_and_objectives(data: Path, tmp_path: Path, flags: str) -> None:
    run = trainer(data, tmp_path, f"{FLAGS} --batch-size 2 --grad-accumulation 2 {flags}")
    overflow_score(run.networks)
    with pytest.raises(UserError, match=rf"{BEFORE} D_B\.last"):
        run.run()


def test_a_u_net(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path, f"{FLAGS} --generator unet_32 --load-size 32 --amp bf16")
    run.networks["G_A"].up[1].weight.data.fill_(3e38)
    with pytest.raises(UserError, match=rf"{BEFORE} G_A\.up\.1 \(CancelledBiasConvTranspose2d\)"):
        run.run()


@pytest.mark.gpu
@pytest.mark.parametrize("flags", ["", "--cuda-graphs --amp"])
def test_on_a_gpu_the_step_itself_is_replayed(data: Path, tmp_path: Path, flags: str) -> None:
    run = trainer(data, tmp_path, f"{FLAGS} --device cuda --max-steps 9 {flags}")
    step = run.step.set_learning_rate

    def plant(lr: float) -> None:
        step(lr)
        if run.done == 6:
            overflow_score(run.networks)

    run.step.set_learning_rate = plant  # type: ignore[method-assign]
    with pytest.raises(UserError, match=rf"step 7: the loss .* is not finite; .*{BEFORE} D_B\.last .*{IMAGES}"):
        run.run()
