"""Give an environment the packages that a wheel asks for, as links to those installed here.

    python scripts/link_requirements.py WHEEL EXTRA,EXTRA FOLDER     (EXTRA,EXTRA may be empty)

FOLDER is the other environment's site-packages. It gets what `pip install 'WHEEL[EXTRA,EXTRA]'`
would bring, and nothing of what merely happens to be installed here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Set
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


class MissingRequirementError(RuntimeError):
    """A requirement is not installed here, or in another version."""


def find_requirements(asking: Distribution, extras: Set[str]) -> dict[str, Distribution]:
    """Every distribution that `asking` needs with these extras, directly or not, by name.

    An extra may ask for another one of `asking` itself. Raises `MissingRequirementError`.
    """
    own = canonicalize_name(asking.name)
    found: dict[str, Distribution] = {own: asking}
    seen = {(own, extra) for extra in ("", *extras)}
    waiting = list(list_wanted(asking, extras))
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name != own:
            found[name] = find_installed(requirement)
        new = {extra for extra in ("", *requirement.extras) if (name, extra) not in seen}
        seen |= {(name, extra) for extra in new}
        if new:
            waiting += list_wanted(found[name], new)
    del found[own]
    return found


def list_wanted(asking: Distribution, extras: Set[str]) -> Iterator[Requirement]:
    """Yield the requirements of `asking` that hold on this machine with any of the extras."""
    for requirement in map(Requirement, asking.requires or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement


def find_installed(requirement: Requirement) -> Distribution:
    """The distribution here that meets a requirement. Raises `MissingRequirementError`."""
    try:
        found = distribution(requirement.name)
    except PackageNotFoundError:
        raise MissingRequirementError(f"{requirement.name} is not installed here") from None
    if not requirement.specifier.contains(found.version, prereleases=True):
        raise MissingRequirementError(f"{requirement} is needed, {found.version} is installed")
    return found


def link(found: Distribution, folder: Path) -> None:
    """Link every top-level module, package and file of a distribution into `folder`."""
    tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
    for top in tops:
        if not (folder / top).exists():
            (folder / top).symlink_to(Path(str(found.locate_file(top))).resolve())


def main(wheel: Path, extras: Set[str], folder: Path) -> None:
    """Link the wheel's requirements, and pip, which every environment has."""
    (asking,) = Distribution.discover(path=[str(wheel)])
    found = find_requirements(asking, extras) | {"pip": distribution("pip")}
    for one in found.values():
        link(one, folder)
    print(f"{wheel.name}[{','.join(sorted(extras))}] needs {len(found)} packages, pip among them")


if __name__ == "__main__":
    main(Path(sys.argv[1]), {*filter(None, sys.argv[2].split(","))}, Path(sys.argv[3]))
