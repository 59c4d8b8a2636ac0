"""Which file becomes which: a result never takes the place of an input, or of another result."""

import os
from pathlib import Path

import pytest

from cyclegan_fast.engine.translation import tasks
from cyclegan_fast.engine.translation.tasks import plan_tasks
from cyclegan_fast.errors import UserError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"precious")


def test_another_name_of_an_input_is_an_input(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "in" / "a.png", tmp_path / "out" / "b.png")
    with pytest.raises(UserError, match=r"out/b\.png is one of the inputs and would be overwritten"):
        plan_tasks(tmp_path / "in", tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "b.png").unlink()
    (tmp_path / "out" / "b.png").symlink_to(tmp_path / "in" / "a.png")
    with pytest.raises(UserError, match=r"out/b\.png is one of the inputs and would be overwritten"):
        plan_tasks(tmp_path / "in", tmp_path / "out", overwrite=True)


def test_another_name_of_the_input_folder_is_that_folder(tmp_path: Path, monkeypatch) -> None:
    """As on a file system that ignores case, or where a folder is mounted twice: resolving finds another name."""
    touch(tmp_path / "in" / "a.png")
    (tmp_path / "IN").symlink_to(tmp_path / "in")
    monkeypatch.setattr(Path, "resolve", lambda self: self.absolute())
    for output in (tmp_path / "IN", tmp_path / "IN" / "new" / "deep"):
        with pytest.raises(UserError, match="lies in the input folder"):
            plan_tasks(tmp_path / "in", output, overwrite=True)
    (task,) = plan_tasks(tmp_path / "in", tmp_path / "out")
    assert task.target == tmp_path / "out" / "a.png"


def test_names_that_differ_in_case_or_the_form_of_letters(tmp_path: Path, monkeypatch) -> None:
    names = ["a.png", "A.PNG", "\u00e9.png", "e\u0301.png", "deep/b.png", "DEEP/b.png", "other.png"]
    touch(*(tmp_path / "in" / name for name in names))
    ignored = len(list((tmp_path / "in").iterdir())) < 6  # by the file system of this test
    if not ignored:
        planned = plan_tasks(tmp_path / "in", tmp_path / "out")
        assert len({task.target for task in planned}) == 7 and not (tmp_path / "out").exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in"], "what the probe left"
    monkeypatch.setattr(tasks, "_are_one_name", lambda first, second: True)
    touch(tmp_path / "few" / "x.png", tmp_path / "few" / "X.png")
    if not ignored:
        with pytest.raises(
            UserError, match=r"x\.png and the result of .*X\.png are one file, as the output's file system"
        ):
            plan_tasks(tmp_path / "few", tmp_path / "out")


def test_a_link_in_the_output_brings_two_results_together(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "x" / "a.png", tmp_path / "in" / "y" / "a.png")
    (tmp_path / "out" / "y").mkdir(parents=True)
    (tmp_path / "out" / "x").symlink_to(tmp_path / "out" / "y")
    with pytest.raises(UserError, match=r"out/y/a\.png would be the result of .*x/a\.png and .*y/a\.png"):
        plan_tasks(tmp_path / "in", tmp_path / "out", overwrite=True)


def test_the_folder_of_a_pattern_may_be_the_output_but_no_input_is_replaced(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "sub" / "a.png")
    with pytest.raises(UserError, match=r"matches no file outside the output folder"):
        plan_tasks(tmp_path / "*.png", tmp_path, overwrite=True)
    with pytest.raises(UserError, match=r"/a\.png is one of the inputs"):
        plan_tasks(tmp_path / "a.png", tmp_path, overwrite=True)
    with pytest.raises(UserError, match=r"/a\.png exists already"):  # which is no input, but there
        plan_tasks(tmp_path / "sub" / "a.png", tmp_path)
