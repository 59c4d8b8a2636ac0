"""python -m cyclegan_fast.dataset: renders scenes, unpacks an archive, checks the images of a set, plans a training."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from cyclegan_fast.cli import run_command
from cyclegan_fast.cli.program import as_typed
from cyclegan_fast.config import DataConfig, ModelConfig, Preprocess, TrainConfig, check_ranges
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import storage_errors, write_atomically
from cyclegan_fast.logs import printable, show_logs

if TYPE_CHECKING:
    from cyclegan_fast.data.audit.report import AuditReport

log = logging.getLogger(__name__)


def scenes(
    out: Path,
    *,
    kind: Literal["labels", "style", "transfiguration", "seasons", "enhancement", "geometry"] = "labels",
    size: int = 64,
    train: int = 1000,
    test: int = 100,
    seed: int = 0,
    paired: bool = False,
) -> None:
    """Renders synthetic scenes in two domains, with a hidden truth for the score.

    For example:
        python -m cyclegan_fast.dataset scenes --out data/scenes --size 64 --train 1000 --test 100 --seed 0
        python -m cyclegan_fast.dataset scenes --kind seasons --out data/seasons

    The folder is there once all of it is rendered, and not before.

    Args:
        out: Folder to write: trainA, trainB, testA, testB, truth and scenes.json.
        kind: What A and B show: labels (label maps, photos), style (paintings, photos), transfiguration (plain houses,
            striped ones), seasons (summer, winter), enhancement (noisy, flat photos; clean ones of a shallow focus),
            geometry (houses, trees: another shape, which is hard for a CycleGAN).
        size: Side of the images in pixels, 32 to 1024.
        train: Training images per domain; without --paired A and B show different scenes.
        test: Test scenes; each exists in both domains, under one name.
        seed: The same seed gives the same data set.
        paired: The training images of A and B show the same scenes, under one name, as pix2pix needs them.
    """
    from cyclegan_fast.data.scenes import render_dataset

    with storage_errors(f"cannot write the data set {out}"):
        render_dataset(out, size, train, test, seed, kind, paired=paired)
    print(f"{out}: {train} + {train} training and {test} + {test} test images of {size}x{size} pixels")


def unpack(archive: Path, /, *, out: Path | None = None) -> None:
    """Unpacks the archive of a data set that is on this disk into a folder as training reads it.

    For example:
        python -m cyclegan_fast.dataset unpack horse2zebra.zip
        python -m cyclegan_fast.dataset unpack facades.tar.gz --out data/facades

    Images are taken from folders named trainA, trainB, testA, testB, or train, val, test of pairs side by side; what
    else is in it is left out. Nothing is downloaded. Members that lead out of the archive, and links, are refused. The
    folder is there once all of it is unpacked, and not before.

    Args:
        archive: A .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz file.
        out: Folder to write; by default the archive's name without its ending.
    """
    from cyclegan_fast.data.unpack import unpack as unpack_archive

    out = out or Path(archive.name.partition(".")[0] or "data")
    found = unpack_archive(archive, out)
    print(f"{out}: {', '.join(f'{name} {count:,}' for name, count in found.images.items())} images")
    if found.left_out:
        print(f"{found.left_out:,} other files were left out")
    paired = " --paired" * ("train" in found.images and "trainA" not in found.images)
    print(f"python -m cyclegan_fast.dataset check {shlex.quote(str(out))}{paired} reads them all")


def check(
    data: Path | None = None,
    /,
    *,
    data_A: tuple[str, ...] | None = None,
    data_B: tuple[str, ...] | None = None,
    test_A: tuple[str, ...] | None = None,
    test_B: tuple[str, ...] | None = None,
    paired: bool = False,
    channels_A: int = ModelConfig.channels_A,
    channels_B: int = ModelConfig.channels_B,
    preprocess: Preprocess = DataConfig.preprocess,
    load_size: int = DataConfig.load_size,
    crop_size: int = DataConfig.crop_size,
    workers: int | None = None,
    contact_sheet: Path | None = None,
    quarantine: bool = False,
    strict: bool = False,
    json: bool = False,
) -> int:
    """Reads every image to its end and reports what is there and what is unusual or wrong.

    For example:
        python -m cyclegan_fast.dataset check datasets/horse2zebra --quarantine
        python -m cyclegan_fast.dataset check facades --paired
        python -m cyclegan_fast.dataset check --data-A "shards/summer-{000..031}.tar" --data-B winter list.txt

    Errors would stop training: files that are no images, damaged, cut off, too small for the settings, of other
    channels, or without a partner. Warnings may be mistakes: the same image twice, in A and in B or in train and test;
    near-duplicates in A and B, or in train and test (at most 4 of 63 bits of a perceptual hash differ); pairs of
    different sizes; mixed depths; a single colour; animation. The metadata of the images is stored in the folder, in
    .cyclegan_fast/manifest.json, and used again, by training too: the next check reads only what has changed.

    The exit status is 0 if training can start, with warnings or without, and 2 if there are errors. (1 is what a
    crash gives.)

    Args:
        data: Folder with trainA and trainB; testA and testB may be absent. With --paired, train (and val, test) may
            hold A and B side by side. Images that its quarantine.txt names are left out.
        data_A: Instead of a folder, the locations of the images of A, as for training: folders, lists (.txt), shards
            (.tar).
        data_B: Those of B.
        test_A: With --data-A, the locations of the test images of A.
        test_B: Those of B.
        paired: The images are pairs, as for training.
        channels_A: As for training.
        channels_B: As for training.
        preprocess: Geometry of a training sample, as for training: whether an image is too small depends on it.
        load_size: As for training.
        crop_size: As for training.
        workers: Processes that read; by default as many as there are usable cores.
        contact_sheet: PNG to write: a random sample of A and B, and the images with findings, each with the reason. By
            default .cyclegan_fast/contact_sheet.png in the folder, or in the first one of A.
        quarantine: Add the files with errors to quarantine.txt there: training then leaves them out, and the exit
            status is 0 if nothing else is wrong.
        strict: Warnings count as errors for the exit status.
        json: Print everything as JSON instead, for scripts.

    Returns:
        Exit status.
    """
    from cyclegan_fast.data.audit.report import audit
    from cyclegan_fast.data.audit.report_text import as_json
    from cyclegan_fast.data.catalog.quarantine import add_to_quarantine
    from cyclegan_fast.monitoring.progress import ProgressBar

    _refuse_nothing(data, data_A, data_B)
    settings = DataConfig(
        data=data,
        data_A=data_A,
        data_B=data_B,
        test_A=test_A,
        test_B=test_B,
        paired=paired,
        preprocess=preprocess,
        load_size=load_size,
        crop_size=crop_size,
        workers=workers,
    )
    channels = channels_A, channels_B
    check_ranges(TrainConfig(data=settings, model=ModelConfig(channels_A=channels_A, channels_B=channels_B)))
    if contact_sheet is not None:
        _refuse_among_images(contact_sheet, settings)
    if json:
        show_logs(info_to_stderr=True)
    with ProgressBar("images", enabled=not json) as progress:
        report = audit(settings, channels=channels, progress=progress)
    sheet = _write_contact_sheet(report, contact_sheet)
    errors, lists = report.of("error"), []
    if quarantine:
        named = report.to_quarantine()
        lists = [str(add_to_quarantine(folder, reasons)) for folder, reasons in named.items()]
        errors = [finding for finding in errors if not report.is_named(finding, named)]
    if json:
        print(as_json(report, contact_sheet=sheet and str(sheet), quarantine=lists))
    else:
        _print_report(report)
        if sheet is not None:
            print(f"contact sheet: {sheet}")
        if lists:
            print(f"training leaves out the files with errors from now on: {', '.join(lists)}")
        elif errors and not quarantine and report.to_quarantine():
            print("--quarantine makes training leave out the files with errors")
    return 2 if errors or (strict and report.of("warning")) else 0


def plan(
    data: Path | None = None,
    /,
    *,
    data_A: tuple[str, ...] | None = None,
    data_B: tuple[str, ...] | None = None,
    paired: bool = False,
    out: Path | None = None,
    device: str = "auto",
    trial: bool = True,
    seconds: float = 20.0,
    workers: int | None = None,
    yaml: Path | None = None,
    json: bool = False,
) -> None:
    """Proposes the settings of a training from the images and the device, says why, and measures what a step takes.

    For example:
        python -m cyclegan_fast.dataset plan horse2zebra
        python -m cyclegan_fast.dataset plan horse2zebra --yaml horse2zebra.yaml

    It reads images for a while, in random order, and stores their metadata as `dataset check` does; then it trains a
    few steps with the proposed settings, of which nothing is kept. The last line is the command that trains.

    Args:
        data: Folder with trainA and trainB.
        data_A: Instead of a folder, the locations of the images of A, as for training: folders, lists (.txt), shards
            (.tar).
        data_B: Those of B.
        paired: The images are pairs, as for training.
        out: Folder of the run to plan; by default runs/ and the name of the data folder.
        device: Where it will be trained: auto, cpu, cuda or cuda:<index>.
        trial: Train a few steps to measure their time and memory.
        seconds: Time for reading images that are not known yet; more than 0. The others are taken to be like these.
        workers: Processes that read; by default as many as there are usable cores.
        yaml: File to write for `train --config`, with the reasons as comments.
        json: Print the plan as JSON instead, for programs.
    """
    from cyclegan_fast.monitoring.progress import ProgressBar
    from cyclegan_fast.training.plan.plan import TRAIN, as_json, as_text, as_yaml, make_plan, try_plan

    _refuse_nothing(data, data_A, data_B)
    if not seconds > 0:
        raise UserError(f"--seconds must be more than 0, got {seconds:g}")
    settings = DataConfig(data=data, data_A=data_A, data_B=data_B, paired=paired, workers=workers)
    check_ranges(TrainConfig(data=settings))
    if json:
        show_logs(info_to_stderr=True)
    if paired:
        log.info("--paired: this plans a CycleGAN, whose losses do not see pairs; --model pix2pix learns from them")
    name = data.resolve().name if data is not None else "cyclegan"
    with ProgressBar("images", "reading", enabled=not json) as progress:
        found = make_plan(settings, out or Path("runs") / name, device, seconds=seconds, progress=progress)
    found, measured = try_plan(found) if trial else (found, None)
    if yaml is not None:
        write_atomically(yaml, as_yaml(found).encode())
    if json:
        print(as_json(found, measured))
        return
    for line in as_text(found, measured):
        print(printable(line))
    print()
    print(printable(as_typed(found.command if yaml is None else f"{TRAIN} --config {shlex.quote(str(yaml))}")))


def _refuse_nothing(*locations: object) -> None:
    if locations == (None, None, None):
        raise UserError("name the folder that holds trainA and trainB, or --data-A and --data-B")


def _refuse_among_images(sheet: Path, settings: DataConfig) -> None:
    """A contact sheet among the images would be one of them from then on."""
    from cyclegan_fast.data.audit.groups import SIDE_BY_SIDE
    from cyclegan_fast.data.catalog.manifest import FOLDER
    from cyclegan_fast.data.locations.folders import DOMAIN_FOLDERS

    located = (settings.data_A, settings.data_B, settings.test_A, settings.test_B)
    folders = [Path(location) for side in located for location in side or ()]
    if settings.data is not None:
        folders += [settings.data / name for name in (SIDE_BY_SIDE if settings.paired else ()) + DOMAIN_FOLDERS]
    parents = sheet.resolve().parents
    for folder in folders:
        if folder.is_dir() and folder.resolve() in parents and FOLDER not in sheet.parts:
            raise UserError(f"--contact-sheet {sheet} lies among the images of {folder}: write it elsewhere")


def _write_contact_sheet(report: AuditReport, path: Path | None) -> Path | None:
    """Writes the sheet; where it cannot be written to the default location, it logs that."""
    from cyclegan_fast.data.audit.contact_sheet import contact_sheet
    from cyclegan_fast.data.catalog.manifest import FOLDER

    if not report.domains:
        return None
    target = path or next(iter(report.catalog_folders.values())) / FOLDER / "contact_sheet.png"
    content = contact_sheet(report.title, report.summary, report.domains, report.findings)
    try:
        write_atomically(target, content)
    except UserError as error:
        if path is not None:
            raise
        log.info("%s; name another location with --contact-sheet FILE.png", error)
        return None
    return target


def _print_report(report: AuditReport) -> None:
    """Prints the report, with colours on a terminal."""
    from rich.console import Console
    from rich.text import Text

    from cyclegan_fast.data.audit.report_text import as_text

    styles = {"title": "bold", "error": "bold red", "warning": "bold yellow", "info": "bold blue", "": ""}
    console = Console(soft_wrap=True)
    for style, line in as_text(report):
        console.print(Text(printable(line), styles[style]), soft_wrap=True)


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command({"scenes": scenes, "unpack": unpack, "check": check, "plan": plan}, words)


if __name__ == "__main__":
    main()
