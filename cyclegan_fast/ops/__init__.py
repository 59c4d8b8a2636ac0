"""The package's fused operators: differentiable functions of tensors, on the CPU and on CUDA.

Each function runs on the compiled extension ``cyclegan_fast._C``, or on plain torch inside `use_reference` and where
the extension is missing.
"""

from cyclegan_fast.ops.extension import build_info, extension_available, extension_error, use_reference
from cyclegan_fast.ops.instance_norm_act import instance_norm_act
from cyclegan_fast.ops.mean_losses import cycle_loss, hinge_loss, l1_mean, lsgan_loss
from cyclegan_fast.ops.reflect_pad import reflect_pad

__all__ = [
    "build_info",
    "cycle_loss",
    "extension_available",
    "extension_error",
    "hinge_loss",
    "instance_norm_act",
    "l1_mean",
    "lsgan_loss",
    "reflect_pad",
    "use_reference",
]
