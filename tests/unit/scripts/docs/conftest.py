"""The site's generators are no package: they import each other from their folder."""

from __future__ import annotations

import pytest

from tests.unit.scripts.loading import SCRIPTS


@pytest.fixture(autouse=True)
def _generators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS / "docs"))
