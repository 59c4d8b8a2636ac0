"""python -m cyclegan_fast.dataset: renders the synthetic scenes, and checks a folder of images before training."""

from __future__ import annotations

from pathlib import Path

from cyclegan_fast.cli import run_command
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import storage_errors


def scenes(out: Path, *, size: int = 64, train: int = 1000, test: int = 100, seed: int = 0) -> None:
    """Renders synthetic scenes as label maps (domain A) and photos (domain B), with a hidden truth for the score.

    Example: python -m cyclegan_fast.dataset scenes --out data/scenes --size 64 --train 1000 --test 100 --seed 0

    Args:
        out: Folder to write: trainA, trainB, testA, testB, truth and scenes.json.
        size: Side of the pictures in pixels, 32 to 1024.
        train: Training pictures per domain; A and B show different scenes.
        test: Test scenes; each exists in both domains, under one name.
        seed: The same seed gives the same data set.
    """
    from cyclegan_fast.data.scenes import render_dataset

    with storage_errors(f"cannot write the data set {out}"):
        render_dataset(out, size, train, test, seed)
    print(f"{out}: {train} + {train} training and {test} + {test} test pictures of {size}x{size} pixels")


def check(data: Path, /) -> int:
    """Decodes every image of trainA, trainB, testA and testB, and tells counts, sizes and the bad files.

    Example: python -m cyclegan_fast.dataset check datasets/horse2zebra

    Args:
        data: Folder with trainA and trainB; testA and testB may be absent.

    Returns:
        Exit status: 0, or 2 if anything is wrong.
    """
    from cyclegan_fast.data import DOMAIN_FOLDERS, index_pair

    wrong = 0
    for name in DOMAIN_FOLDERS:
        if name.startswith("train") or (data / name).exists():
            wrong += _check_domain(data, name)
        else:
            print(f"{name}: absent")
    if not wrong:
        index_pair(data, "train")  # says so when both are one folder
    return 2 if wrong else 0


def _check_domain(data: Path, name: str) -> int:
    """Prints what one folder holds and returns the number of things wrong with it."""
    from cyclegan_fast.data import check_images, index_domain

    try:
        paths = index_domain(data, name)
        checked = check_images(paths, on_bad="skip", cache_folder=data)
    except UserError as error:
        print(f"{name}: {error}")
        return 1
    areas = sorted(checked.sizes, key=lambda size: size[0] * size[1])
    small, middle, large = (f"{w}x{h}" for w, h in (areas[0], areas[len(areas) // 2], areas[-1]))
    print(f"{name}: {len(paths)} files, {len(checked.good)} good, {small} to {large} pixels (median {middle})")
    for bad in checked.bad:
        print(f"  bad: {bad}")
    return len(checked.bad)


if __name__ == "__main__":
    run_command({"scenes": scenes, "check": check})
