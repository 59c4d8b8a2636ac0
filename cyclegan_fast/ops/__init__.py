"""The package's fused operators: functions of tensors, on the CPU and on CUDA; those between floats have gradients.

Each function runs on the compiled extension ``cyclegan_fast._C``, or on plain torch inside `use_reference` and where
the extension is missing.
"""

from cyclegan_fast.ops.bias_act import bias_act
from cyclegan_fast.ops.conv2d import bfloat16_is_slow, conv2d, conv_transpose2d
from cyclegan_fast.ops.extension import build_info, extension_available, extension_error, use_reference
from cyclegan_fast.ops.image_pool import image_pool_draws, image_pool_exchange
from cyclegan_fast.ops.instance_norm_act import instance_norm_act, instance_norm_act_fork
from cyclegan_fast.ops.losses import cycle_loss, hinge_loss, l1_mean, lsgan_loss
from cyclegan_fast.ops.narrow_conv import narrow_convolutions
from cyclegan_fast.ops.plane_statistics import merge_statistics, plane_statistics
from cyclegan_fast.ops.reflect_pad import reflect_pad
from cyclegan_fast.ops.uint8_conversion import from_uint8, to_uint8

__all__ = [
    "bfloat16_is_slow",
    "bias_act",
    "build_info",
    "conv2d",
    "conv_transpose2d",
    "cycle_loss",
    "extension_available",
    "extension_error",
    "from_uint8",
    "hinge_loss",
    "image_pool_draws",
    "image_pool_exchange",
    "instance_norm_act",
    "instance_norm_act_fork",
    "l1_mean",
    "lsgan_loss",
    "merge_statistics",
    "narrow_convolutions",
    "plane_statistics",
    "reflect_pad",
    "to_uint8",
    "use_reference",
]
