"""The watch: each fault on a run that was made to fall, none on a sound one, none where images are meant to be so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast.api.run import Run
from cyclegan_fast.config import ObjectiveConfig, TrainConfig
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.monitoring.samples import SampleRow
from cyclegan_fast.training import watch
from cyclegan_fast.training.trainer import Trainer
from cyclegan_fast.training.watch import judge_images, judge_losses
from tests.training.test_samples import data, trainer

__all__ = ["data"]

FALL = "--sample-every 2 --log-every 2 --max-steps 8"


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges from the first steps on."""
    monkeypatch.setattr(watch, "FIRST_STEP", 1)
    monkeypatch.setattr(watch, "LOOK_EVERY", 1)
    monkeypatch.setattr(watch, "WON_WINDOW", 100)
    monkeypatch.setattr(watch, "DIVERGED_WINDOW", 20)


def warnings(out: Path) -> list[tuple[str, str]]:
    """Kind and network of all warnings in the events of a run."""
    return [(w["kind"], w["network"]) for event in read_events(out) for w in event.get("warnings", [])]


def force_bias(run: Trainer, value: float) -> None:
    run.networks["G_A"].head.bias.data.fill_(value)


def zero_head(run: Trainer) -> None:
    head = run.networks["G_A"].head
    head.weight.data.zero_()
    head.bias.data.fill_(0.3)


def saturate(run: Trainer) -> None:
    run.networks["G_A"].head.weight.data.mul_(1e6)


def ignore_input(run: Trainer) -> None:
    generator = run.networks["G_A"]
    forward, fixed = generator.forward, torch.rand(1, 3, 32, 32) * 2 - 1
    generator.forward = lambda x: forward(fixed.expand(len(x), -1, -1, -1))


