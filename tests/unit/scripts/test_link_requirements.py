from __future__ import annotations

import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from tests.unit.scripts.loading import load_script

linking = load_script("link_requirements")

INSTALLED = {
    "asking": (
        "1.0",
        [
            "needed[fast]>=2",
            "other; extra == 'worker'",
            "asking[worker]; extra == 'all'",
            "never; python_version < '3'",
        ],
    ),
    "needed": ("2.1+cpu", ["deep", "speed; extra == 'fast'", "slow; extra == 'slow'"]),
    "deep": ("1.0", ["needed"]),
    "speed": ("1.0", []),
    "other": ("1.0", []),
    "slow": ("1.0", []),
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Distributions whose metadata importlib finds, each with a package and a script."""
    for name, (version, requires) in INSTALLED.items():
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
        (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n../../bin/{name},,\n")
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def find(name: str, extras: set[str]) -> dict[str, Distribution]:
    (asking,) = Distribution.discover(name=name)
    found: dict[str, Distribution] = linking.find_requirements(asking, extras)
    return found


def test_what_is_asked_for_is_found_with_what_that_asks_for(installed: Path) -> None:
    assert find("asking", set()).keys() == {"needed", "deep", "speed"}
    assert find("asking", {"worker"}).keys() == {"needed", "deep", "speed", "other"}


def test_an_extra_may_ask_for_another_of_the_same_package(installed: Path) -> None:
    assert find("asking", {"all"}).keys() == {"needed", "deep", "speed", "other"}


def test_another_version_is_no_requirement_met(installed: Path) -> None:
    metadata = installed / "asking-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("needed[fast]>=2", "needed>=3"))
    with pytest.raises(linking.MissingRequirementError, match=r"needed>=3.*2\.1\+cpu is installed"):
        find("asking", set())


def test_a_missing_requirement_is_named(installed: Path) -> None:
    metadata = installed / "deep-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("needed", "excise-nowhere"))
    with pytest.raises(linking.MissingRequirementError, match="excise-nowhere is not installed"):
        find("asking", set())


def test_a_distribution_is_linked_whole_and_outside_nothing(
    installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("site-packages")
    linking.link(find("asking", set())["needed"], folder)
    linking.link(find("asking", set())["needed"], folder)
    assert [path.name for path in folder.iterdir()] == ["needed"]
    assert (folder / "needed").resolve() == installed / "needed"
