"""Folders of real image files for the tests of data sets."""

import shutil
from pathlib import Path

import pytest

from cyclegan_fast.data.loaders import LOADERS
from tests.data.flawed import make_flawed
from tests.data.sample_images import BAD_FILES, noise


@pytest.fixture(params=sorted(LOADERS))
def loader_name(request: pytest.FixtureRequest) -> str:
    """Each of the loaders: all keep the same contract."""
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    return request.param


@pytest.fixture
def good_folder(tmp_path: Path) -> Path:
    """7 images in trainA, 5 in trainB, of mixed sizes."""
    for name, count in (("trainA", 7), ("trainB", 5)):
        (tmp_path / name).mkdir()
        for i in range(count):
            noise(48 + 3 * i, 40 + 2 * i, seed=i).save(tmp_path / name / f"{i}.jpg")
    return tmp_path


@pytest.fixture(params=sorted(BAD_FILES))
def bad_file(request: pytest.FixtureRequest, good_folder: Path) -> Path:
    """One bad file among the good ones of trainA."""
    path = good_folder / "trainA" / request.param
    BAD_FILES[request.param](path)
    return path


@pytest.fixture(scope="session")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with every flaw, made once; read only, apart from the check's own folder."""
    return make_flawed(tmp_path_factory.mktemp("flawed"))


@pytest.fixture
def flawed_copy(flawed: Path, tmp_path: Path) -> Path:
    """A copy of it, of which nothing is known yet."""
    return Path(shutil.copytree(flawed, tmp_path / "flawed", ignore=shutil.ignore_patterns(".cyclegan_fast")))
