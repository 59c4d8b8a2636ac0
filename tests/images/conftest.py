"""Image files for the tests of single images."""

from pathlib import Path

import pytest

from tests.data.sample_images import BAD_FILES


@pytest.fixture(params=sorted(BAD_FILES))
def bad_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that cannot be used."""
    path = tmp_path / request.param
    BAD_FILES[request.param](path)
    return path
