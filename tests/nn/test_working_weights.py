"""Working weights: the same forward pass and gradients as autocast's own casts, never stale, no part of the state."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cyclegan_fast.config import ModelConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.nn.working_weights import gradient_leaves, make_working_weights, working_weights

MODELS = {
    "resnet": ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4, n_layers=2, discriminator="n_layers"),
    "unet": ModelConfig(generator="unet_32", ngf=4, ndf=4, discriminator="pixel"),
    "batch norm": ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4, norm="batch", discriminator="pixel"),
    "unet, batch norm": ModelConfig(generator="unet_32", ngf=4, ndf=4, norm="batch"),
    "no norm": ModelConfig(generator="unet_32", ngf=4, ndf=4, norm="none"),
}


def outputs_and_gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Under autocast, contiguous: torch's own convolutions, which want 16-bit weights."""
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    gradients = torch.autograd.grad(y.float().square().sum(), gradient_leaves(network), allow_unused=True)
    return [y.detach(), *(g.float() for g in gradients if g is not None)]


@pytest.mark.parametrize("model", MODELS)
def test_outputs_and_gradients_are_those_of_casts(model: str) -> None:
    torch.manual_seed(0)
    networks, x = build_networks(MODELS[model]), torch.rand(2, 3, 64, 64)
    for name, network in networks.items():
        plain = copy.deepcopy(network)
        make_working_weights(network, torch.bfloat16)
        got, expected = outputs_and_gradients(network, x), outputs_and_gradients(plain, x)
        assert len(got) == len(expected) > 2, name
        for a, b in zip(got, expected, strict=True):
            assert a.equal(b), name


@pytest.mark.parametrize("model", MODELS)
def test_every_weight_of_a_convolution_has_one(model: str) -> None:
    """A forgotten one would be cast in every pass."""
    networks = build_networks(MODELS[model])
    for network in networks.values():
        make_working_weights(network, torch.float16)
        of_norms = {
            id(w) for m in network.modules() if isinstance(m, nn.BatchNorm2d) for w in m.parameters(recurse=False)
        }
        weights = [w for w in network.parameters() if w.requires_grad]
        for weight, working in zip(weights, working_weights(network), strict=True):
            assert (working is None) == (id(weight) in of_norms)
            assert working is None or (working.rounded.dtype, working.weight) == (torch.float16, weight)


def overwritten(network: nn.Module) -> None:
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.5)


def loaded(network: nn.Module) -> None:
    network.load_state_dict({name: 1.5 * value for name, value in network.state_dict().items()})


def averaged(network: nn.Module) -> None:
    torch._foreach_lerp_(
        [w.detach() for w in network.parameters()], [torch.ones_like(w) for w in network.parameters()], 0.5
    )


@pytest.mark.parametrize("change", [overwritten, loaded, averaged])
@pytest.mark.parametrize("inference", [False, True])
def test_a_change_of_the_weights_reaches_them(change: Callable[[nn.Module], None], inference: bool) -> None:
    torch.manual_seed(0)
    network, x = build_networks(MODELS["resnet"])["G_A"], torch.rand(1, 3, 32, 32)
    make_working_weights(network, torch.bfloat16)

    def translated() -> Tensor:
        with torch.inference_mode(inference), torch.autocast("cpu", torch.bfloat16):
            return network(x).clone()

    before = translated()
    change(network)
    plain = build_networks(MODELS["resnet"])["G_A"]
    plain.load_state_dict(network.state_dict())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = plain(x)
    assert translated().equal(expected) and not before.equal(expected)


def test_a_stale_one_would_be_seen() -> None:
    """What the test above looks for: a change behind torch's back, which nothing in the package makes."""
    network, x = build_networks(MODELS["resnet"])["G_A"], torch.rand(1, 3, 32, 32)
    make_working_weights(network, torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = network(x)
        for weight in network.parameters():
            weight.data.mul_(1.5)
        assert network(x).equal(before)


def test_they_are_read_under_autocast_alone_and_are_no_state() -> None:
    network, x = build_networks(MODELS["unet"])["G_A"], torch.rand(1, 3, 32, 32)
    names = list(network.state_dict())
    expected = network(x)
    make_working_weights(network, torch.bfloat16)
    assert network(x).equal(expected)
    assert list(network.state_dict()) == names
    copied = copy.deepcopy(network)
    overwritten(copied)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not copied(x).equal(network(x))
