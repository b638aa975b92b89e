"""Say whether an sdist and a wheel hold this checkout's packages, whole, and nothing else.

    python scripts/check_distribution.py SDIST WHEEL

Ends with 1 and the names of the files otherwise.
"""

from __future__ import annotations

import os
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("excise", "migrations", "service", "workers")
BESIDE = frozenset({"PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"})
"""What an sdist holds beside the packages and setuptools' own `excise.egg-info`."""

Files = Mapping[str, bytes]


def read_sources(root: Path) -> Files:
    """Every file of the packages by its path, through links; not what Python cached."""
    found = {}
    for package in PACKAGES:
        for folder, folders, names in os.walk(root / package, followlinks=True):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for path in (Path(folder, name) for name in names):
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def read_wheel(path: Path) -> Files:
    """A wheel's files, but for those of its `.dist-info`."""
    with zipfile.ZipFile(path) as archive:
        return {
            name: archive.read(name)
            for name in archive.namelist()
            if not PurePosixPath(name).parts[0].endswith(".dist-info")
        }


def read_sdist(path: Path) -> Files:
    """An sdist's files below its one folder, but for what every sdist has; a link is empty."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            is_usual = name in BESIDE or PurePosixPath(name).parts[:1] == ("excise.egg-info",)
            if not member.isdir() and not is_usual:
                content = archive.extractfile(member) if member.isreg() else None
                found[name] = content.read() if content is not None else b""
    return found


def compare(name: str, found: Files, expected: Files) -> list[str]:
    """A line for every file that is missing from, superfluous in or changed in `found`."""
    both = found.keys() & expected.keys()
    return [
        *(f"{name} lacks {path}" for path in sorted(expected.keys() - both)),
        *(f"{name} has {path}, too" for path in sorted(found.keys() - both)),
        *(f"{name}: {path} differs" for path in sorted(both) if found[path] != expected[path]),
    ]


def main(sdist: Path, wheel: Path) -> None:
    """Compare both with the checkout."""
    sources = read_sources(ROOT)
    problems = [
        *compare(sdist.name, read_sdist(sdist), sources),
        *compare(wheel.name, read_wheel(wheel), sources),
    ]
    if problems:
        sys.exit("\n".join(problems))
    print(f"{sdist.name} and {wheel.name} hold the same {len(sources)} files as the checkout")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
