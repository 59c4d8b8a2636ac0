"""What is measured of each operator: ours beside torch's own ops, the bytes a call moves, and a check of its results.

A case holds enough sets of inputs that a call finds its own outside the caches when they take turns. A variant is one
implementation; it makes, for each set, a call without arguments.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import harness
from cyclegan_fast import ops
from cyclegan_fast.config import ModelConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.ops.adam import adam_step
from cyclegan_fast.ops.adam_inputs import AdamGroup

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
DTYPES = [torch.float32, torch.bfloat16] + ([torch.float16] if DEVICE.type == "cuda" else [])
SHAPES = [(1, 256, 64, 64), (1, 64, 256, 256)]  # a residual block's plane, and the stem's, at 256 px
if harness.quick:
    SHAPES = [(1, 32, 64, 64)]
elif DEVICE.type == "cuda":
    # Far over the L2 cache, and first: they show what the memory gives. The last: the discriminator's last norm.
    SHAPES = [(8, 64, 256, 256), (8, 256, 64, 64), *SHAPES, (8, 512, 31, 31)]
ADAM_CHANNELS = 4 if harness.quick else 64 if DEVICE.type == "cuda" else 16  # of the networks whose weights move
COLD_BYTES = 2**29 if DEVICE.type == "cuda" else 2**27  # all sets together: several times the caches
# |got - exact| / |exact| over all elements: a mask that rounding flips at a value near the mean counts for little.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 5e-3}

Call = Callable[[], Any]  # returns a tensor, or a tuple of them
Variant = Callable[[int], Call]  # of a set's number


@dataclass(frozen=True)
class OpCase:
    """One operator at one size."""

    op: str
    what: str  # shape, layout, type
    bytes_moved: int  # by one call, every pass counted
    variants: dict[str, Variant]  # "ours" and its peers
    expected: Callable[[], list[Tensor]]  # exact results of set 0
    tolerance: float = 1e-5

    @property
    def sets(self) -> int:
        """Sets of inputs that the variants are called with."""
        return sets_of(self.bytes_moved)

    def check(self, variant: str) -> None:
        """Raises unless the results of `variant` are right; NaN is wrong."""
        got = self.variants[variant](0)()
        for one, exact in zip(got if isinstance(got, tuple) else (got,), self.expected(), strict=True):
            error = (one.double().cpu() - exact.cpu()).norm() / exact.cpu().norm()
            if not error <= self.tolerance:
                raise AssertionError(f"{self.op}, {self.what}, {variant}: off by {error:.2g} of the result")


def sets_of(bytes_moved: int) -> int:
    return 2 if harness.quick else min(max(math.ceil(COLD_BYTES / bytes_moved), 2), 64)


def cases() -> Iterator[Callable[[], OpCase]]:
    """Functions that make the cases, one at a time: a case needs memory."""
    for shape in SHAPES:
        for layout in LAYOUTS:
            for dtype in DTYPES:
                for maker in (norm_forward, norm_both, norm_backward, norm_end, norm_apply, norm_backward_apply):
                    yield functools.partial(maker, shape, layout, dtype)
    for side in (256, 1024):
        yield functools.partial(four_cycle_losses, side)
    yield discriminator_losses
    for dtype in DTYPES:
        yield functools.partial(adam, dtype)
    for batch in (1, 8):
        for layout in LAYOUTS:
            for maker in (tanh_to_uint8, from_uint8, image_pool, padded_input, network_end):
                yield functools.partial(maker, batch, layout)


# ---- instance_norm_act: relu and a border of one pixel, as between the convolutions of a residual block ----
def norm_forward(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    moved = _bytes(shape, dtype, reads=_passes(shape), padded=1)
    x = [_image(shape, layout, dtype) for _ in range(sets_of(moved))]
    exact = functools.partial(_aten_norm, x[0].double().contiguous())
    return OpCase(
        "norm + relu + pad, forward",
        _what(shape, layout, dtype),
        moved,
        {name: _each(variant, x) for name, variant in _norms(compiled=False).items()},
        lambda: [exact()],
        TOLERANCE[dtype],
    )


def norm_both(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    moved = _bytes(shape, dtype, reads=2 * _passes(shape) + 1, padded=1 + _passes(shape))
    sets = range(sets_of(moved))
    x = [_image(shape, layout, dtype).requires_grad_() for _ in sets]
    gradients = [_image(_padded(shape), layout, dtype) for _ in sets]

    def with_gradient(norm: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        y = norm(x)
        return y, torch.autograd.grad(y, x, gradient)[0]

    def exact() -> list[Tensor]:
        leaf = x[0].detach().double().contiguous().requires_grad_()
        return [t.detach() for t in with_gradient(_aten_norm, leaf, gradients[0].double().contiguous())]

    return OpCase(
        "norm + relu + pad, forward and backward",
        _what(shape, layout, dtype),
        moved,
        {name: _each(functools.partial(with_gradient, variant), x, gradients) for name, variant in _norms().items()},
        exact,
        TOLERANCE[dtype],
    )


def norm_backward(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    moved = _bytes(shape, dtype, reads=_passes(shape) + 1, padded=_passes(shape))
    return _norm_gradient("norm + relu + pad, backward", shape, layout, dtype, moved, constant=False)


def norm_backward_apply(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    moved = _bytes(shape, dtype, reads=2, padded=1)
    return _norm_gradient("backward on constant statistics", shape, layout, dtype, moved, constant=True)


def _norm_gradient(
    op: str, shape: tuple[int, ...], layout: str, dtype: torch.dtype, moved: int, constant: bool
) -> OpCase:
    sets = range(sets_of(moved))
    x = [_image(shape, layout, dtype) for _ in sets]
    gradients = [_image(_padded(shape), layout, dtype) for _ in sets]
    statistics = [_mean_and_rstd(image) for image in x]

    def ours(i: int) -> Call:
        options = (None, None, constant, 1, 0.0, 1, False, False)
        inputs = (gradients[i], None, x[i], *statistics[i], *options)
        return lambda: torch.ops.cyclegan_fast.instance_norm_act_bwd(*inputs)[0]

    def exact() -> list[Tensor]:
        leaf = x[0].double().contiguous().requires_grad_()
        mean, rstd = _mean_and_rstd(leaf.detach() if constant else leaf)
        y = F.relu((leaf - mean[:, :, None, None]) * rstd[:, :, None, None])
        y = F.pad(y, (1, 1, 1, 1), mode="reflect")
        return [torch.autograd.grad(y, leaf, gradients[0].double().contiguous())[0]]

    return OpCase(op, _what(shape, layout, dtype), moved, {"ours": ours}, exact, TOLERANCE[dtype])


def norm_end(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    """The end of a residual block, whose output two branches follow: the gradients of x and of the residual."""
    moved = _bytes(shape, dtype, reads=2 * _passes(shape) + 2, padded=_passes(shape))
    sets = range(sets_of(moved))
    x, inner = ([_image(shape, layout, dtype) for _ in sets] for _ in range(2))
    gradients = [_image(_padded(shape), layout, dtype) for _ in sets]
    statistics = [_mean_and_rstd(image) for image in x]

    def ours(i: int) -> Call:
        inputs = (gradients[i], inner[i], x[i], *statistics[i], None, None, False, 0, 0.0, 1, True, False)
        return lambda: tuple(torch.ops.cyclegan_fast.instance_norm_act_bwd(*inputs))

    def exact() -> list[Tensor]:
        leaf, residual = x[0].double().contiguous().requires_grad_(), torch.zeros_like(x[0], dtype=torch.float64)
        y = F.instance_norm(leaf) + residual.requires_grad_()
        outputs = (F.pad(y, (1, 1, 1, 1), mode="reflect"), y)
        wide = (gradients[0].double().contiguous(), inner[0].double().contiguous())
        return list(torch.autograd.grad(outputs, (leaf, residual), wide))

    return OpCase(
        "end of a residual block, backward",
        _what(shape, layout, dtype),
        moved,
        {"ours": ours},
        exact,
        TOLERANCE[dtype],
    )


def norm_apply(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    moved = _bytes(shape, dtype, reads=1, padded=1)
    x = [_image(shape, layout, dtype) for _ in range(sets_of(moved))]
    statistics = [ops.plane_statistics(image) for image in x]

    def ours(x: Tensor, statistics: Tensor) -> Tensor:
        return ops.instance_norm_act(x, statistics=statistics, activation="relu", pad=1)

    return OpCase(
        "norm on ready statistics, forward",
        _what(shape, layout, dtype),
        moved,
        {"ours": _each(ours, x, statistics)},
        lambda: [_aten_norm(x[0].double().contiguous())],
        TOLERANCE[dtype],
    )


def _our_norm(x: Tensor) -> Tensor:
    return ops.instance_norm_act(x, activation="relu", pad=1)


def _aten_norm(x: Tensor) -> Tensor:
    return F.pad(F.relu(F.instance_norm(x)), (1, 1, 1, 1), mode="reflect")


def _norms(compiled: bool = True) -> dict[str, Callable[[Tensor], Tensor]]:
    variants = {"ours": _our_norm, "aten": _aten_norm}
    return variants | {"compiled": _compiled(_aten_norm)} if compiled else variants


def _mean_and_rstd(x: Tensor) -> tuple[Tensor, Tensor]:
    """[N, C] each, in float32 (float64 for float64)."""
    wide = x if x.dtype == torch.float64 else x.float()
    variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0)
    return mean.contiguous(), (variance + 1e-5).rsqrt().contiguous()


# ---- losses ----
def four_cycle_losses(side: int) -> OpCase:
    """Both cycle and both identity losses of a step."""
    weights, shape = [10.0, 10.0, 5.0, 5.0], (1, 3, side, side)
    moved = 4 * math.prod(shape) * (2 * 4 + 1 + 1 + 4)  # a, b and a sign; the sign again and the gradient
    images = [[_image(shape, "nhwc", torch.float32) for _ in range(8)] for _ in range(sets_of(moved))]
    pairs = [[(a.requires_grad_(), b) for a, b in zip(s[:4], s[4:], strict=True)] for s in images]

    def aten(pairs: list[tuple[Tensor, Tensor]], weights: list[float]) -> Tensor:
        return torch.stack([w * F.l1_loss(a, b) for w, (a, b) in zip(weights, pairs, strict=True)])

    def with_gradient(loss: Callable[..., Tensor], pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        values = loss(pairs, weights)
        return values, *torch.autograd.grad(values.sum(), [a for a, _ in pairs])

    def exact() -> list[Tensor]:
        leaves = [(a.detach().double().requires_grad_(), b.double()) for a, b in pairs[0]]
        return [t.detach() for t in with_gradient(aten, leaves)]

    variants = {"ours": ops.cycle_loss, "aten": aten, "compiled": _compiled(aten)}
    return OpCase(
        "four cycle losses, forward and backward",
        f"3x{side}x{side} float32",
        moved,
        {name: _each(functools.partial(with_gradient, variant), pairs) for name, variant in variants.items()},
        exact,
    )


def discriminator_losses() -> OpCase:
    """LSGAN of a discriminator's scores of real and of fake images."""
    shape = (1, 1, 30, 30)
    moved = 2 * math.prod(shape) * (4 + 4 + 4)
    scores = [[_image(shape, "nchw", torch.float32).requires_grad_() for _ in "ab"] for _ in range(sets_of(moved))]

    def aten(scores: list[Tensor]) -> Tensor:
        real, fake = scores
        return 0.5 * (F.mse_loss(real, torch.ones_like(real)) + F.mse_loss(fake, torch.zeros_like(fake)))

    def ours(scores: list[Tensor]) -> Tensor:
        return ops.lsgan_loss(scores, [1, 0], [0.5, 0.5]).sum()

    def with_gradient(loss: Callable[..., Tensor], scores: list[Tensor]) -> tuple[Tensor, ...]:
        value = loss(scores)
        return value, *torch.autograd.grad(value, scores)

    def exact() -> list[Tensor]:
        return [t.detach() for t in with_gradient(aten, [s.detach().double().requires_grad_() for s in scores[0]])]

    variants = {"ours": ours, "aten": aten, "compiled": _compiled(aten)}
    return OpCase(
        "a discriminator's LSGAN loss, forward and backward",
        "2 x 1x30x30 float32",
        moved,
        {name: _each(functools.partial(with_gradient, variant), scores) for name, variant in variants.items()},
        exact,
    )


