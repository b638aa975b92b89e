"""`excise.correct` and its like: loaded when asked for, and missed with a remedy."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

import excise
from excise import engine


def test_importing_excise_loads_no_engine() -> None:
    code = (
        "import sys, excise; excise.Repetition(['a']); "
        "print({'torch', 'transformers', 'workers', 'numpy'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


def test_every_call_is_found() -> None:
    for name in engine.CALLS:
        assert getattr(excise, name).__name__ == name
        assert name in dir(excise)


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        excise.absent  # noqa: B018 - reading it is what fails


@pytest.mark.parametrize(
    ("offered", "missing"),
    [
        (EntryPoints(), "the engine is not installed"),
        (
            EntryPoints(
                [EntryPoint("correct", "no_such_module:correct", engine.ENTRY_POINT_GROUP)]
            ),
            "'no_such_module' is not installed",
        ),
    ],
)
def test_a_missing_engine_names_its_remedy(monkeypatch, offered: EntryPoints, missing: str) -> None:
    monkeypatch.setattr(engine, "entry_points", lambda **wanted: offered.select(**wanted))
    with pytest.raises(ImportError, match=missing) as caught:
        engine.load_call("correct")  # `excise` keeps what it has found once
    assert "pip install 'excise[worker]'" in str(caught.value)


def test_a_behaviour_says_what_it_is() -> None:
    behaviour = excise.Phrase(["a", "b"], name="boast", phrases=["As an AI"], ignore_case=False)
    assert behaviour.fields == {
        "kind": "phrase",
        "name": "boast",
        "prompts": ["a", "b"],
        "phrases": ["As an AI"],
        "ignore_case": False,
    }
    assert repr(behaviour) == "<Phrase 'boast', 2 prompts>"
    assert excise.Toxicity(["a"]).fields["name"] == "toxicity"
