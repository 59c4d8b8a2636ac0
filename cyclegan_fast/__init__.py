"""CycleGAN that trains and runs as fast as the machine allows.

Translate with a trained generator::

    engine = cyclegan_fast.load_engine("runs/horse2zebra")
    image = cyclegan_fast.infer(engine, "horse.jpg")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cyclegan_fast.errors import UserError
from cyclegan_fast.version import __version__

if TYPE_CHECKING:
    from cyclegan_fast.engine import Engine, Tiling, build_engine, infer, infer_async, load_engine

__all__ = ["Engine", "Tiling", "UserError", "__version__", "build_engine", "infer", "infer_async", "load_engine"]


def __getattr__(name: str) -> Any:
    """Loads the engine, and with it torch, at its first use only."""
    if name in __all__:
        from cyclegan_fast import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'cyclegan_fast' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Lists what is exported, before it is loaded, too."""
    return sorted({*globals(), *__all__})
