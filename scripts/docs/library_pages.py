"""The reference of the Python packages: a page each, filled from the docstrings by mkdocstrings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import griffe
from pages import Page, join_blocks, join_lines

ROOTS = (
    "excise",
    "workers.abilities",
    "workers.attribution",
    "workers.circuits",
    "workers.compression",
    "workers.correction",
    "workers.families",
    "workers.gates",
    "workers.library",
    "workers.measuring",
    "workers.models",
    "workers.pruning",
    "workers.reports",
    "workers.scorers",
    "workers.stages",
)
"""What people import: the client's package, and those of the engine."""
LEFT_OUT = frozenset({"excise.cli"})
"""The command line has a reference of its own."""
_FOLDER = "reference/python"


def build_library_pages(root: str) -> list[Page]:
    """A page for each package of `ROOTS` and below, and one that lists them.

    `root` is the folder of the checkout. Nothing is imported: sources are read.
    """
    loader = griffe.GriffeLoader(search_paths=[root], allow_inspection=False)
    houses = {name.partition(".")[0] for name in ROOTS}
    loaded = {name: loader.load(name) for name in sorted(houses)}
    packages = [package for name in ROOTS for package in list_packages(_find_module(loaded, name))]
    return [_build_overview(packages), *(_build_package_page(package) for package in packages)]


def list_packages(package: griffe.Module) -> Iterator[griffe.Module]:
    """Yield the package and those inside it, parents first, but for what is left out."""
    yield package
    for module in list_modules(package):
        if _is_package(module):
            yield from list_packages(module)


def list_modules(package: griffe.Module) -> list[griffe.Module]:
    """The public modules directly inside a package, by name, but for what is left out."""
    return [
        module
        for name, module in sorted(package.modules.items())
        if not name.startswith("_") and module.path not in LEFT_OUT
    ]


def find_undocumented(owner: griffe.Object) -> Iterator[str]:
    """Yield the public modules, classes and functions in `owner`, or itself, that say nothing.

    Inherited and imported names are their owners' to document; packages inside have pages of
    their own.
    """
    if not owner.has_docstring:
        yield owner.path
    for name, member in owner.members.items():
        if name.startswith("_") or member.is_alias or member.is_attribute or member.is_module:
            continue
        yield from find_undocumented(member)  # type: ignore[arg-type]


def _find_module(loaded: Mapping[str, Any], name: str) -> griffe.Module:
    """The module of that name inside the packages that were read."""
    house, _, rest = name.partition(".")
    found = loaded[house][rest] if rest else loaded[house]
    assert isinstance(found, griffe.Module), name
    return found


def _build_package_page(package: griffe.Module) -> Page:
    """The package's own docstring and names, then each of its modules."""
    modules = [module for module in list_modules(package) if not _is_package(module)]
    shown = [package, *modules]
    own = f"::: {package.path}\n    options:\n      show_root_heading: false"
    blocks = [
        f"# {package.path}",
        f"{own}\n      show_root_toc_entry: false",
        *(f"::: {module.path}" for module in modules),
    ]
    undocumented = tuple(name for module in shown for name in find_undocumented(module))
    path = f"{_FOLDER}/{package.path}.md"
    return Page(path, package.path, join_blocks(blocks), undocumented)


def _is_package(module: griffe.Module) -> bool:
    """Whether it has modules of its own, and so a page of its own."""
    return module.is_package or module.is_subpackage


def _build_overview(packages: list[griffe.Module]) -> Page:
    lines = [
        f"- [`{package.path}`]({package.path}.md): {_say_first_line(package)}"
        for package in packages
    ]
    blocks = [
        "# The Python packages",
        "`excise` is what a program needs to submit, watch and read jobs; it imports no torch. "
        "The packages under `workers` are the engine, which runs without the service: "
        "see [the house](../../architecture.md) for who may import whom.",
        "\n".join(lines),
    ]
    return Page(f"{_FOLDER}/index.md", "Python packages", join_blocks(blocks))


def _say_first_line(package: griffe.Module) -> str:
    """The first paragraph of a package's docstring."""
    text = package.docstring.value if package.docstring else ""
    return join_lines(text).split("\n\n")[0]