# ---- the update ----
def adam(dtype: torch.dtype) -> OpCase:
    """Every weight of a step, by gradients of two cycles: in float32, or in 16 bits with working weights."""
    networks = build_networks(ModelConfig(ngf=ADAM_CHANNELS, ndf=ADAM_CHANNELS)).to(DEVICE)
    initial = [w.detach() for w in networks.parameters() if w.requires_grad]
    elements = sum(w.numel() for w in initial)
    of_gradients = 2 * 2 * (4 if dtype == torch.float32 else 2)  # two, each read twice
    moved = elements * (6 * 4 + of_gradients + (0 if dtype == torch.float32 else 2))
    gradients = [[torch.randn_like(w, dtype=dtype) for w in initial] for _ in range(2)]
    lr, loss = torch.full((), 2e-4, dtype=torch.float64, device=DEVICE), torch.ones((), device=DEVICE)

    def ours(i: int) -> Call:
        weights, exp_avg, exp_avg_sq, working, step = _adam_state(initial, dtype)
        group = AdamGroup(weights, exp_avg, exp_avg_sq, working, step, *gradients, [loss])

        def call() -> tuple[Tensor, ...]:
            adam_step([group], lr=lr, betas=(0.5, 0.999), eps=1e-8)
            return tuple(weights)

        return call

    def aten(i: int) -> Call:
        weights, _, _, working, _ = _adam_state(initial, dtype)
        optimizer = torch.optim.Adam([w.requires_grad_() for w in weights], lr=2e-4, betas=(0.5, 0.999), fused=True)
        rounded = [w for w in working if w is not None]

        def call() -> tuple[Tensor, ...]:
            for weight, one, other in zip(weights, *gradients, strict=True):
                weight.grad = one.float() + other
            optimizer.found_inf = (~loss.isfinite()).float()  # type: ignore[attr-defined]  # read by fused Adam
            optimizer.step()
            if rounded:
                with torch.no_grad():
                    torch._foreach_copy_(rounded, weights)
            return tuple(w.detach() for w in weights)

        return call

    def exact() -> list[Tensor]:  # the first update is lr times the gradient's sign
        sums = [one.double() + other.double() for one, other in zip(*gradients, strict=True)]
        return [w.double() - 2e-4 * g / (g.abs() + 1e-8) for w, g in zip(initial, sums, strict=True)]

    kind = str(dtype).removeprefix("torch.")
    return OpCase("Adam", f"{elements} weights, gradients {kind}", moved, {"ours": ours, "aten": aten}, exact)


