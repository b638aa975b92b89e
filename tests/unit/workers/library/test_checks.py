"""What a call was given is looked at before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import excise
from excise.specs import CorrectionSpec
from workers.library.checks import check_inputs, list_behaviours, note_unknown_settings
from workers.library.sets import Sets
from workers.stages.context import InvalidInputError

TEXTS = [f"text number {number}" for number in range(8)]
PROMPTS = [f"prompt number {number}" for number in range(4)]


def check(prompts: list[str] = PROMPTS, reference: list[str] = TEXTS, **changes: Any) -> None:
    sets = Sets()
    fields = sets.file_lists(
        {"behaviours": list_behaviours([excise.Repetition(prompts)]), "reference": reference}
        | changes
    )
    own = {"kind": "correction", "model": "tiny"}
    check_inputs(CorrectionSpec.model_validate({**fields, **own}), sets)


def test_enough_of_everything_is_fine() -> None:
    check()
    check(protect={"sets": [{"name": "own", "prompts": ["one", "two"]}]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": PROMPTS[:3]}, r"behaviours\[0\].prompts has 3 texts; the least is 4"),
        ({"reference": TEXTS[:7]}, "reference has 7 texts; the least is 8"),
        (
            {"protect": {"sets": [{"name": "own", "prompts": ["one"]}]}},
            r"protect.sets\[0\].prompts has 1 text; the least is 2",
        ),
        ({"publish": {"alias": "a@b"}}, "publish needs a service"),
    ],
)
def test_what_does_not_suffice_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check(**changes)


def test_a_task_needs_rows_of_its_own_or_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("EXCISE_TASK_DATA", raising=False)
    gates = {"zero_shot": [{"name": "boolq"}]}
    with pytest.raises(InvalidInputError, match=r"gates.zero_shot\[0\] has no rows"):
        check(gates=gates)
    monkeypatch.setenv("EXCISE_TASK_DATA", str(tmp_path))
    (tmp_path / "task_boolq.jsonl").touch()
    check(gates=gates)


@pytest.mark.parametrize("one", [excise.Repetition(PROMPTS), {"kind": "repetition"}])
def test_one_behaviour_is_no_list_of_behaviours(one: Any) -> None:
    with pytest.raises(TypeError, match="behaviours is one behaviour; give a list"):
        list_behaviours(one)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("repetition", "behaviours is a str; give a list"),
        (None, "behaviours is a NoneType; give a list"),
        (["repetition"], "behaviours: entry 1 is a str; give one like excise.Repetition"),
    ],
)
def test_what_is_no_list_of_behaviours(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        list_behaviours(given)


@pytest.mark.parametrize("given", [None, 5, b"text", {"prompt": "text"}])
def test_what_is_no_list_of_prompts(given: Any) -> None:
    told = f"Repetition: prompts is a {type(given).__name__}; give a list of texts or chats"
    with pytest.raises(TypeError, match=told):
        excise.Repetition(given)
    assert excise.Repetition(text for text in PROMPTS).fields["prompts"] == PROMPTS


def test_one_text_is_no_list_of_prompts() -> None:
    with pytest.raises(TypeError, match="Repetition: prompts is one text; give a list"):
        excise.Repetition("Say something")


@pytest.mark.parametrize(
    ("setting", "note"),
    [
        ("granularity", "granularity is a field of attribution: give attribution={'granularity'"),
        ("kl_mean", "kl_mean is a field of budget"),
        ("abilities", "abilities is a field of protect and of gates: give protect="),
        ("sead", "There is no sead. Settings are: attribution, behaviours, budget,"),
    ],
)
def test_an_unknown_setting_is_said_to_belong_elsewhere(setting: str, note: str) -> None:
    with pytest.raises(ValidationError) as raised:
        CorrectionSpec.model_validate({"kind": "correction", setting: 1})
    note_unknown_settings(raised.value, CorrectionSpec)
    (added,) = raised.value.__notes__
    assert added.startswith(note)
