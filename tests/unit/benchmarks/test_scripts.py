"""Every benchmark can be started."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from tests.unit.benchmarks.conftest import SCRIPTS


@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set")  # by PostgreSQL's wheel
@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_a_script_finds_what_it_imports(
    load_script: Callable[[str], ModuleType], name: str
) -> None:
    assert load_script(name).__doc__
