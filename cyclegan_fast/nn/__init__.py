"""Networks of the models, built from a `ModelConfig`."""

from __future__ import annotations

import re

import torch
from torch import nn

from cyclegan_fast.config import ModelConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.metrics import Direction
from cyclegan_fast.models import MODELS
from cyclegan_fast.nn.discriminators import NLayerDiscriminator, PixelDiscriminator
from cyclegan_fast.nn.generators import ResnetGenerator, UnetGenerator
from cyclegan_fast.nn.init import init_weights

__all__ = [
    "NLayerDiscriminator",
    "PixelDiscriminator",
    "ResnetGenerator",
    "UnetGenerator",
    "build_discriminator",
    "build_generator",
    "build_networks",
    "image_requirements",
    "init_weights",
]


def build_generator(config: ModelConfig, direction: Direction = "AtoB") -> ResnetGenerator | UnetGenerator:
    """Builds G_A (AtoB) or G_B (BtoA), with torch's default weights.

    Raises:
        UserError: `config.generator` names no generator.
    """
    channels = config.channels_A, config.channels_B
    if direction == "BtoA":
        channels = channels[::-1]
    if match := re.fullmatch(r"resnet_([1-9]\d?)blocks", config.generator):
        return ResnetGenerator(*channels, config.ngf, int(match[1]), config.norm, config.dropout)
    if match := re.fullmatch(r"unet_(\d{1,5})", config.generator):
        depth = int(match[1]).bit_length() - 1
        if 2**depth == int(match[1]) and depth >= 5:
            return UnetGenerator(*channels, depth, config.ngf, config.norm, config.dropout)
    raise UserError(
        f"generator '{config.generator}' is unknown: name resnet_<N>blocks with 1 to 99 blocks, or unet_<side> with a "
        "power of two from 32 (resnet_9blocks, resnet_6blocks, unet_256, unet_128)"
    )


def build_discriminator(config: ModelConfig, channels: int) -> NLayerDiscriminator | PixelDiscriminator:
    """Builds a discriminator for images of `channels` channels, with torch's default weights."""
    if config.discriminator == "pixel":
        return PixelDiscriminator(channels, config.ndf, config.norm)
    n_layers = 3 if config.discriminator == "basic" else config.n_layers
    return NLayerDiscriminator(channels, config.ndf, n_layers, config.norm)


def image_requirements(config: ModelConfig) -> tuple[int, int]:
    """Returns (size_divisor, min_size) of training images: what their sides are multiples of, and their minimum."""
    with torch.device("meta"):
        generator = build_generator(config)
    if config.discriminator == "pixel":
        return generator.size_divisor, generator.min_size
    n_layers = 3 if config.discriminator == "basic" else config.n_layers
    # The strided convolutions halve a side n_layers times; the last two shrink it by one pixel each and must leave one.
    return generator.size_divisor, max(generator.min_size, generator.size_divisor, 3 * 2**n_layers)


def build_networks(config: ModelConfig) -> nn.ModuleDict:
    """Builds and initialises the networks of a model from torch's global generator: generators, then discriminators.

    Of CycleGAN they are G_A, G_B, D_A and D_B. D_A is G_A's discriminator and so scores images of B; D_B scores images
    of A. One that scores images of both at once takes their channels one after the other.
    """
    model = MODELS[config.model]
    channels = {"A": config.channels_A, "B": config.channels_B, "AB": config.channels_A + config.channels_B}
    networks = nn.ModuleDict({name: build_generator(config, to) for name, to in model.generators.items()})
    networks.update({name: build_discriminator(config, channels[of]) for name, of in model.discriminators.items()})
    for net in networks.values():
        init_weights(net, config.init_type, config.init_gain)
    return networks
