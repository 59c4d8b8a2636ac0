"""CycleGAN that trains and runs as fast as the machine allows.

Train on two folders of images, and translate with the result::

    run = cyclegan_fast.fit(data="horse2zebra", out="runs/horse2zebra", amp=True)
    zebra = cyclegan_fast.infer(run.engine("AtoB"), "horse.jpg")

Or translate with a generator that was trained before::

    engine = cyclegan_fast.load_engine("runs/horse2zebra")
    zebra = cyclegan_fast.infer(engine, "horse.jpg")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cyclegan_fast.errors import UserError
from cyclegan_fast.version import __version__

if TYPE_CHECKING:
    from cyclegan_fast.api.run import Run
    from cyclegan_fast.api.training import fit
    from cyclegan_fast.config import TrainConfig
    from cyclegan_fast.engine import Engine, Tiling, build_engine, infer, infer_async, load_engine

__all__ = [
    "Engine",
    "Run",
    "Tiling",
    "TrainConfig",
    "UserError",
    "__version__",
    "build_engine",
    "fit",
    "infer",
    "infer_async",
    "load_engine",
]

_MODULES = {"Run": "api.run", "TrainConfig": "config", "fit": "api.training"}  # every other name: engine


def __getattr__(name: str) -> Any:
    """Loads what is exported, and with it torch, at its first use only."""
    if name in __all__:
        return getattr(import_module(f"cyclegan_fast.{_MODULES.get(name, 'engine')}"), name)
    raise AttributeError(f"module 'cyclegan_fast' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Lists what is exported, before it is loaded, too."""
    return sorted({*globals(), *__all__})