def _adam_state(initial: list[Tensor], dtype: torch.dtype) -> tuple[Any, ...]:
    """Weights, their moments, their working weights where gradients have 16 bits, and the number of updates."""
    weights = [w.clone() for w in initial]
    moments = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    working = [None if dtype == torch.float32 else w.to(dtype) for w in weights]
    return weights, *moments, working, torch.zeros((), device=DEVICE)


# ---- the ends of the pipeline ----
def tanh_to_uint8(batch: int, layout: str) -> OpCase:
    shape = (batch, 3, 256, 256)
    moved = math.prod(shape) * (4 + 1)
    x = [_image(shape, layout, torch.float32) for _ in range(sets_of(moved))]

    def aten(x: Tensor) -> Tensor:
        levels = (x.tanh() + 1.0) * 127.5
        return levels.round().clamp(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    variants = {"ours": functools.partial(ops.to_uint8, tanh=True), "aten": aten, "compiled": _compiled(aten)}
    return OpCase(
        "tanh to bytes",
        _what(shape, layout, torch.float32),
        moved,
        {name: _each(variant, x) for name, variant in variants.items()},
        lambda: [aten(x[0].double()).double()],
        1e-3,  # rounding decides at a tie
    )


def from_uint8(batch: int, layout: str) -> OpCase:
    """Crops of 256 from images of 286, every second one mirrored."""
    moved = batch * 3 * 256 * 256 * (1 + 4)
    pixels = [
        torch.randint(0, 256, (batch, 286, 286, 3), dtype=torch.uint8, device=DEVICE) for _ in range(sets_of(moved))
    ]
    placement = torch.tensor([(i % 31, 7 * i % 31, i % 2) for i in range(batch)], dtype=torch.int32)

    def aten(pixels: Tensor) -> Tensor:
        crops = []
        for image, (top, left, mirrored) in zip(pixels, placement.tolist(), strict=True):
            crop = image[top : top + 256, left : left + 256].permute(2, 0, 1)
            crops.append(crop.flip(2) if mirrored else crop)
        return torch.stack(crops).to(torch.float32, memory_format=LAYOUTS[layout]).div_(127.5).sub_(1.0)

    on_device = placement.to(DEVICE)
    ours = functools.partial(ops.from_uint8, crop=(256, 256), placement=on_device, channels_last=layout == "nhwc")
    return OpCase(
        "crop, mirror and bytes to floats",
        f"{batch}x3x256x256 {layout} float32",
        moved,
        {"ours": _each(ours, pixels), "aten": _each(aten, pixels)},
        lambda: [aten(pixels[0]).double()],
    )


def image_pool(batch: int, layout: str) -> OpCase:
    """A full pool of 50 images."""
    shape = (batch, 3, 256, 256)
    # Each image is read twice and one is returned; for every second one a slot is read and written as well.
    moved = math.prod(shape) * 4 * 4
    fakes = [_image(shape, layout, torch.float32) for _ in range(sets_of(moved))]
    stored = _image((50, *shape[1:]), layout, torch.float32)
    pool, count, drawn = stored.clone(), torch.tensor(50, device=DEVICE), torch.tensor(0, device=DEVICE)
    ours = lambda fakes: ops.image_pool_exchange(pool, count, drawn, fakes, seed=0)  # noqa: E731
    plain_pool, plain_count, plain_drawn = stored.clone(), count.clone(), drawn.clone()

    def aten(fakes: Tensor) -> Tensor:
        with ops.use_reference():
            return ops.image_pool_exchange(plain_pool, plain_count, plain_drawn, fakes, seed=0)

    def exact() -> list[Tensor]:
        with ops.use_reference():
            exchanged = ops.image_pool_exchange(
                stored.clone(), count.clone(), torch.zeros_like(drawn), fakes[0], seed=0
            )
        return [exchanged.double()]

    return OpCase(
        "image pool of 50",
        _what(shape, layout, torch.float32),
        moved,
        {"ours": _each(ours, fakes), "aten": _each(aten, fakes)},
        exact,
    )


def padded_input(batch: int, layout: str) -> OpCase:
    """What the stem reads of a batch of each domain in bfloat16, and the gradient of one of them."""
    shape = (batch, 3, 256, 256)
    pixels, padded = math.prod(shape), batch * 3 * 262 * 262
    moved = 2 * (4 * pixels + 2 * padded) + 2 * padded + 4 * pixels
    sets = range(sets_of(moved))
    a = [_image(shape, layout, torch.float32).requires_grad_() for _ in sets]
    b = [_image(shape, layout, torch.float32) for _ in sets]
    gradients = [_image((2 * batch, 3, 262, 262), layout, torch.bfloat16) for _ in sets]

    def aten(a: Tensor, b: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return F.pad(torch.cat([a, b]), (3, 3, 3, 3), mode="reflect").to(dtype)

    def ours(a: Tensor, b: Tensor) -> Tensor:
        return ops.reflect_pad([a, b], 3, dtype=torch.bfloat16)

    def with_gradient(pad: Callable[..., Tensor], a: Tensor, b: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        y = pad(a, b)
        return y, torch.autograd.grad(y, a, gradient)[0]

    def exact() -> list[Tensor]:
        wide = [t.detach().double().contiguous() for t in (a[0], b[0], gradients[0])]
        wide[0].requires_grad_()
        pad = functools.partial(aten, dtype=torch.float64)
        return [t.detach() for t in with_gradient(pad, *wide)]

    variants = {"ours": ours, "aten": aten, "compiled": _compiled(aten)}
    return OpCase(
        "two batches padded and rounded, forward and backward",
        f"2 x {_what(shape, layout, torch.bfloat16)}",
        moved,
        {name: _each(functools.partial(with_gradient, variant), a, b, gradients) for name, variant in variants.items()},
        exact,
        TOLERANCE[torch.bfloat16],
    )


def network_end(batch: int, layout: str) -> OpCase:
    """What follows a generator's last convolution in bfloat16, of two batches at once, and all gradients."""
    shape = (2 * batch, 3, 256, 256)
    moved = math.prod(shape) * ((2 + 4) + (4 + 4 + 2))
    sets = range(sets_of(moved))
    x = [_image(shape, layout, torch.bfloat16).requires_grad_() for _ in sets]
    biases = [torch.randn(3, device=DEVICE).requires_grad_() for _ in sets]
    gradients = [[_image((batch, *shape[1:]), layout, torch.float32) for _ in "ab"] for _ in sets]

    def aten(x: Tensor, bias: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        return torch.tanh(x + bias.to(x.dtype)[:, None, None]).to(dtype).chunk(2)

    def ours(x: Tensor, bias: Tensor) -> list[Tensor]:
        return ops.bias_act(x, bias, activation="tanh", dtype=torch.float32, batches=[batch, batch])

    def with_gradient(end: Callable[..., Any], x: Tensor, bias: Tensor, gradients: list[Tensor]) -> tuple[Tensor, ...]:
        y = end(x, bias)
        return *y, *torch.autograd.grad(y, (x, bias), gradients)

    def exact() -> list[Tensor]:
        leaves = [t.detach().double().contiguous().requires_grad_() for t in (x[0], biases[0])]
        wide = [gradient.double().contiguous() for gradient in gradients[0]]
        end = functools.partial(aten, dtype=torch.float64)
        return [t.detach() for t in with_gradient(end, *leaves, wide)]

    ends = {"ours": ours, "aten": aten, "compiled": _compiled(aten)}
    return OpCase(
        "bias, tanh and float32, forward and backward",
        _what(shape, layout, torch.bfloat16),
        moved,
        {name: _each(functools.partial(with_gradient, end), x, biases, gradients) for name, end in ends.items()},
        exact,
        TOLERANCE[torch.bfloat16],
    )


# ---- helpers ----
def _image(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype).to(memory_format=LAYOUTS[layout])


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    n, c, h, w = shape
    return n, c, h + 2, w + 2


def _bytes(shape: tuple[int, ...], dtype: torch.dtype, *, reads: int, padded: int) -> int:
    """Bytes of `reads` accesses to an image and `padded` accesses to a bordered one."""
    return (reads * math.prod(shape) + padded * math.prod(_padded(shape))) * dtype.itemsize


def _passes(shape: tuple[int, ...]) -> int:
    """Times that a norm with statistics of its own must fetch an image: once where a cache or registers hold it."""
    return 1 if shape[2] * shape[3] <= 64 * 64 else 2


def _what(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> str:
    return f"{'x'.join(map(str, shape))} {layout} {str(dtype).removeprefix('torch.')}"


def _each(variant: Callable[..., Any], *inputs: list[Any]) -> Variant:
    """`variant` on the inputs of one set."""
    return lambda i: functools.partial(variant, *(one[i] for one in inputs))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """By torch.compile, at the first call."""
    return torch.compile(function, dynamic=False)
