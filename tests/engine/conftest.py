import signal
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.engine import build_engine
from cyclegan_fast.engine.backends.sidecar import weights_digest
from cyclegan_fast.engine.export import build
from cyclegan_fast.engine.export.onnx import to_onnx
from cyclegan_fast.nn import build_networks
from tests.engine import bulk

MODELS = {
    "colour": ModelConfig(generator="resnet_1blocks", ngf=6, ndf=4),
    "grey_to_colour": ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4, channels_A=1),
    "unet": ModelConfig(generator="unet_32", ngf=4, ndf=4),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A run folder with one checkpoint per model; the weights are large enough that every pixel of the input counts."""
    folders = {}
    for name, model in MODELS.items():
        torch.manual_seed(11)
        networks = build_networks(model)
        for parameter in networks.parameters():
            parameter.data.mul_(4.0)
        folders[name] = tmp_path_factory.mktemp(name)
        save_checkpoint(
            folders[name] / "checkpoints", 7, networks=networks, config=TrainConfig(model=model), progress={"step": 7}
        )
    return folders


@pytest.fixture(scope="session")
def onnx_files(runs, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    files = {name: build_engine(runs[name], folder / f"{name}.onnx", direction="AtoB") for name in ("colour", "unet")}
    return files | {"colour_BtoA": build_engine(runs["colour"], folder / "colour_BtoA.onnx", direction="BtoA")}


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A few images of noise, for calibration and comparison."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(1)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_export_of_a_generator():
    """Keeps the ONNX graph of each generator: torch.onnx takes seconds for one, and most tests use the same few."""
    graphs: dict[str, bytes] = {}

    def cached(generator):
        key = f"{generator.model.generator} {generator.model.norm} {weights_digest(generator.network)}"
        if key not in graphs:
            graphs[key] = to_onnx(generator)
        return graphs[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(build, "to_onnx", cached)
        yield


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def run_command_here(capsys, monkeypatch):
    """Runs a command as `python -m` does, in this process: torch is imported already."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(main, *words) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return Ended(ended.value.code, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def bulk_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bulk.make_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def bulk_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bulk.make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def plain_results(bulk_engine: Path, bulk_images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the plain command makes of the images."""
    output = tmp_path_factory.mktemp("plain") / "out"
    assert bulk.run(bulk_engine, bulk_images, output) == 0
    return bulk.contents(output)


@pytest.fixture
def no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is no rank of torchrun."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
