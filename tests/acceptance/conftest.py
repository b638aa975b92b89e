"""One stack for a whole module, and the files with which those of every finished job must agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.embedded.processes import Supervised
from tests.acceptance.harness import Harness, running_stack


@pytest.fixture(scope="module")
def shared_stack() -> Iterator[Harness]:
    """The module's stack. Even parts that are killed repeatedly restart at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervised, "MAX_PAUSE_SECONDS", 1.0)
        with running_stack() as harness:
            yield harness


@pytest.fixture
def stack(shared_stack: Harness) -> Harness:
    """The module's stack, without any open job."""
    shared_stack.settle()
    return shared_stack


@pytest.fixture(scope="module")
def first_files() -> dict[str, bytes]:
    """The files of the module's first finished job; empty until there is one."""
    return {}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for downloads."""
    path = tmp_path / "files"
    path.mkdir()
    return path
