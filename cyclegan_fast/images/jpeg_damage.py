"""Damage in the middle of a JPEG, which most decoders turn into wrong pixels without a warning.

The scanner is compiled, so that a set of 100,000 files is checked in minutes; csrc/jpeg/jpeg_damage.h explains what it
looks for. Without the compiled extension nothing is found, and `why_not_scanned` has the sentence for whoever reads
many files.
"""

from __future__ import annotations

from cyclegan_fast.ops.extension import compiled_function, extension_error

_scan = compiled_function("find_jpeg_damage")


def find_damage(content: bytes) -> str | None:
    """Finds what is wrong with the coded pixels of a JPEG.

    Args:
        content: A file that a decoder has read without an error.

    Returns:
        A few words, or None for a sound file; None for every file without the compiled extension.
    """
    return None if _scan is None else _scan(content)


def why_not_scanned() -> str:
    """One sentence where the compiled extension is missing and nothing can be found; else empty."""
    if _scan is not None:
        return ""
    return (
        f"JPEGs are not checked for damage in the middle, which takes the compiled extension ({extension_error()}): "
        "install where g++ is, as python -m cyclegan_fast.doctor explains"
    )
