"""JSON and YAML from strangers: every reader ends in what it is for, or in one sentence, soon."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save, save_file

from cyclegan_fast.checkpoint import native
from cyclegan_fast.config import ModelConfig, TrainConfig, from_dict
from cyclegan_fast.data.catalog.manifest import Manifest
from cyclegan_fast.documents import DocumentError, Maybe, Number, check, parse_json, parse_yaml, read_limited
from cyclegan_fast.engine.backends.sidecar import make_sidecar, read_sidecar
from cyclegan_fast.engine.generator import Generator, dump_safetensors, load_generator
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.monitoring.events import EventLog, read_events
from cyclegan_fast.monitoring.run_report import read_settings, write_run_report
from cyclegan_fast.monitoring.run_status import RunStatus, read_status, write_status
from cyclegan_fast.monitoring.samples import SampleRow, read_samples, save_samples
from cyclegan_fast.nn import build_generator
from cyclegan_fast.train import main
from tests.commands import run_in_process

MODEL = ModelConfig(generator="resnet_1blocks", ngf=2, ndf=2)
ALIASES = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b", ".join([b"*%c" % (name - 1)] * 9)) for name in range(98, 108)
)
MERGES = ALIASES.replace(b"[x, x, x, x, x, x, x, x, x]", b"{x: 1}").replace(b"[*", b"{<<: [*").replace(b"]", b"]}")

CHAIN = b"- &k0 x\n" + b"".join(b"- &k%d [*k%d]\n" % (i, i - 1) for i in range(1, 99))
TOO_MANY = "it holds more than 20,000 values, aliases expanded"
NO_PATH = "is no path: it holds a character that no path can"

YAML = {
    "nested": (b"optim: " + b"[" * 5000 + b"]" * 5000, "nest"),
    "nested without end": (b"- " * 50_000, "it is nested more than 20 deep"),
    "nested by aliases": (CHAIN, "it is nested more than 20 deep"),
    "a long number": (b"optim: {batch_size: " + b"9" * 5000 + b"}", "it holds a number of 5,000 characters"),
    "aliases that multiply": (ALIASES, TOO_MANY),
    "merges that multiply": (MERGES.replace(b"{x: 1}}", b"{x: 1}"), TOO_MANY),
    "an alias of itself": (b"optim: &a [*a]", "an alias in it holds itself"),
    "a date": (b"run: {seed: 2024-01-01}", "config.yaml.run.seed: expected int, got '2024-01-01'"),
    "a number for a path": (b"run: {out: 3}", "config.yaml.run.out: expected Path, got 3"),
    "NUL in a path": (b'run: {out: "a\\0b"}', "config.yaml.run.out: 'a\\x00b' " + NO_PATH),
    "NUL in a list": (b'data: {data_A: ["a\\0b"], data_B: [c]}', NO_PATH),
    "half a character": (b'run: {out: "\\ud800"}', "no "),
    "an infinite number": (b"optim: {lr: 1e999}", "config.yaml.optim.lr must be from 0 to"),
    "a number as text": (b"optim: {lr: '" + b"9" * 4000 + b"'}", "config.yaml.optim.lr must be from 0 to"),
    "a key twice": (b"optim: {lr: 1, lr: 2}", "'lr' is given twice"),
    "bytes": (b"run: {out: !!binary aGk=}", "config.yaml.run.out: expected Path, got b'hi'"),
    "a tag that does not fit": (b"run: !!timestamp x", "it is no valid YAML: a value does not fit its tag"),
    "code": (b"run: !!python/object/apply:os.system [ls]", "it is no valid YAML: could not determine a constructor"),
    "too large": (b"#" * 300_000, "it is larger than 256 KiB"),
    "no text": (b"\xff\xfe\x00", "it is no valid YAML: 'utf-8' codec can't decode"),
    "a list": (b"[optim]", "expected groups of settings"),
    "a group of nothing": (b"optim:", "config.yaml.optim: expected a group of settings, got None"),
    "a long value": (b"run: {amp: [" + b"a, " * 5000 + b"a]}", "expected one of off, bf16, fp16, got ['a', "),
}


@pytest.mark.parametrize("case", YAML)
def test_a_config_file_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    content, sentence = YAML[case]
    (tmp_path / "config.yaml").write_bytes(content)
    done = run_in_process(lambda: main(["--config", str(tmp_path / "config.yaml"), "--print-config"]))
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and len(line) < 400 + len(str(tmp_path))
    assert sentence in line


def test_what_is_reasonable_in_yaml_stays_possible(tmp_path: Path) -> None:
    text = b"base: &base {lr: 1e-3, beta1: 0.25}\noptim: {<<: *base, beta2: 0.5}\nrun: {out: 2024-01-01}"
    values = parse_yaml(b"\xef\xbb\xbf" + text)
    found = from_dict(TrainConfig, {group: values[group] for group in ("optim", "run")})
    assert (found.optim.lr, found.optim.beta1, found.optim.beta2) == (1e-3, 0.25, 0.5)
    assert found.run.out == Path("2024-01-01")
    assert parse_yaml(b"") is None and parse_yaml(b"[" * 20 + b"a" + b"]" * 20)


def test_settings_come_through_a_pipe(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"optim: {lr: 0.5}")
    os.close(write)
    done = run_in_process(lambda: main(["--config", f"/dev/fd/{read}", "--print-config"]))
    os.close(read)
    assert done.returncode == 0 and "lr: 0.5" in done.stdout


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 100_000, "it is nested more than 100 deep"),
        ("[" * 101 + "]" * 101, "it is nested more than 100 deep"),
        ("1" * 5000, "it holds a number of 5,000 characters"),
        ("0." + "1" * 5000, "it holds a number of 5,002 characters"),
        ("{", "it is no valid JSON"),
        (b"\xff", "it is no valid JSON"),
        (" " * (2**24 + 1), "it is larger than 16,384 KiB"),
    ],
)
def test_json_is_limited(content: str | bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=f"^{reason}"):
        parse_json(content)
    assert parse_json("[" * 100 + "]" * 100) and parse_json("[NaN, -Infinity]") == [None, None]


@pytest.mark.parametrize(
    ("value", "shape", "reason"),
    [
        (True, Number(0), "it is not a whole number but True"),
        (1.5, Number(0), "it is not a whole number but 1.5"),
        (float("nan"), Number(whole=False), "it is not a number but nan"),
        (10**90, Number(0, 9), f"it is 1{'0' * 76}..., which is not from 0 to 9"),
        (10**5000, Number(0, 9), "it is a value of type int, which is not from 0 to 9"),
        ({"a": 1}, {"b": int}, "it.b is missing"),
        ({"a": {"b": [1, "x"]}}, {"a": {"b": [int]}}, r"it.a.b\[1\] is not int but 'x'"),
        ([], {"a": int}, r"it is not an object but \[\]"),
        ({"a": 3}, {"a": Maybe(str)}, "it.a is not text but 3"),
        ({"a": 3}, {str: str}, "it.a is not text but 3"),
    ],
    ids=lambda value: "" if isinstance(value, int) else None,
)
def test_shapes(value: Any, shape: Any, reason: str) -> None:
    with pytest.raises(DocumentError, match=f"^{reason}$"):
        check(value, shape)
    check({"a": None, "c": 1}, {"a": Maybe(str), "b": Maybe([int]), "c": object})


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(DocumentError, match="it is no file"):
            read_limited(path)


# Each writes a sound document into a folder: its content as values, and how such values are put there and read.
Reader = tuple[Any, Callable[[Any], object]]


def _checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    networks = {"G_A": build_generator(MODEL), "G_B": build_generator(MODEL, "BtoA")}
    moments = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    rest: dict[str, Any] = {
        "progress": {"epoch": 1, "images": [3, 4]},
        "state": {"step": {"moments": [moments, (1, None, float("inf"))]}},
    }
    return native.save_checkpoint(folder, 7, networks=networks, config=TrainConfig(model=MODEL), **rest)


def _in_checkpoint(folder: Path, name: str, read: Callable[[Path], object]) -> Reader:
    """A file of a checkpoint, behind a manifest that matches it."""
    checkpoint = _checkpoint(folder)

    def read_with(values: Any) -> object:
        content = json.dumps(values).encode()
        (checkpoint / name).write_bytes(content)
        if name != "manifest.json":
            manifest = json.loads((checkpoint / "manifest.json").read_bytes())
            manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            (checkpoint / "manifest.json").write_text(json.dumps(manifest))
        return read(checkpoint)

    return json.loads((checkpoint / name).read_bytes()), read_with


def _generator() -> Generator:
    from cyclegan_fast.config import PixelFormat

    return Generator(build_generator(MODEL).eval(), MODEL, "AtoB", PixelFormat(), PixelFormat())


def _sidecar(folder: Path) -> Reader:
    path, generator = folder / "g.engine", _generator()
    shapes = {"min": [1, 64, 64], "opt": [1, 256, 256], "max": [8, 512, 512]}
    metadata = generator.metadata() | {"size_divisor": 4, "min_size": 16, "precision": "fp32", "shapes": shapes}

    def read(values: Any) -> object:
        path.with_name("g.engine.json").write_text(json.dumps(values))
        return read_sidecar(path, b"")

    return json.loads(make_sidecar(b"", metadata)), read


def _safetensors(folder: Path) -> Reader:
    from safetensors import safe_open

    path = folder / "g.safetensors"
    path.write_bytes(dump_safetensors(_generator()))
    with safe_open(path, "pt") as file:
        header, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def read(values: Any) -> object:
        save_file(tensors, path, {"cyclegan_fast": json.dumps(values)})
        return load_generator(path)

    return json.loads(header["cyclegan_fast"]), read


def _run(folder: Path) -> None:
    with EventLog(folder) as log:
        log.write(1, losses={"G_A": 0.5}, epoch=1, lr=2e-4, steps_per_second=3.0)
        log.write(2, losses={"G_A": 0.25}, epoch=1, lr=2e-4, steps_per_second=3.0)
    write_status(folder, RunStatus(state="finished", step=2, total_steps=2, machine={"cpu": "one", "cores": 2}))
    (folder / "config.yaml").write_text("data: {direction: AtoB}\nrun: {seed: 0}")


def _of_run(folder: Path, name: str, read: Callable[[Path], object]) -> Reader:
    _run(folder)
    path = folder / name
    values = json.loads(path.read_bytes().splitlines()[-1] if name == "events.jsonl" else path.read_bytes())

    def read_with(values: Any) -> object:
        path.write_text(json.dumps(values) + "\n")
        read(folder)
        return write_run_report(folder)

    return values, read_with


def _settings(folder: Path) -> Reader:
    _run(folder)

    def read(values: Any) -> object:
        (folder / "config.yaml").write_text(json.dumps(values))  # which is YAML, too
        from_dict(TrainConfig, read_settings(folder))
        return write_run_report(folder)

    return {"data": {"direction": "AtoB", "data": "x"}, "run": {"seed": 3, "amp": "off"}, "optim": {"lr": 1.0}}, read


def _scores(folder: Path) -> Reader:
    _run(folder)
    metrics = {"pixel_accuracy": 0.5, "l1": None}

    def read(values: Any) -> object:
        (folder / "scores.json").write_text(json.dumps(values))
        return write_run_report(folder)

    both = {"photo_to_labels": metrics, "labels_to_photo": metrics}
    return {**both, "untranslated": both, "ceiling": metrics, "images": 3, "size": 64}, read


def _grid(folder: Path) -> Reader:
    image = Image.new("RGB", (8, 8))
    save_samples(folder, 1, [SampleRow("A", "a.png", [image] * 3)])
    path = folder / "samples" / "step_00000001.jpg"
    with Image.open(path) as grid:
        values, pixels = json.loads(grid.info["comment"]), grid.copy()

    def read(values: Any) -> object:
        pixels.save(path, comment=json.dumps(values).encode()[:60_000])
        return read_samples(folder, 1)

    return values, read


def _data_manifest(folder: Path) -> Reader:
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    files = [ImageFile(str(folder / "a.png"))]
    manifest = Manifest(folder)
    manifest.probe(files, workers=1)
    manifest.save()
    path = folder / ".cyclegan_fast" / "manifest.json"

    def read(values: Any) -> object:
        path.write_text(json.dumps(values))
        return Manifest(folder).probe(files, workers=1)

    return json.loads(path.read_bytes()), read


READERS: dict[str, Callable[[Path], Reader]] = {
    "manifest.json": lambda folder: _in_checkpoint(folder, "manifest.json", native.verify),
    "settings.json": lambda folder: _in_checkpoint(folder, "settings.json", native.load_generators),
    "state.json": lambda folder: _in_checkpoint(folder, "state.json", native.load_state),
    "sidecar": _sidecar,
    "safetensors": _safetensors,
    "status.json": lambda folder: _of_run(folder, "status.json", read_status),
    "events.jsonl": lambda folder: _of_run(folder, "events.jsonl", read_events),
    "config.yaml": _settings,
    "scores.json": _scores,
    "samples": _grid,
    "data manifest": _data_manifest,
}

ODD_KEYS = ["\n", "\x1b[31m", "\u2028", "\ud800", "", "x" * 5000, "a b", "../x"]

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 10**9, 10**18, 10**30, 1e308, float("nan"), float("inf")]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["", "\0", "../../etc/passwd", "/dev/zero", "x" * 5000, "AtoB", "running", "resnet_99blocks"]),
    st.lists(st.integers() | st.text(max_size=2), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside another one."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any, *, drop: bool) -> Any:
    """A copy with another value at a path, or without it."""
    if not path:
        return new
    copy = value.copy()
    if drop and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(copy[path[0]], path[1:], new, drop=drop)
    return copy


@pytest.mark.parametrize("kind", READERS)
def test_every_reader_reads_what_is_sound(kind: str, tmp_path: Path) -> None:
    values, read = READERS[kind](tmp_path)
    read(values)


@pytest.mark.parametrize("kind", READERS)
def test_every_reader_takes_what_it_gets_or_refuses_it_in_a_sentence(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values, read = READERS[kind](tmp_path_factory.mktemp("reader"))
    everywhere = places(values)

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(everywhere), ODD, st.booleans())
    def try_one(place: tuple[Any, ...], odd: Any, drop: bool) -> None:
        try:
            read(changed(values, place, odd, drop=drop))
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000

    try_one()


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("odd", ODD_KEYS, ids=ascii)
def test_no_key_breaks_the_sentence_about_it(kind: str, odd: str, tmp_path: Path) -> None:
    values, read = READERS[kind](tmp_path)
    for place in places(values):
        inside = values
        for key in place:
            inside = inside[key]
        if not isinstance(inside, dict):
            continue
        for value in (None, {odd: None}):
            try:
                read(changed(values, place, {odd: value, **inside}, drop=False))
            except UserError as error:
                message = str(error)
                assert message.isprintable() and len(message) < 1000, ascii(message)


DEEP: Any = 0
for _ in range(300):
    DEEP = [DEEP]


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "samples"])
def test_no_reader_follows_a_deep_nest(kind: str, tmp_path: Path) -> None:
    values, read = READERS[kind](tmp_path)
    key = next(iter(values))
    try:
        read(values | {key: DEEP})
    except UserError as error:
        assert "deep" in str(error) or "damaged" in str(error)
    else:
        assert kind in ("scores.json", "data manifest")  # without which the page, or the check, can do


@settings(max_examples=300)
@given(st.binary(max_size=300) | st.text("[]{}:,-&*a1 \n\"'!#<>|?", max_size=200).map(str.encode))
def test_no_bytes_bring_a_parser_down(content: bytes) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            parse(content)
        except DocumentError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "shapes",
    [
        {"min": [1, 64, 64], "opt": [1, 64, 64], "max": [1, 10**9, 10**9]},
        {"min": [1, 65536, 65536], "opt": [1, 65536, 65536], "max": [1, 65536, 65536]},
        {"min": [1, 64, 64], "opt": [1, 32, 64], "max": [1, 64, 64]},
        {"min": [1, 64], "opt": [1, 64], "max": [1, 64]},
    ],
)
def test_a_sidecar_with_sides_of_no_image_is_refused(shapes: Any, tmp_path: Path) -> None:
    values, read = _sidecar(tmp_path)
    read(values)
    for wrong in ({"shapes": shapes}, {"min_size": 10**9}, {"size_divisor": 10**9}):
        with pytest.raises(UserError, match=r"g\.engine\.json is damaged \(.*export it again"):
            read(values | wrong)


@pytest.mark.parametrize("name", ["../settings.json", "/dev/zero", "a/b", "a\0b", "\ud800", "x" * 5000, "", "..", "."])
def test_a_manifest_lists_no_file_elsewhere(name: str, tmp_path: Path) -> None:
    values, read = READERS["manifest.json"](tmp_path)
    values["files"][name] = {"sha256": "0", "bytes": 0}
    with pytest.raises(UserError, match=r"(manifest\.json|step_0+7.*) is damaged: ") as refused:
        read(values)
    assert "\n" not in str(refused.value)


def test_strides_that_would_take_all_memory_are_refused(tmp_path: Path) -> None:
    values, read = READERS["state.json"](tmp_path)
    text = json.dumps(values)
    assert '"strides": [' in text
    start = text.index('"strides": [')
    huge = text[: start + 12] + "1, 1000000000, 10000000, 1000000" + text[text.index("]", start) :]
    with pytest.raises(UserError, match=r"state\.json is damaged: strides .* are not those of a tensor of shape"):
        read(json.loads(huge))


def test_a_network_that_its_file_does_not_hold_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    metadata = _generator().metadata()
    metadata["model"] |= {"ngf": 2**20, "generator": "resnet_99blocks"}  # terabytes
    path.write_bytes(save({"x": torch.zeros(1)}, {"cyclegan_fast": json.dumps(metadata)}))
    with pytest.raises(UserError, match="does not fit the network"):
        load_generator(path)
