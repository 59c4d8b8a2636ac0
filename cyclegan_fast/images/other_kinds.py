"""Images, volumes and videos of kinds that are not read, known by name or first bytes, and what to do about them."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from cyclegan_fast.logs import warn_once

log = logging.getLogger(__name__)

_SUFFIXES_OF_FIX = {
    "convert them to PNG, JPEG or TIFF": (
        ".heic .heif .hif .avif .jxl .jp2 .j2k .jpf .jpx .jxr .psd .psb .xcf .tga .ico .svg .eps .exr .hdr .dds "
        ".raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .pef .srw"
    ),
    "export their slices or arrays as PNG or TIFF, with 16 bits or floating-point values": (
        ".dcm .dicom .ima .nii .nii.gz .mha .mhd .nrrd .img .mgz .npy .npz .mat .h5 .hdf5 .czi .lif .nd2 .svs .ndpi "
        ".mrxs .vsi .fits .fit"
    ),
    "cut them into frames (ffmpeg -i FILE FOLDER/%06d.png)": ".mp4 .mov .mkv .m4v .webm .avi .mpg .mpeg .wmv",
}
_FIXES = {suffix: fix for fix, suffixes in _SUFFIXES_OF_FIX.items() for suffix in suffixes.split()}
_SIGNATURES = (  # name, first bytes, where they are
    ("an image of HEIC or AVIF, or a video", b"ftyp", 4),
    ("a DICOM file", b"DICM", 128),
    ("an image of JPEG XL", b"\xff\x0a", 0),
    ("an image of JPEG XL", b"\0\0\0\x0cJXL ", 0),
    ("an image of JPEG 2000", b"\0\0\0\x0cjP  ", 0),
    ("an image of OpenEXR", b"v/1\x01", 0),
    ("an array of NumPy", b"\x93NUMPY", 0),
    ("a document of Photoshop", b"8BPS", 0),
)
SIGNATURE_BYTES = 132  # of a file, which `kind_by_content` looks at


def other_kind(name: str) -> str:
    """Returns the suffix of a file of a kind that is not read; empty for images, and for what is none."""
    lower = name.lower()
    suffix = ".nii.gz" if lower.endswith(".nii.gz") else Path(lower).suffix
    return suffix if suffix in _FIXES else ""


def kind_by_content(start: bytes) -> str:
    """Names the kind of a file that is not read by its first bytes; empty if they are unknown."""
    return next((name for name, bytes_, at in _SIGNATURES if start[at : at + len(bytes_)] == bytes_), "")


def describe_others(others: Counter[str]) -> tuple[str, str]:
    """Returns how many files there are of each suffix, ``30 .heic, 2 .dcm``, and how to make images of them."""
    counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
    return counts, ", or ".join(dict.fromkeys(_FIXES[suffix] for suffix, _ in others.most_common()))


def warn_of_others(where: Path | str, others: Counter[str]) -> None:
    """Reports, once in a process, how many files of which kinds are passed over, and how to make images of them."""
    if others:
        counts, fix = describe_others(others)
        warn_once(log, f"{where}: passes over {counts}, which are not read; {fix}")
