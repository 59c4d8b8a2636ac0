"""The packages of the extra [deep], which read and write what Pillow does not: imported when they are needed."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

_KINDS = {
    "imagecodecs": "16-bit colour PNG",
    "tifffile": "TIFF with 16-bit colour, float64 or float16 values, or other channels than grey, RGB and transparency",
}


class MissingPackageError(Exception):
    """A package of the extra [deep] is wanted; the text names it."""


def import_package(package: str) -> ModuleType:
    """Imports a package of the extra.

    Raises:
        MissingPackageError: It is missing.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(_missing(package)) from error


def why_missing(package: str) -> str:
    """One sentence about how to get a package of the extra; empty if it is there."""
    return "" if importlib.util.find_spec(package) else _missing(package)


def _missing(package: str) -> str:
    return f"{package} reads and writes {_KINDS[package]}: pip install 'cyclegan-fast[deep]'"
