"""Weights and training state on disk: our own folders (`native`), the reference's .pth files (`reference_format`)."""

from cyclegan_fast.checkpoint.folder import (
    best_checkpoint,
    kept_checkpoints,
    latest_checkpoint,
    named_checkpoint,
    verify,
)
from cyclegan_fast.checkpoint.native import (
    Settings,
    load_generators,
    load_state,
    load_weights,
    read_settings,
    save_checkpoint,
)
from cyclegan_fast.checkpoint.reference_format import (
    load_reference_folder,
    load_reference_generator,
    save_reference,
    save_reference_network,
)

__all__ = [
    "Settings",
    "best_checkpoint",
    "kept_checkpoints",
    "latest_checkpoint",
    "load_generators",
    "load_reference_folder",
    "load_reference_generator",
    "load_state",
    "load_weights",
    "named_checkpoint",
    "read_settings",
    "save_checkpoint",
    "save_reference",
    "save_reference_network",
    "verify",
]
