from __future__ import annotations

import pytest

from tests.studies.tiny import SMALL


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for (module, name), value in SMALL.items():
        monkeypatch.setattr(f"{module}.{name}", value)
