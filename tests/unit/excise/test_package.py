"""What `import excise` gives, what it brings along, and what `pip install .` needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import excise

HEAVY = frozenset(
    {"fastapi", "starlette", "celery", "sqlalchemy", "psycopg", "torch", "transformers", "numpy"}
)
"""Distributions and modules that whoever submits, watches and downloads has no use for."""

MOST_DISTRIBUTIONS = 25


def list_modules(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def find_closure(lines: Iterable[str]) -> set[str]:
    """Every distribution that installing these requirements brings, ourselves left out."""
    found: set[str] = set()
    left = [(Requirement(line), frozenset({""})) for line in lines]
    seen: set[tuple[str, str]] = set()
    while left:
        requirement, extras = left.pop()
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                left += [(Requirement(line), frozenset({extra})) for line in requires(name) or ()]
    return found


def test_installing_it_alone_brings_few_distributions_and_none_that_is_heavy() -> None:
    try:
        own = requires("excise") or ()
    except PackageNotFoundError:
        pytest.skip("excise is not installed")
    needed = find_closure(line for line in own if "extra ==" not in line)
    assert {"httpx", "pydantic", "pydantic-core", "typer"} <= needed
    assert not needed & HEAVY
    assert 1 + len(needed) <= MOST_DISTRIBUTIONS, sorted(needed)


def test_the_closure_is_read_right() -> None:
    service = find_closure(["celery[redis]"])
    assert {"celery", "kombu", "redis"} <= service
    assert distribution("celery").metadata["Name"] == "celery"
    assert "redis" not in find_closure(["celery"])


def test_the_command_line_loads_nothing_that_is_heavy() -> None:
    loaded = list_modules("import excise.cli.app")
    assert "excise.client.client" in loaded
    assert not {name.partition(".")[0] for name in loaded} & {*HEAVY, "service", "workers"}


def test_importing_it_loads_nothing_but_itself_and_what_python_brings() -> None:
    loaded = list_modules("import excise") - list_modules("")
    assert {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names} == {
        "excise"
    }


def test_every_public_name_is_there_and_loaded_when_it_is_asked_for() -> None:
    assert dir(excise) == sorted(excise.__all__)
    for name in excise.__all__:
        assert getattr(excise, name) is getattr(excise, name)
    assert set(excise._HOME_OF) == set(excise.__all__)
    loaded = list_modules("import excise; excise.CorrectionSpec; from excise import read_report")
    assert "excise.specs.correction" in loaded
    assert "httpx" not in loaded


def test_names_that_are_not_public_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = excise.nothing
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from excise import nothing  # noqa: F401
