"""The networks against their plain restatement: outputs, every gradient, sizes, counts and first weights."""

import itertools
import re

import pytest
import torch

from cyclegan_fast import ops
from cyclegan_fast.checkpoint.reference_format import from_reference, to_reference
from cyclegan_fast.config import ModelConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_discriminator, build_generator, build_networks, init_weights
from tests.plain.networks import (
    PlainNLayerDiscriminator,
    PlainPixelDiscriminator,
    PlainResnetGenerator,
    PlainUnetGenerator,
)

CONFIGS = {
    "resnet_2blocks": lambda norm, dropout: (
        build_generator(ModelConfig(generator="resnet_2blocks", ngf=4, norm=norm, dropout=dropout, channels_B=1)),
        PlainResnetGenerator(3, 1, 4, 2, norm, dropout),
        (2, 3, 20, 28),
    ),
    "unet_64": lambda norm, dropout: (
        build_generator(ModelConfig(generator="unet_64", ngf=2, norm=norm, dropout=dropout, channels_B=1)),
        PlainUnetGenerator(3, 1, 6, 2, norm, dropout),
        (2, 3, 64, 64),
    ),
    "basic": lambda norm, dropout: (
        build_discriminator(ModelConfig(ndf=4, norm=norm), 3),
        PlainNLayerDiscriminator(3, 4, 3, norm),
        (2, 3, 33, 46),
    ),
    "n_layers_5": lambda norm, dropout: (
        build_discriminator(ModelConfig(discriminator="n_layers", n_layers=5, ndf=2, norm=norm), 3),
        PlainNLayerDiscriminator(3, 2, 5, norm),
        (1, 3, 128, 100),
    ),
    "pixel": lambda norm, dropout: (
        build_discriminator(ModelConfig(discriminator="pixel", ndf=4, norm=norm), 3),
        PlainPixelDiscriminator(3, 4, norm),
        (2, 3, 17, 9),
    ),
}
# Largest error allowed, relative to the largest value of the tensor.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}


def pair(name, norm, dropout=False):
    """Ours, and the plain network with the same weights, drawn so that no layer fades out."""
    ours, plain, shape = CONFIGS[name](norm, dropout)
    init_weights(plain, "kaiming", 1.0)
    for p in plain.parameters():
        if p.dim() == 1:
            p.data.add_(torch.randn_like(p) * 0.1)
    ours.load_state_dict(from_reference(ours, plain.state_dict()))
    return ours, plain, shape


def assert_close(a, b, dtype, what):
    error = (a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-12)
    assert error <= TOLERANCE[dtype], f"{what}: {error:.2e}"


def passed(net, x, target):
    """Output, gradient of the input, gradients of the weights by name."""
    x = x.clone().requires_grad_()
    y = net(x)
    (y * target).sum().backward()
    return y.detach(), x.grad, {name: p.grad for name, p in net.named_parameters()}


def cancelled(plain, norm):
    """Biases that an instance norm cancels: their gradient is zero but for rounding, and ours have none."""
    if norm != "instance":
        return set()
    convs = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    pairs = itertools.pairwise(plain.named_modules())
    followed = {name: module for (name, module), (_, after) in pairs if isinstance(after, torch.nn.InstanceNorm2d)}
    return {f"{name}.bias" for name, module in followed.items() if isinstance(module, convs)}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_gradients_equal_the_plain_networks(name, norm, dtype, memory_format):
    torch.manual_seed(3)
    ours, plain, shape = pair(name, norm)
    plain.double()
    ours.to(dtype).to(memory_format=memory_format)
    x = torch.rand(shape, dtype=torch.float64) * 2 - 1
    target = torch.randn(plain(x).shape, dtype=torch.float64)
    y, dx, dw = passed(plain, x, target)
    y_ours, dx_ours, _ = passed(ours, x.to(dtype, memory_format=memory_format), target.to(dtype))
    assert_close(y_ours, y, dtype, "output")
    assert_close(dx_ours, dx, dtype, "gradient of the input")

    cancelled_biases = cancelled(plain, norm)
    names = {theirs: name for name, theirs in reference_names(ours).items()}
    assert names.keys() == dw.keys()
    for theirs, gradient in dw.items():
        parameter = ours.get_parameter(names[theirs])
        if theirs in cancelled_biases:
            assert parameter.grad is None and not parameter.requires_grad, theirs
        else:
            assert parameter.grad is not None, theirs
            assert_close(parameter.grad, gradient, dtype, theirs)


def reference_names(net):
    """Our name of each parameter -> the reference's, found by marking every parameter with its number."""
    state = net.state_dict()
    marked = {name: torch.full_like(value, i) for i, (name, value) in enumerate(state.items())}
    numbers = list(marked)
    original = {k: v.clone() for k, v in state.items()}
    net.load_state_dict(marked)
    found = {numbers[int(value.flatten()[0])]: theirs for theirs, value in to_reference(net).items()}
    net.load_state_dict(original)
    return {name: found[name] for name, _ in net.named_parameters()}


