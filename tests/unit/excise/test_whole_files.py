"""Whether a folder can be written to is known without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from excise.whole_files import remove_earlier, require_writable


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    require_writable(tmp_path)
    require_writable(tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/out", "dangling", "dangling/out"])
def test_what_is_no_folder_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="directory"):
        require_writable(tmp_path / place)


def test_one_file_that_stays_keeps_no_other(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").touch()
    with pytest.raises(OSError, match="directory") as caught:
        remove_earlier(tmp_path, ("a", "b", "absent"))
    assert caught.value.filename == str(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "a").rmdir()
    remove_earlier(tmp_path / "nowhere", ("a", "b"))
