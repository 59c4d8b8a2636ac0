"""What the process imports from which ranks are forked."""

from __future__ import annotations

import torch

import cyclegan_fast.train
import cyclegan_fast.training.trainer  # noqa: F401

torch.set_num_threads(1)
