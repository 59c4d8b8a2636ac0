"""What the check of a data folder finds, keeps and leaves out."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.audit.near_duplicates import nearest
from cyclegan_fast.data.audit.report import AuditReport, audit
from cyclegan_fast.data.catalog.manifest import Manifest, name_in
from cyclegan_fast.data.catalog.probe import inspect
from cyclegan_fast.data.catalog.quarantine import add_to_quarantine, exclude, read_quarantine
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile, as_image_file
from cyclegan_fast.images.perceptual_hash import perceptual_hash
from tests.data.flawed import photo


def check(folder: Path, **settings: object) -> AuditReport:
    geometry = {"preprocess": "crop", "crop_size": 64, "load_size": 64}
    return audit(DataConfig(data=folder, **(geometry | settings)))  # type: ignore[arg-type]


def test_every_flaw_is_found_and_nothing_else(flawed: Path) -> None:
    result = check(flawed)
    found = {
        (finding.severity, finding.kind, finding.name, finding.like and finding.like.name)
        for finding in result.findings
    }
    assert found == {
        ("error", "corrupt", "trainA/empty.jpg", None),
        ("error", "corrupt", "trainA/text.jpg", None),
        ("error", "corrupt", "trainA/bomb.png", None),
        ("error", "corrupt", "trainB/scratched.jpg", None),
        ("error", "truncated", "trainA/cut.jpg", None),
        ("error", "too small", "trainB/tiny.png", None),
        ("warning", "A and B", "trainB/stray.jpg", "trainA/5.jpg"),
        ("warning", "train and test", "testA/leak.jpg", "trainA/6.jpg"),
        ("warning", "duplicate", "trainA/again.jpg", "trainA/3.jpg"),
        ("warning", "duplicate", "trainA/pixels.png", "trainA/4.jpg"),
        ("warning", "near-identical", "trainA/7.jpg", "trainB/near.webp"),
        ("warning", "mixed", "trainA", None),  # deep.png has 16 bits
        ("warning", "constant", "trainA/constant.png", None),
        ("warning", "animated", "trainB/moving.gif", None),
        ("info", "extension", "trainA/named.jpg", None),
        ("info", "rotated", "trainA/turned.jpg", None),
    }
    reasons = {finding.name: finding.reason for finding in result.findings}
    assert reasons["trainA/again.jpg"].startswith("the same file") and "pixels" in reasons["trainA/pixels.png"]
    assert "damaged in the middle" in reasons["trainB/scratched.jpg"]


def test_what_is_too_small_depends_on_the_settings(flawed: Path) -> None:
    kinds = {finding.kind for finding in check(flawed, preprocess="resize_and_crop").findings}
    assert "too small" not in kinds and "enlarged" in kinds
    small = [f.name for f in check(flawed, crop_size=96, load_size=96).findings if f.kind == "too small"]
    assert small == ["trainB/small.jpg", "trainB/tiny.png"]
    with pytest.raises(UserError, match="--crop-size 300 is larger"):
        check(flawed, preprocess="resize_and_crop", crop_size=300)


def test_depth_mode_and_upright_size(flawed: Path) -> None:
    deep, printed, turned = (
        inspect(ImageFile(str(flawed / "trainA" / name))) for name in ("deep.png", "print.jpg", "turned.jpg")
    )
    assert (deep.mode, deep.depth) == ("I;16", 16) and (printed.mode, printed.depth) == ("CMYK", 8)
    assert turned.size == (280, 300) and turned.rotated


def test_looks_survive_what_keeps_an_image() -> None:
    image = photo(300, 260, 1)
    look = perceptual_hash(image)

    def differing(other: Image.Image) -> int:
        return (look ^ perceptual_hash(other)).bit_count()

    assert differing(image.resize((111, 97))) <= 2
    assert differing(image.convert("L")) <= 2
    assert differing(image.point(lambda value: value // 2 + 40)) <= 2
    assert differing(photo(300, 260, 2)) > 12


def test_nearest_agrees_with_comparing_each_with_each() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**63, 200, dtype=np.uint64)
    b = rng.integers(0, 2**63, 300, dtype=np.uint64)
    for i in range(90):
        flips = sum(1 << int(bit) for bit in rng.choice(63, i % 7, replace=False))
        b[i] = a[i] ^ np.uint64(flips)
    a, b = np.concatenate((a, a[:20])), np.concatenate((b, b[50:70]))  # and some are there twice
    which, bits = nearest(a, b)
    all_bits = np.array([[(int(x) ^ int(y)).bit_count() for y in b] for x in a])
    expected = all_bits.min(axis=1)
    assert ((which >= 0) == (expected <= 4)).all() and (which >= 0).sum() > 60
    assert all_bits[np.arange(len(a)), which][which >= 0].tolist() == expected[which >= 0].tolist()
    assert bits[which >= 0].tolist() == expected[which >= 0].tolist()
    assert nearest(a, b[:0])[0].tolist() == [-1] * len(a) and nearest(a[:0], b)[0].shape == (0,)


def test_nothing_is_read_twice_until_it_changes(flawed_copy: Path) -> None:
    folder = flawed_copy
    first, again = check(folder), check(folder)
    bad = 5  # they are read each time
    assert (first.files_read, again.files_read) == (46, bad)
    assert again.findings == first.findings or len(again.findings) == len(first.findings)

    photo(300, 280, 77).save(folder / "trainA" / "0.jpg")
    os.utime(folder / "trainA" / "1.jpg")
    (folder / "trainA" / "2.jpg").unlink()
    assert check(folder).files_read == bad + 2
    stored = json.loads((folder / ".cyclegan_fast" / "manifest.json").read_text())
    assert "trainA/2.jpg" not in stored["files"] and len(stored["files"]) == 40


def test_the_manifest_moves_with_the_folder_and_training_uses_it(good_folder: Path) -> None:
    assert check(good_folder).files_read == 12
    moved = good_folder.rename(good_folder.with_name("moved"))
    for path in moved.glob("train?/*"):  # what training would stumble over if it read the files
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert check(moved).files_read == 0
    assert build_train_loader(TrainConfig(data=DataConfig(data=moved, workers=0)), "cpu").epoch_size == 7


@pytest.mark.parametrize(
    "content", ["{ damaged", "[]", '{"made_by": "another"}', '{"files": {}}', "", "\0", '{"made_by": 1, "files": 2}']
)
def test_a_damaged_manifest_is_made_anew_and_logged(
    good_folder: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    caplog.set_level(logging.INFO)
    check(good_folder)
    manifest = good_folder / ".cyclegan_fast" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_text(content)
    assert check(good_folder).files_read == 12
    assert "every image is read again" in caplog.text
    assert manifest.read_bytes() == whole


def test_an_entry_of_the_wrong_kind_spoils_the_manifest(good_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(good_folder)
    manifest = good_folder / ".cyclegan_fast" / "manifest.json"
    stored = json.loads(manifest.read_text())
    stored["files"]["trainA/0.jpg"][2] = "48"
    manifest.write_text(json.dumps(stored))
    assert check(good_folder).files_read == 12 and "holds something else" in caplog.text


def test_members_of_archives_have_names_of_their_own(good_folder: Path) -> None:
    content = (good_folder / "trainA" / "0.jpg").read_bytes()
    (good_folder / "shard.tar").write_bytes(bytes(512) + content + bytes(512) + content)
    step = 512 + len(content)
    members = [ImageFile(str(good_folder / "shard.tar"), f"{i}.jpg", 512 + i * step, len(content)) for i in range(2)]
    assert [name_in(good_folder, member) for member in members] == ["shard.tar:0.jpg", "shard.tar:1.jpg"]
    index = Manifest(good_folder)
    first, second = index.probe(members)
    assert first == second and first.size == (48, 40)  # type: ignore[union-attr]
    index.save()
    fresh = Manifest(good_folder)
    assert fresh.probe(members) == [first, second] and fresh.files_read == 0


def test_processes_and_one_process_find_the_same(flawed: Path) -> None:
    files = [as_image_file(path) for path in sorted(flawed.glob("*/*.*"))]
    found: list[tuple[int, int]] = []
    results = [
        Manifest(None).probe(files, workers=workers, progress=lambda done, total: found.append((done, total)))
        for workers in (1, 3)
    ]
    assert [str(result) for result in results[0]] == [str(result) for result in results[1]]
    assert found[-1] == (len(files), len(files)) and len(files) > 40


def test_training_honours_the_list_and_logs_it_in_one_line(bad_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = bad_file.parent.parent
    config = TrainConfig(data=DataConfig(data=folder, workers=0))
    with pytest.raises(UserError, match=bad_file.name):
        build_train_loader(config, "cpu")
    add_to_quarantine(folder, {f"trainA/{bad_file.name}": "damaged"})
    with (folder / "quarantine.txt").open("a") as file:
        file.write("trainB/0.jpg # ugly\n")
    with build_train_loader(config, "cpu") as loader:
        assert loader.samples.counts == (7, 4)
    assert caplog.messages[0] == f"2 files left out: {folder / 'quarantine.txt'}"


def test_lines_that_match_nothing_are_warnings(good_folder: Path) -> None:
    (good_folder / "quarantine.txt").write_text("trainA/0.jpg\n\n# a comment\ntrainA/gone.jpg # why\n")
    result = check(good_folder)
    assert result.quarantined == {"trainA": 1, "trainB": 0}
    (stale,) = [finding for finding in result.findings if finding.kind == "quarantine"]
    assert (stale.name, stale.severity, stale.reason) == (
        "trainA/gone.jpg",
        "warning",
        "line 4 of quarantine.txt matches no image",
    )


def test_a_list_that_leaves_nothing(good_folder: Path) -> None:
    add_to_quarantine(good_folder, {f"trainB/{i}.jpg": "ugly" for i in range(5)})
    with pytest.raises(UserError, match=r"quarantine\.txt names all 5 images of .*trainB"):
        build_train_loader(TrainConfig(data=DataConfig(data=good_folder)), "cpu")
    assert [finding.name for finding in check(good_folder, crop_size=24, load_size=24).findings] == ["trainB"]


def test_what_would_empty_a_folder_is_not_quarantined(good_folder: Path) -> None:
    for path in (good_folder / "trainB").iterdir():
        path.write_bytes(b"")
    (good_folder / "trainA" / "0.jpg").write_bytes(b"")
    assert check(good_folder, crop_size=24, load_size=24).to_quarantine() == {
        good_folder: {"trainA/0.jpg": "the file is empty"}
    }


@pytest.mark.parametrize(
    "name", ["a.jpg", "a #1.jpg", "#a.jpg", ' "a".jpg ', "a\u2028b.jpg", "ä\udcff.jpg", "a b#.jpg"]
)
def test_any_name_can_be_written_and_read(tmp_path: Path, name: str) -> None:
    add_to_quarantine(tmp_path, {f"trainA/{name}": "a reason # of\ntwo lines", name: "at the top"})
    before = (tmp_path / "quarantine.txt").read_bytes()
    assert list(read_quarantine(tmp_path)) == [f"trainA/{name}", name]
    add_to_quarantine(tmp_path, {name: "again"})
    assert (tmp_path / "quarantine.txt").read_bytes() == before


def test_a_name_with_a_line_break_cannot_be_listed(good_folder: Path) -> None:
    (good_folder / "trainA" / "a\nb.jpg").write_bytes(b"")
    (good_folder / "trainA" / "c.jpg").write_bytes(b"")
    report = check(good_folder, crop_size=24, load_size=24)
    named = report.to_quarantine()
    assert named == {good_folder: {"trainA/c.jpg": "the file is empty"}}
    assert [report.is_named(finding, named) for finding in report.of("error")] == [False, True]
    with pytest.raises(UserError, match=r"'trainA/a\\nb\.jpg': a name with a line break cannot be listed"):
        add_to_quarantine(good_folder, {"trainA/a\nb.jpg": "empty"})


def test_a_list_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It had the reason behind each name; quoted names are one of the bad lines below."""
    (tmp_path / "quarantine.txt").write_text(
        "# Images that training leaves out: one per line, relative to this folder, with slashes.\n"
        '# What follows " #" is a comment. A name with " #" or quotes is written as a JSON string.\n'
        "trainA/n0_1001.jpg  # the file is empty\ntrainB/a b.jpg\t# damaged\n/elsewhere/1.jpg # small\n"
    )
    assert read_quarantine(tmp_path) == {"trainA/n0_1001.jpg": 3, "trainB/a b.jpg": 4, "/elsewhere/1.jpg": 5}


