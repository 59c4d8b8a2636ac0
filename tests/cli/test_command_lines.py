"""Command lines of every command: --help, and one sentence for each that is wrong."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cyclegan_fast import __main__ as program
from cyclegan_fast.cli.flags import flags_of_settings
from cyclegan_fast.cli.help import MAX_WIDTH
from cyclegan_fast.cli.parse import Grammar
from cyclegan_fast.config import TrainConfig
from tests.commands import run_in_process

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*program.COMMANDS, "dataset scenes", "dataset unpack", "dataset check"]

WRONG = {
    "trian": "unknown command 'trian', did you mean 'train'? (python -m cyclegan_fast --help lists all)",
    "test --x": "unknown command 'test', did you mean 'translate'?",
    "--data x": "a command is missing",
    # Flags of other packages
    "train --learning-rate 1": "unknown flag --learning-rate: here it is --lr (",
    "train --learning_rate=1": "unknown flag --learning_rate: here it is --lr (",
    "train --continue_train": "unknown flag --continue_train: here it is --resume auto, which continues exactly",
    "train --gpu_ids 0,1": "unknown flag --gpu_ids: here it is --device cuda:0 for one GPU, --device cpu for -1",
    "train --netG x": "unknown flag --netG: here it is --generator",
    "train --netg x": "unknown flag --netg: here it is --generator",
    "train --dataroot x": "unknown flag --dataroot: here it is --data (",
    "train --name x": "unknown flag --name: here it is --out, the whole path",
    "train --checkpoints_dir x": "unknown flag --checkpoints_dir: here it is --out, the whole path",
    "train --niter 3": "unknown flag --niter: here it is --n-epochs (",
    "train --epochs 3": "unknown flag --epochs: here it is --n-epochs and --n-epochs-decay (",
    "train --verbose": "unknown flag --verbose: not needed: --print-config prints all settings",
    "train --fp16": "unknown flag --fp16: here it is --amp fp16 (",
    "export --fp16": "unknown flag --fp16: here it is --precision fp16 (",
    "export --netG x": "unknown flag --netG: here it is train --generator (",
    "translate --results_dir x": "unknown flag --results_dir: here it is translate --output (",
    "translate --output-dir x": "unknown flag --output-dir: here it is --output (",
    "translate --crop_size 3": "unknown flag --crop_size: here it is train --crop-size (",
    # Misspelt flags
    "train --bach-size 2": "unknown flag --bach-size, did you mean --batch-size? (python -m cyclegan_fast.train --help",
    "train --lambda-a 2": "unknown flag --lambda-a: here it is --lambda-A (",
    "train --no-flop": "unknown flag --no-flop, did you mean --no-flip?",
    "train -x": "unknown flag -x (",
    "train --zzzzz": "unknown flag --zzzzz (",
    "dataset check --quarantin": "did you mean --quarantine? (python -m cyclegan_fast.dataset check --help",
    "doctor --strct": "unknown flag --strct, did you mean --strict?",
    "demo --step 3": "did you mean --steps?",
    "evaluate --max_dro 3": "did you mean --max-drop?",
    "model_card --license x": "unknown flag --license, did you mean --licence?",
    # Wrong values
    "train --amp fp8": "--amp must be off, bf16 or fp16, got 'fp8'",
    "train --amp yes": "--amp must be off, bf16 or fp16, got 'yes'",
    "train --loader true": "--loader must be auto, cache, dali or torch, got 'true'",
    "train --config nix.yaml": "--config nix.yaml does not exist; it is a YAML file of settings",
    "train --amp=": "--amp must be off, bf16 or fp16, got ''",
    "train --lr fast": "--lr must be a number, got 'fast'",
    "train --batch_size 2.5": "--batch-size must be a whole number, got '2.5'",
    "train --data=": "--data must be a path, got ''",
    "train --max-steps many": "--max-steps must be a whole number, got 'many'",
    "train --paired=true": "--paired takes no value: it is --paired or --no-paired",
    "train --no-serial_batches=1": "--no-serial-batches takes no value: it is --serial-batches or --no-serial-batches",
    "train --lr nan --print-config": "--lr must be from 0",
    "export --checkpoint a --out b --direction BtoC": "--direction must be AtoB or BtoA, got 'BtoC'",
    "export --checkpoint a --out b --precision int4": "--precision must be fp32, fp16, bf16, int8 or fp8, got 'int4'",
    "translate --engine a --input b --output c --tile big": "--tile must be a whole number, got 'big'",
    "translate --engine a --input b --output c --batch-size 0": "--batch-size must be a whole number of at least 1",
    "evaluate --checkpoint a --data b --limit 0": "--limit must be at least 1, got 0",
    "demo --steps 0": "--steps must be at least 1, got 0",
    "experiments ablaton": "STUDY must be ablation, rivals or identity, got 'ablaton'",
    "experiments": "STUDY is missing",
    "experiments ablation --only gan_alon": "--only gan_alon: ablation has no such variant, did you mean 'gan-alone'?",
    "experiments ablation --seeds 0 -1": "--seeds must be at least 0, got -1",
    "experiments ablation --seeds a": "--seeds must be a whole number, got 'a'",
    "experiments identity --steps 0": "--steps must be at least 1, got 0",
    "experiments identity --size 33": "--size must be a multiple of 4 from 32 to 256 pixels, got 33",
    "experiments rivals --device tpu": "tpu",
    "dataset scenes --out a --size 5": "--size must be from 32 to 1024 pixels, got 5",
    "dataset check a --crop-size 0": "--crop-size must be from 1 to",
    "train --crop-size 0": "--crop-size must be from 1 to 1,048,576, got 0",
    "dataset scenes --out a --size 64.0": "--size must be a whole number, got '64.0'",
    # Missing values and words too many
    "train --data": "--data needs a path",
    "train --lr --amp": "--lr needs a number",
    "train --data-A --data-B b": "--data-A needs at least one value",
    "export --checkpoint a --out b --shapes 1x64x64 1x256x256": "--shapes needs 3 values",
    "train photos": "'photos' has no flag before it, such as --data photos (python -m cyclegan_fast.train --help",
    "train --lr 1 2": "'2' has no flag before it",
    "dataset check a b": "'b' has no flag before it",
    # Missing flags
    "export": "--checkpoint is missing (python -m cyclegan_fast.export --help shows an example)",
    "export --checkpoint a": "--out is missing: name a file, or a repository by --triton-repository",
    "export --checkpoint a --out b.onnx --triton-ensemble": "give --triton-repository",
    "export --checkpoint a --out b.onnx --triton-repository c": "leave out --out",
    "serve": "--engine is missing",
    "translate --input a": "--engine and --output are missing",
    "translate": "--engine, --input and --output are missing",
    "evaluate --checkpoint a": "--data is missing",
    "model_card --out a": "--checkpoint is missing",
    "dataset": "a command is missing (python -m cyclegan_fast.dataset --help lists all)",
    "dataset --size 3": "a command is missing",
    "dataset chek": "unknown command 'chek', did you mean 'check'?",
    "dataset scenes": "--out is missing",
    "dataset scenes --out a --kind winter": "--kind must be labels, style, transfiguration, seasons, ",
    "dataset unpack": "ARCHIVE is missing",
    "dataset unpack nix.zip": "nix.zip: there is no such archive; name a .zip, .tar or .tar.gz file",
}


def run(line: str) -> subprocess.CompletedProcess[str]:
    """Runs a command line in this process, as `python -m cyclegan_fast` does."""
    return run_in_process(lambda: program.main(line.split()))


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_answered_in_one_sentence(line: str) -> None:
    done = run(line)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert WRONG[line] in done.stderr


def test_the_list_names_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for line in ("", "--help", "-h"):
        done = run(line)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\n    python -m cyclegan_fast.train --amp --cuda-graphs --max-steps 20\n" in done.stdout
        for name, text in program.COMMANDS.items():
            assert re.search(rf"^  {name.replace('_', '-')} +{re.escape(text)}$", done.stdout, re.MULTILINE)
    assert run("--version").stdout.strip()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_is_readable(page: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = run(f"{page} --zzz --help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "None" not in done.stdout and "STR" not in done.stdout and "{[" not in done.stdout
    for line in done.stdout.splitlines():
        is_example = "python -m cyclegan_fast" in line
        assert is_example or len(line) < min(columns, MAX_WIDTH), line
    assert re.search(rf"^(Example: |    )python -m cyclegan_fast\.{page} ?", done.stdout, re.MULTILINE)


def test_the_help_of_train_starts_with_what_matters() -> None:
    page = run("train --help").stdout
    flags = re.findall(r"^  --(?:\[no-\])?([\w-]+)", page, re.MULTILINE)
    assert flags[:4] == ["data", "out", "load-size", "crop-size"]
    assert sorted(flags) == sorted(
        [flag.spelling[2:] for flag in flags_of_settings(TrainConfig)] + ["config", "print-config", "estimate"]
    )
    assert (
        page.index("\nMost used:")
        < page.index("--resume [off|auto]")
        < page.index("\nWhich networks are trained, and what shapes them:")
    )
    assert "(default: off; alone: bf16)" in page and "(default: 0.0002)" in " ".join(page.split())


def test_required_flags_are_shown_as_required() -> None:
    page = " ".join(run("model_card --help").stdout.split())
    assert page.startswith("usage: python -m cyclegan_fast.model_card --checkpoint PATH --out PATH [flags]")
    assert page.count("(required)") == 2


def test_every_flag_is_described() -> None:
    for flag in flags_of_settings(TrainConfig):
        assert len(flag.help) > 8 and flag.group, flag.name


@pytest.mark.parametrize("name", program.COMMANDS)
def test_every_command_has_a_main(name: str) -> None:
    main = importlib.import_module(f"cyclegan_fast.{name}").main
    assert inspect.signature(main).parameters["words"].default is None


def test_dashes_underscores_and_repeated_flags() -> None:
    grammar = Grammar(prog="train", flags=flags_of_settings(TrainConfig))
    words = "--batch_size 2 --batch-size=3 --no_flip --max-steps none --data-A a b --value-low -1e-3 --amp --data-B=c"
    assert grammar.parse(words.split()) == {
        "batch_size": 3,
        "flip": False,
        "max_steps": None,
        "data_A": ("a", "b"),
        "value_low": -1e-3,
        "amp": "bf16",
        "data_B": ("c",),
    }


ERROR = "error: unknown flag --lrr, did you mean --lr? ({} --help lists all)"
PROGRAMS = {
    "cyclegan-fast train": "import sys; sys.argv = ['/usr/bin/cyclegan-fast', 'train', '--lrr', '1']\n{script}",
    "python -m cyclegan_fast train": ["-m", "cyclegan_fast", "train", "--lrr", "1"],
    "python -m cyclegan_fast.train": ["-m", "cyclegan_fast.train", "--lrr", "1"],
}


@pytest.mark.parametrize("typed", PROGRAMS)
def test_errors_name_the_program_that_was_typed(typed: str) -> None:
    """The first of them is what pip makes of [project.scripts]; none imports torch to answer."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["cyclegan-fast"]
    module, function = entry.split(":")
    words = PROGRAMS[typed]
    if isinstance(words, str):
        words = ["-c", words.format(script=f"from {module} import {function}\n{function}()")]
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, errors) == (
        2,
        [ERROR.format(typed)],
    )
    assert not re.search(r"\| +(torch|numpy|yaml|rich)$", done.stderr, re.MULTILINE)
