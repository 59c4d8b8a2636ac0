import pytest
import torch

from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.nn import build_networks


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(model=ModelConfig(generator="resnet_2blocks", ngf=4, ndf=4, channels_A=1))


@pytest.fixture
def networks(config: TrainConfig) -> torch.nn.ModuleDict:
    torch.manual_seed(7)
    return build_networks(config.model)
