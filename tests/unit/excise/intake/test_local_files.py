"""What a user names is read to its end, or refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from excise.intake import local_files
from excise.intake.local_files import FileRefusedError, read_file


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    with pytest.raises(FileRefusedError, match=r"file cannot be read: it has more than .* MiB"):
        read_file(file, 4)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused_by_name(device: str) -> None:
    with pytest.raises(FileRefusedError, match=f"{device} cannot be read: it is not a regular"):
        read_file(Path(device))


def test_a_pipe_is_read_until_its_writer_has_closed_it(tmp_path: Path) -> None:
    fifo, content = tmp_path / "fifo", bytes(300_000)
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(content,))
    writer.start()
    assert read_file(fifo) == content
    writer.join()


def test_a_pipe_without_an_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_files, "PIPE_SECONDS", 0.1)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for keep_open in (False, True):
        writer = os.open(fifo, os.O_RDWR) if keep_open else None
        with pytest.raises(FileRefusedError, match="a pipe that has not ended"):
            read_file(fifo)
        if writer is not None:
            os.close(writer)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('<(echo "[]")', "does not hold a JSON object"),
        ("<(sleep 0.3; echo '{\"a\": NaN}')", "spec.a is not a finite number"),
        ("<(cat /dev/zero)", "it has more than 64 MiB"),
        ("/dev/zero", "/dev/zero cannot be read: it is not a regular file"),
    ],
)
def test_a_spec_may_come_from_a_process(arguments: str, words: str) -> None:
    command = f"'{sys.executable}' -m excise.cli.app submit {arguments}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    assert words in done.stderr
