"""The package's build backend (PEP 517): setuptools, with a torch to build against.

The torch of the environment is used where there is one, whatever its version: nothing is downloaded. Only where there
is none does the isolated build ask for the newest, the same that the package's dependencies then install.
"""

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from setup import find_torch

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """What pip installs into the isolated environment besides pyproject.toml's build requirements."""
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch()


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    """The same for ``pip install --editable``."""
    return build_meta.get_requires_for_build_editable(config_settings) + _torch()


def _torch() -> list[str]:
    return [] if find_torch() else ["torch>=2.11"]
