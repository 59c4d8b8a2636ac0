from pathlib import Path

import pytest
import torch

from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.nn import build_networks


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint of tiny networks, both directions."""
    model, folder = ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4), tmp_path_factory.mktemp("serve") / "tiny"
    torch.manual_seed(3)
    networks = build_networks(model)
    for parameter in networks.parameters():
        parameter.data.mul_(4.0)
    save_checkpoint(folder / "checkpoints", 1, networks=networks, config=TrainConfig(model=model), progress={"step": 1})
    return folder
