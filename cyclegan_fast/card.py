"""python -m cyclegan_fast.card: the former name of `cyclegan_fast.model_card`, kept for one version."""

from __future__ import annotations

from cyclegan_fast.cli import run_command
from cyclegan_fast.model_card import model_card

if __name__ == "__main__":
    run_command(model_card)
