"""What a user's fault raises: one sentence, of a type that Python's own `except` clauses know."""

import pickle
from pathlib import Path

import pytest

from cyclegan_fast.checkpoint.native import load_weights
from cyclegan_fast.checkpoint.reference_format import read_reference
from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.audit.groups import list_groups
from cyclegan_fast.data.locations.folders import list_domain, readable
from cyclegan_fast.data.locations.locations import find_images
from cyclegan_fast.engine.generator import load_generator
from cyclegan_fast.engine.load import load_engine
from cyclegan_fast.engine.translation.tasks import plan_tasks
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.files import storage_errors
from cyclegan_fast.images.convert import find_paths
from cyclegan_fast.images.decode import BadImageError, decode
from cyclegan_fast.images.find import list_images
from cyclegan_fast.train import train

MISSING = {
    "image": lambda path: decode(path / "a.png", 3),
    "folder of images": list_images,
    "pattern": lambda path: find_paths(path / "*.png"),
    "engine": load_engine,
    "generator": load_generator,
    "checkpoint": lambda path: load_weights(path, {}),
    "weights of the reference": lambda path: read_reference(path / "a_net_G.pth"),
    "input of translate": lambda path: plan_tasks(path / "a.png", path / "out"),
    "data folder": lambda path: list_domain(path, "trainA"),
    "data folder of the check": lambda path: list_groups(DataConfig(data=path)),
    "location": lambda path: find_images([str(path)]),
    "list": lambda path: find_images([str(path / "a.txt")]),
    "shard": lambda path: find_images([str(path / "a.tar")]),
    "configuration": lambda path: train(config=path / "a.yaml"),
}


@pytest.mark.parametrize("what", MISSING)
def test_a_missing_file_is_a_file_not_found_error_and_a_value_error(what: str, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as caught:
        MISSING[what](tmp_path / "nowhere")
    error = caught.value
    assert isinstance(error, UserError) and isinstance(error, ValueError) and isinstance(error, FileNotFoundError)
    assert "nowhere" in str(error) and "\n" not in str(error)


def test_a_missing_domain_and_a_list_of_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the folder trainA is missing"):
        list_domain(tmp_path, "trainA")
    (tmp_path / "a.txt").write_text("b.png\n")
    with pytest.raises(FileNotFoundError, match=r"names what is not there: .*b\.png"):
        find_images([str(tmp_path / "a.txt")])


def test_a_file_that_is_there_is_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(BadImageError) as caught:
        decode(tmp_path / "a.png", 3)
    assert isinstance(caught.value, ValueError) and not isinstance(caught.value, OSError)


def test_errors_of_missing_files_travel_between_processes(tmp_path: Path) -> None:
    for make in (lambda: decode(tmp_path / "a.png", 3), lambda: load_engine(tmp_path / "a")):
        with pytest.raises(MissingFileError) as caught:
            make()
        error = pickle.loads(pickle.dumps(caught.value))
        assert type(error) is type(caught.value) and str(error) == str(caught.value)


@pytest.mark.parametrize("block", [storage_errors, readable], ids=["storage_errors", "readable"])
def test_blocks_about_system_errors_leave_user_errors_as_they_are(block) -> None:
    error = MissingFileError("this very sentence")
    with pytest.raises(MissingFileError, match=r"^this very sentence$") as caught, block("x"):
        raise error
    assert caught.value is error
