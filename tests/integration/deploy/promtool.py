"""promtool: the machine's, or Debian's, downloaded once into a cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_TIMEOUT_SECONDS = 300


def find_promtool() -> Path:
    """Return the path of promtool; skip the calling test, with the reason, without one."""
    if found := shutil.which("promtool"):
        return Path(found)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "excise" / "prometheus"
    program = folder / "usr" / "bin" / "promtool"
    if not program.exists():
        _fetch(folder)
    return program


def _fetch(folder: Path) -> None:
    """Unpack Debian's package into the folder, completely or not at all."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        pytest.skip("no promtool: it is not installed, and this is no Debian to fetch it from")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        download = Path(name)
        _run("apt-get", "download", "prometheus", folder=download)
        (package,) = download.glob("*.deb")
        _run("dpkg", "-x", package.name, "unpacked", folder=download)
        if not folder.exists():  # another test process may have been faster
            (download / "unpacked").rename(folder)


def _run(*command: str, folder: Path) -> None:
    """Run one of the steps; skip the test if it fails."""
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS
        )
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"no promtool: {' '.join(command[:2])} failed ({type(error).__name__})")