def test_what_people_wrote_stays(tmp_path: Path) -> None:
    (tmp_path / "quarantine.txt").write_text("\ufeff# mine\r\n./trainA//x.jpg", "utf-8")
    add_to_quarantine(tmp_path, {"trainA/x.jpg": "bad", "trainA/y.jpg": "bad"})
    assert list(read_quarantine(tmp_path)) == ["trainA/x.jpg", "trainA/y.jpg"]
    assert "# mine" in (tmp_path / "quarantine.txt").read_text()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("../secret.jpg", "leads out of the folder"),
        ("trainA/../../secret.jpg", "leads out of the folder"),
        ("C:\\images\\a.jpg", "leads out of the folder"),
        ("./../secret.jpg", "leads out of the folder"),
        ('"..\\u002f../secret.jpg"', "no longer quoted; write the path as it is, after ./"),
        ('"trainA/a.jpg', "no longer quoted"),
        ('"trainA/a.jpg" b', "no longer quoted"),
    ],
)
def test_bad_lines_are_one_sentence(good_folder: Path, line: str, reason: str) -> None:
    (good_folder / "quarantine.txt").write_text(f"# list\n{line}\n")
    for read in (read_quarantine, check, lambda folder: exclude([], folder)):
        with pytest.raises(UserError, match=f"quarantine.txt, line 2: .*{reason}") as error:
            read(good_folder)
        assert "\n" not in str(error.value)


def test_a_list_that_is_no_text(good_folder: Path) -> None:
    (good_folder / "quarantine.txt").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UserError, match="is no UTF-8 text"):
        check(good_folder)
