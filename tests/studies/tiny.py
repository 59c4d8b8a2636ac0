"""Studies with few scenes, small networks and a reader of few steps: seconds for a whole table."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from cyclegan_fast.config import ModelConfig

SMALL: dict[tuple[str, str], Any] = {
    ("cyclegan_fast.studies.folder", "TRAIN_IMAGES"): 6,
    ("cyclegan_fast.studies.folder", "TEST_IMAGES"): 6,
    ("cyclegan_fast.studies.folder", "STEPS_PER_EPOCH"): 4,
    ("cyclegan_fast.studies.folder", "WAIT_SECONDS"): 0.05,
    ("cyclegan_fast.studies.work", "WAIT_SECONDS"): 0.05,
    ("cyclegan_fast.studies.folder", "NETWORKS"): ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4),
    ("cyclegan_fast.evaluation.reader", "_STEPS"): 3,
    ("cyclegan_fast.evaluation.reader", "_SCENES"): 4,
}


def main() -> None:
    """Runs the command with these constants, in a process of its own: ``python -m tests.studies.tiny WORDS``."""
    from cyclegan_fast import experiments

    for (module, name), value in SMALL.items():
        setattr(importlib.import_module(module), name, value)
    experiments.main(sys.argv[1:])


if __name__ == "__main__":
    main()
