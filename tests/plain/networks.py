"""The reference's networks, restated from the recipe as plain nn.Sequential modules with the reference's names.

Nothing here is shared with the package.
"""

from __future__ import annotations

import functools

from torch import Tensor, cat, nn

NORMS = {
    "instance": functools.partial(nn.InstanceNorm2d, affine=False, track_running_stats=False),
    "batch": nn.BatchNorm2d,
    "none": lambda channels: nn.Identity(),
}


class PlainResnetBlock(nn.Module):
    def __init__(self, channels: int, norm: str, dropout: bool) -> None:
        super().__init__()
        bias = norm == "instance"
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), NORMS[norm](channels), nn.ReLU()]
        layers += [nn.Dropout(0.5)] if dropout else []
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), NORMS[norm](channels)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class PlainResnetGenerator(nn.Module):
    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        ngf: int = 64,
        n_blocks: int = 9,
        norm: str = "instance",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        bias = norm == "instance"
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(input_nc, ngf, 7, bias=bias), NORMS[norm](ngf), nn.ReLU()]
        for c in (ngf, 2 * ngf):
            layers += [nn.Conv2d(c, 2 * c, 3, stride=2, padding=1, bias=bias), NORMS[norm](2 * c), nn.ReLU()]
        layers += [PlainResnetBlock(4 * ngf, norm, dropout) for _ in range(n_blocks)]
        for c in (4 * ngf, 2 * ngf):
            up = nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1, bias=bias)
            layers += [up, NORMS[norm](c // 2), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PlainUnetBlock(nn.Module):
    """x -> [x, up(submodule(down(x)))], with the in-place activations of the reference."""

    def __init__(
        self, outer: int, inner: int, submodule: nn.Module | None, norm: str, dropout: bool, input_nc: int | None = None
    ) -> None:
        super().__init__()
        bias = norm == "instance"
        self.outermost = input_nc is not None
        down = nn.Conv2d(outer if input_nc is None else input_nc, inner, 4, stride=2, padding=1, bias=bias)
        into = inner if submodule is None else 2 * inner
        up = nn.ConvTranspose2d(into, outer, 4, stride=2, padding=1, bias=bias or self.outermost)
        if self.outermost:
            layers = [down, submodule, nn.ReLU(True), up, nn.Tanh()]
        elif submodule is None:
            layers = [nn.LeakyReLU(0.2, True), down, nn.ReLU(True), up, NORMS[norm](outer)]
        else:
            layers = [
                nn.LeakyReLU(0.2, True),
                down,
                NORMS[norm](inner),
                submodule,
                nn.ReLU(True),
                up,
                NORMS[norm](outer),
            ]
            layers += [nn.Dropout(0.5)] if dropout else []
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else cat([x, self.model(x)], 1)


class PlainUnetGenerator(nn.Module):
    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        num_downs: int,
        ngf: int = 64,
        norm: str = "instance",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        block = PlainUnetBlock(8 * ngf, 8 * ngf, None, norm, False)
        for _ in range(num_downs - 5):
            block = PlainUnetBlock(8 * ngf, 8 * ngf, block, norm, dropout)
        for factor in (4, 2, 1):
            block = PlainUnetBlock(factor * ngf, 2 * factor * ngf, block, norm, False)
        self.model = PlainUnetBlock(output_nc, ngf, block, norm, False, input_nc=input_nc)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PlainNLayerDiscriminator(nn.Module):
    def __init__(self, input_nc: int, ndf: int = 64, n_layers: int = 3, norm: str = "instance") -> None:
        super().__init__()
        bias = norm == "instance"
        layers = [nn.Conv2d(input_nc, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        c = ndf
        for n in range(1, n_layers + 1):
            after = ndf * min(2**n, 8)
            stride = 2 if n < n_layers else 1
            layers += [
                nn.Conv2d(c, after, 4, stride=stride, padding=1, bias=bias),
                NORMS[norm](after),
                nn.LeakyReLU(0.2),
            ]
            c = after
        self.model = nn.Sequential(*layers, nn.Conv2d(c, 1, 4, stride=1, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PlainPixelDiscriminator(nn.Module):
    def __init__(self, input_nc: int, ndf: int = 64, norm: str = "instance") -> None:
        super().__init__()
        bias = norm == "instance"
        self.net = nn.Sequential(
            nn.Conv2d(input_nc, ndf, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf, 2 * ndf, 1, bias=bias),
            NORMS[norm](2 * ndf),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * ndf, 1, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
