from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.unit.scripts.loading import load_script

checking = load_script("check_distribution")
SOURCES = {"excise/__init__.py": b"code", "excise/examples/gate/harmful.txt": b"prompt"}


def test_the_sources_hold_the_examples_through_the_link_and_no_caches() -> None:
    sources = checking.read_sources(checking.ROOT)
    examples = checking.ROOT / "examples"
    for path in ("repetition.job.json", "gate/harmful.txt"):
        assert sources[f"excise/examples/{path}"] == (examples / path).read_bytes()
    for path in ("migrations/script.py.mako", "workers/reports/templates/report.css"):
        assert path in sources
    assert {path.partition("/")[0] for path in sources} == set(checking.PACKAGES)
    assert not [path for path in sources if path.endswith(".pyc")]


def test_a_wheel_is_read_without_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "excise-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**SOURCES, "excise-1.dist-info/RECORD": b""}.items():
            archive.writestr(name, content)
    assert checking.read_wheel(path) == SOURCES


def test_an_sdist_is_read_without_what_every_sdist_has(tmp_path: Path) -> None:
    path = tmp_path / "excise-1.tar.gz"
    usual = {"pyproject.toml": b"", "excise.egg-info/SOURCES.txt": b""}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**SOURCES, **usual}.items():
            member = tarfile.TarInfo(f"excise-1/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert checking.read_sdist(path) == SOURCES


def test_a_link_in_an_sdist_is_no_copy_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "excise-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("excise-1/excise/examples")
        link.type, link.linkname = tarfile.SYMTYPE, "../examples"
        archive.addfile(link)
    assert checking.compare("sdist", checking.read_sdist(path), SOURCES) == [
        "sdist lacks excise/__init__.py",
        "sdist lacks excise/examples/gate/harmful.txt",
        "sdist has excise/examples, too",
    ]


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({}, "wheel lacks excise/__init__.py"),
        ({"tests/test_it.py": b"", **SOURCES}, "wheel has tests/test_it.py, too"),
        ({**SOURCES, "excise/__init__.py": b"old"}, "wheel: excise/__init__.py differs"),
    ],
)
def test_whatever_is_not_as_in_the_checkout_is_named(found: dict[str, bytes], problem: str) -> None:
    assert checking.compare("wheel", found, SOURCES)[0] == problem
    assert checking.compare("wheel", SOURCES, SOURCES) == []