@pytest.mark.parametrize("name", ["resnet_2blocks", "unet_64"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_dropout_drops_what_the_plain_network_drops(name, norm, monkeypatch):
    """With dropout replaced by a fixed mask of its shape, wherever it stands, both networks are the same function."""

    def mask(x):
        pattern = torch.arange(x[0].numel(), dtype=x.dtype).view(x.shape[1:]) % 3
        return x * (pattern > 0) * 2

    torch.manual_seed(4)
    ours, plain, shape = pair(name, norm, dropout=True)
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: mask(x))
    x = torch.rand(shape, dtype=torch.float64)
    assert_close(ours.double()(x), plain.double()(x), torch.float64, "output")
    dropouts = [m for net in (ours, plain) for m in net.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(dropouts) == 4 if name == "resnet_2blocks" else len(dropouts) == 2


def test_dropout_is_off_in_evaluation_and_on_in_training():
    ours, plain, shape = pair("resnet_2blocks", "instance", dropout=True)
    x = torch.rand(shape)
    assert not torch.equal(ours(x), ours(x))
    assert_close(ours.eval()(x), plain.eval()(x), torch.float32, "output")


def test_batch_norm_keeps_the_same_statistics():
    ours, plain, shape = pair("resnet_2blocks", "batch")
    for _ in range(3):
        x = torch.rand(shape)
        ours(x), plain(x)
    theirs = plain.state_dict()
    for name, value in to_reference(ours).items():
        assert_close(value, theirs[name], torch.float32, name)
    assert_close(ours.eval()(x), plain.eval()(x), torch.float32, "output")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_fused_operators_equal_their_reference_inside_a_network(name):
    if not ops.extension_available():
        pytest.skip(ops.extension_error())
    ours, _, shape = pair(name, "instance")
    x = torch.rand(shape)
    with ops.use_reference():
        expected = ours(x)
    assert_close(ours(x), expected, torch.float32, "output")


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_counts_of_the_paper():
    with torch.device("meta"):
        generator, discriminator = build_generator(ModelConfig()), build_discriminator(ModelConfig(), 3)
        assert count(generator) == 11_378_179
        assert count(discriminator) == 2_764_737
        assert discriminator(torch.empty(1, 3, 256, 256)).shape == (1, 1, 30, 30)
        assert count(build_generator(ModelConfig(generator="resnet_6blocks"))) == 7_837_699
        assert count(build_generator(ModelConfig(generator="unet_256"))) == count(PlainUnetGenerator(3, 3, 8))
        assert count(build_generator(ModelConfig(generator="unet_128"))) == count(PlainUnetGenerator(3, 3, 7))


@pytest.mark.parametrize("generator", ["resnet_1blocks", "unet_32"])
def test_images_keep_their_size(generator):
    net = build_generator(ModelConfig(generator=generator, ngf=2, channels_A=1, channels_B=3))
    for n, h, w in ((1, net.size_divisor * 2, net.size_divisor * 3), (3, net.size_divisor * 5, net.size_divisor * 2)):
        y = net(torch.zeros(n, 1, h, w))
        assert y.shape == (n, 3, h, w) and y.abs().max() <= 1


def test_init_order_and_statistics():
    config = ModelConfig(generator="resnet_2blocks", ngf=16, ndf=16, channels_A=1)
    torch.manual_seed(5)
    networks = build_networks(config)
    assert list(networks) == ["G_A", "G_B", "D_A", "D_B"]
    assert networks["G_A"].stem.in_channels == 1 and networks["G_B"].stem.in_channels == 3
    assert networks["D_A"].first.in_channels == 3 and networks["D_B"].first.in_channels == 1
    for net in networks.values():
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                assert not p.any(), name
            elif p.numel() > 1000:
                assert abs(p.detach().mean()) < 5 * 0.02 / p.numel() ** 0.5, name
                assert p.detach().std() == pytest.approx(0.02, rel=5 / (2 * p.numel()) ** 0.5), name

    torch.manual_seed(5)
    again = build_networks(config)
    assert all(torch.equal(a, b) for a, b in zip(networks.parameters(), again.parameters(), strict=True))
    torch.manual_seed(5)  # torch's own first weights are drawn too, and each net is initialised in this order
    (
        build_generator(config),
        build_generator(config, "BtoA"),
        build_discriminator(config, 3),
        build_discriminator(config, 1),
    )
    for name, p in networks.named_parameters():
        if p.dim() == 4:
            assert torch.equal(p, torch.empty_like(p).normal_(0, 0.02)), name


@pytest.mark.parametrize(("init_type", "spread"), [("xavier", 0.02 / 24), ("kaiming", 2**0.5 / 24), ("orthogonal", 0)])
def test_other_inits(init_type, spread):
    net = torch.nn.Conv2d(64, 64, 3)
    init_weights(net, init_type, 0.02)
    if init_type == "orthogonal":
        flat = net.weight.detach().flatten(1) / 0.02
        torch.testing.assert_close(flat @ flat.T, torch.eye(64), rtol=0, atol=1e-5)
    else:
        assert net.weight.detach().std() == pytest.approx(spread, rel=0.05)
    assert not net.bias.any()


@pytest.mark.parametrize("name", ["resnet_0blocks", "resnet_100blocks", "resnet", "unet_100", "unet_16", "vgg"])
def test_unknown_generators_are_refused(name):
    with pytest.raises(UserError, match=re.escape(f"generator '{name}' is unknown")):
        build_generator(ModelConfig(generator=name))
