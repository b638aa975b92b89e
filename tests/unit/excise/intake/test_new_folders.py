"""Folders that are written whole or not at all, also where a signal arrives at a bad moment."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from excise.cli.termination import Terminated, ending_in_order
from excise.intake.new_folders import building_folder


def build(output: Path) -> None:
    with building_folder(output) as folder:
        folder.mkdir()
        (folder / "file").write_text("content")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    build(tmp_path / "parent" / "output")
    assert (tmp_path / "parent" / "output" / "file").read_text() == "content"
    assert [path.name for path in (tmp_path / "parent").iterdir()] == ["output"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with building_folder(tmp_path / "output") as folder:
            folder.mkdir()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_while_the_scratch_folder_is_made_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    error: type[BaseException],
) -> None:
    make = tempfile.mkdtemp

    def make_and_be_told(*arguments: Any, **options: Any) -> str:
        made: str = make(*arguments, **options)
        signal.raise_signal(number)
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_be_told)
    with pytest.raises(error), ending_in_order():
        build(tmp_path / "output")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_at_the_rename_leaves_the_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def rename_and_be_told(path: Path, target: Path) -> Path:
        renamed = rename(path, target)
        signal.raise_signal(signal.SIGTERM)
        return renamed

    monkeypatch.setattr(Path, "rename", rename_and_be_told)
    with pytest.raises(Terminated), ending_in_order():
        build(tmp_path / "output")
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
