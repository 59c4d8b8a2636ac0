"""Fake tensors and networks on cuda:0; see the package's head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch._subclasses import FakeTensorMode


def mode() -> FakeTensorMode:
    """Within it every new tensor is fake, and a real one is an error."""
    return FakeTensorMode(allow_non_fake_inputs=False)


def networks(make: Callable[[], nn.ModuleDict]) -> nn.ModuleDict:
    """Networks of fake tensors on cuda:0, channels_last; `nn.Module.to` cannot change the layout of fake weights."""
    with torch.device("cuda"):
        made = make()
    for module in made.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight.dim() == 4:
                laid_out = weight.detach().to(memory_format=torch.channels_last)
                module._parameters[name] = nn.Parameter(laid_out, requires_grad=weight.requires_grad)
    return made


def _let_autocast_believe() -> None:
    """Autocast asks torch.cuda, which counts real devices."""
    import torch.cuda.amp.common as common

    common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *arguments, **options: True


def _let_sgd_be_fake() -> torch.library.Library:
    """torch's optimizer over many tensors, which averages weights, has no implementation for fake tensors."""
    library = torch.library.Library("aten", "IMPL", "Meta")
    library.impl("_fused_sgd_.tensor_lr", lambda *arguments, **options: None)
    return library


_let_autocast_believe()
_SGD = _let_sgd_be_fake()  # lasts as long as it lives