@pytest.mark.parametrize(
    ("fall", "kind", "message"),
    [
        (lambda run: force_bias(run, -20), "constant", "the images of G_A are black, and real ones of B are not"),
        (lambda run: force_bias(run, 20), "constant", "the images of G_A are white, and real ones of B are not"),
        (zero_head, "constant", "the images of G_A are of one colour"),
        (saturate, "saturated", "the images of G_A hold hardly anything but full black and full colours"),
        (ignore_input, "one mode", "G_A makes nearly the same image of different inputs"),
    ],
    ids=["black", "white", "one colour", "saturated", "one mode"],
)
def test_collapsed_images_are_warned_of_once(
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fall: Callable[[Trainer], None],
    kind: str,
    message: str,
) -> None:
    run = trainer(data, tmp_path, f"{FALL} --lr 1e-6 --lambda-identity 0")
    fall(run)
    assert run.run() == 0
    assert warnings(tmp_path) == [(kind, "G_A")]
    (logged,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert logged.startswith(message) and "docs/results_are_bad.md" in logged
    (event,) = [event for event in read_events(tmp_path) if "warnings" in event]
    assert event["step"] == 4 and "losses" not in event  # the second grid after step 0's
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<b>At step 4</b>") == 1 and message in page
    found = Run(tmp_path)
    assert found.warnings == [logged] and found.steps.tolist() == [2, 4, 6, 8]
    assert all(np.isfinite(curve).all() for curve in found.losses.values())


def test_a_resumed_run_does_not_warn_again(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(data, tmp_path, FALL)
    force_bias(run, -20)
    run.run()
    caplog.clear()
    trainer(data, tmp_path, "--sample-every 2 --resume auto --max-steps 16").run()
    assert warnings(tmp_path) == [("constant", "G_A")]
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]


def test_watch_off_warns_of_nothing(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path, f"{FALL} --watch off")
    force_bias(run, -20)
    run.run()
    assert warnings(tmp_path) == []


@pytest.fixture(scope="module")
def sound(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns to keep the colours of its images."""
    out = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watch, "FIRST_STEP", 20)
        patched.setattr(watch, "LOOK_EVERY", 1)
        patched.setattr(watch, "WON_WINDOW", 100)
        patched.setattr(watch, "DIVERGED_WINDOW", 20)
        flags = "--sample-every 20 --log-every 10 --max-steps 300 --lr 0.002 --lambda-identity 1"
        assert trainer(data, out, flags).run() == 0
    return out


def test_a_sound_run_is_not_warned_of(sound: Path) -> None:
    assert warnings(sound) == []


def test_inverted_colours(data: Path, sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sound run goes on with the sign of G_A's last layer flipped, so that its images are their negatives."""
    run = trainer(data, tmp_path, f"{FALL} --lr 1e-6 --init-from {sound}")
    load = run.state.load

    def load_and_flip() -> None:
        load()
        for weight in run.networks["G_A"].head.parameters():
            weight.data.neg_()

    run.state.load = load_and_flip  # type: ignore[method-assign]
    assert run.run() == 0
    assert warnings(tmp_path) == [("inverted", "G_A")]
    (logged,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "That may be intended, as between day and night, or labels and photos: --watch off then" in logged


def test_a_discriminator_that_has_won(data: Path, tmp_path: Path) -> None:
    """The generators stand still, so that the discriminators learn to tell their images from real ones."""
    run = trainer(
        data, tmp_path, "--max-steps 240 --log-every 10 --lr 0.002 --ndf 8 --n-layers 2 --pool-size 0 --sample-every 0"
    )
    update = run.step.update_weights

    def update_discriminators(losses: object, *, generators: list, discriminators: object) -> None:  # type: ignore[type-arg]
        for gradients in generators:  # of the cycle from A and of that from B
            for gradient in gradients:
                if gradient is not None:
                    gradient.zero_()
        update(losses, generators=generators, discriminators=discriminators)

    run.step.update_weights = update_discriminators  # type: ignore[method-assign]
    assert run.run() == 0
    assert ("discriminator won", "D_A") in warnings(tmp_path) and ("discriminator won", "D_B") in warnings(tmp_path)
    assert len(warnings(tmp_path)) == 2


def test_losses_that_diverge(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path, "--max-steps 40 --log-every 5 --lr 1000 --sample-every 0")
    assert run.run() == 0
    assert warnings(tmp_path) == [("diverging", "D_A"), ("diverging", "D_B")]


def records(*values: tuple[float, float], steps: int = 10) -> list[watch._Record]:
    return [watch._Record(steps, {"G_A": G, "D_A": D}) for G, D in values]


@pytest.mark.parametrize(
    ("mode", "found", "kinds"),
    [
        ("lsgan", records(*[(0.9, 0.005)] * 10), ["discriminator won"]),
        ("lsgan", records(*[(0.9, 0.005)] * 9), []),  # not long enough
        ("lsgan", records(*[(0.9, 0.005)] * 9, (0.5, 0.2)), []),
        ("lsgan", records((0.9, float("nan")), *[(0.9, 0.005)] * 9), []),
        ("lsgan", records(*[(0.8, 0.05)] * 10), []),  # late in a sound run
        ("vanilla", records(*[(5.0, 0.01)] * 10), ["discriminator won"]),
        ("hinge", records(*[(1.5, 0.01)] * 10), ["discriminator won"]),
        ("wgangp", records(*[(300.0, -200.0)] * 10), []),
        ("wgangp", records(*[(3e5, -2e5)] * 10), ["diverging"]),
        ("lsgan", records(*[(0.3, 0.2)] * 8, *[(90.0, 0.2)] * 2), ["diverging"]),
        ("lsgan", records(*[(0.3, 0.2)] * 9, (90.0, 0.2)), []),  # one bad batch
        ("lsgan", records(*[(0.3, 0.2)] * 8, (90.0, 0.2), (float("nan"), 0.2)), []),
        ("lsgan", records(*[(float("inf"), 0.2)] * 9), ["diverging"]),
    ],
)
def test_losses_by_their_numbers(mode: str, found: list[watch._Record], kinds: list[str]) -> None:
    config = TrainConfig(objective=ObjectiveConfig(gan_mode=mode))  # type: ignore[arg-type]
    assert [finding.kind for finding in judge_losses(found, config)] == kinds
    weighted = TrainConfig(objective=ObjectiveConfig(gan_mode=mode, lambda_gan=0.1))  # type: ignore[arg-type]
    scaled = [record._replace(losses=dict(record.losses, G_A=0.1 * (record.losses["G_A"] or 0))) for record in found]
    assert [finding.kind for finding in judge_losses(scaled, weighted)] == kinds
    assert judge_losses(found, TrainConfig(objective=ObjectiveConfig(lambda_gan=0))) == []


def smooth(seed: int, low: float = -1, high: float = 1) -> np.ndarray:
    """An image [64, 64, 3] of a few colours that blend."""
    small = np.random.default_rng(seed).uniform(low, high, (3, 4, 4)).astype(np.float32)
    return torch.nn.functional.interpolate(torch.from_numpy(small)[None], size=64, mode="bicubic")[0].numpy()


def rows(inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> list[SampleRow]:
    """A grid of A with these outputs, and of B with photos, which are no fault."""
    images = [("A", pair) for pair in zip(inputs, outputs, strict=True)]
    images += [("B", pair) for pair in zip(real, PHOTOS, strict=False)]
    return [SampleRow(domain, str(i), [as_image(p) for p in pair]) for i, (domain, pair) in enumerate(images)]


def as_image(pixels: np.ndarray) -> Image.Image:
    levels: Tensor = torch.from_numpy(pixels).clamp(-1, 1).add(1).mul(127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


PHOTOS, OTHERS = [smooth(i) for i in range(4)], [smooth(10 + i) for i in range(4)]
NIGHT = [smooth(20 + i, -1, -0.93) for i in range(4)]
BLACK = [np.full((3, 64, 64), -1, np.float32)] * 4
MASKS = [np.sign(image - 0.8) for image in PHOTOS]
SLICES = [0.9 * smooth(30) + 0.05 * image for image in PHOTOS]  # of one body: much alike


@pytest.mark.parametrize(
    ("inputs", "outputs", "real", "kinds"),
    [
        (PHOTOS, [0.7 * image + 0.2 for image in PHOTOS], OTHERS, []),
        (PHOTOS, OTHERS, OTHERS, []),  # nothing of the input is left: no fault that can be seen
        (PHOTOS, NIGHT, NIGHT, []),  # dark, as its domain is
        (PHOTOS, BLACK, NIGHT, ["constant"]),
        (PHOTOS, BLACK, BLACK, []),  # as real masks of nothing are
        (PHOTOS, [*BLACK[:3], OTHERS[0]], OTHERS, ["constant"]),  # most
        (PHOTOS, [*BLACK[:2], *OTHERS[:2]], OTHERS, []),
        (PHOTOS, [np.sign(image) for image in PHOTOS], OTHERS, ["saturated"]),
        (PHOTOS, [np.sign(image) for image in PHOTOS], MASKS, []),
        (PHOTOS, [-image for image in PHOTOS], OTHERS, ["inverted"]),
        (PHOTOS, [-0.5 * image - 0.3 for image in PHOTOS], OTHERS, ["inverted"]),
        (PHOTOS, [OTHERS[0] + 0.02 * image for image in PHOTOS], OTHERS, ["one mode"]),
        (SLICES, [OTHERS[0] + 0.02 * image for image in PHOTOS], SLICES, []),  # inputs that differ as little
        (SLICES, SLICES, SLICES, []),
        (PHOTOS[:1], BLACK[:1], OTHERS, ["constant"]),
        (PHOTOS[:1], OTHERS[:1], [], []),
        (PHOTOS[:1], BLACK[:1], [], ["constant"]),
        ([], [], OTHERS, []),
    ],
)
def test_images_by_their_looks(
    inputs: list[np.ndarray], outputs: list[np.ndarray], real: list[np.ndarray], kinds: list[str]
) -> None:
    assert [finding.kind for finding in judge_images(rows(inputs, outputs, real))] == kinds
    other_way = [row._replace(domain="BA"["AB".index(row.domain)]) for row in rows(inputs, outputs, real)]
    assert [(f.kind, f.network) for f in judge_images(other_way)] == [(kind, "G_B") for kind in kinds]


def test_images_of_one_grid_may_differ_in_size() -> None:
    wide = [SampleRow("A", "0", [as_image(x).resize((90, 40)) for x in (PHOTOS[0], -PHOTOS[0])])]
    others = rows(PHOTOS[1:], [-image for image in PHOTOS[1:]], OTHERS)
    assert [finding.kind for finding in judge_images(wide + others)] == ["inverted"]
