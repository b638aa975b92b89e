"""Lists in a spec become sets by content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from excise.intake.prompt_sets import PromptSetError
from workers.library.sets import Sets
from workers.stages.context import InvalidInputError


def test_every_list_of_prompts_is_filed_and_other_lists_stay() -> None:
    sets = Sets()
    filed = sets.file_lists(
        {
            "behaviours": [{"kind": "phrase", "phrases": ["As an AI"], "prompts": ["one", "two"]}],
            "reference": ["a text", "another\nwith two lines"],
            "perplexity": {"prompts": ["a text"], "context": 32},
            "search": {"amounts": (1, 2)},
        }
    )
    behaviour = filed["behaviours"][0]
    assert behaviour["phrases"] == ["As an AI"]
    assert filed["search"] == {"amounts": [1, 2]}
    assert [prompt.text for prompt in sets.chats(behaviour["prompts"])] == ["one", "two"]
    assert sets.chats(filed["reference"])[1].text == "another\nwith two lines"
    assert sets.describe(filed["perplexity"]["prompts"]).name == "perplexity"
    assert sets.describe(filed["reference"]).name == "reference"
    assert len({behaviour["prompts"], filed["reference"], filed["perplexity"]["prompts"]}) == 3


def test_the_same_content_has_the_same_id() -> None:
    first, second = Sets(), Sets()
    assert first.file_lists({"reference": ["a"]}) == second.file_lists({"reference": ("a",)})
    assert first.file_lists({"reference": ["a"]}) != second.file_lists({"reference": ["b"]})


def test_chats_are_prompts_and_rows_are_rows() -> None:
    sets = Sets()
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    row = {"clean": "a", "corrupted": "b", "answer": " c", "wrong": " d"}
    filed = sets.file_lists({"prompts": [chat, "text"], "task": [row], "rows": 24})
    prompts = sets.chats(filed["prompts"])
    assert [message.role for message in prompts[0].messages] == ["system", "user"]
    assert prompts[1].text == "text"
    assert [json.loads(line) for line in sets.rows(filed["task"])] == [row]
    assert sets.describe(filed["task"]).format == "rows"
    assert filed["rows"] == 24


def test_a_prompt_that_no_set_could_hold_is_refused_with_its_line() -> None:
    with pytest.raises(PromptSetError, match=r"^gates\.general\.prompts: The prompt on line 2"):
        Sets().file_lists({"gates": {"general": {"prompts": ["fine", " "]}}})


def test_a_single_text_is_no_list_of_texts() -> None:
    for field in ("prompts", "reference", "rows"):
        with pytest.raises(TypeError, match=f"perplexity.{field} is one text; give a list"):
            Sets().file_lists({"perplexity": {field: "some text"}})
    assert Sets().file_lists({"task": "ioi"}) == {"task": "ioi"}


@pytest.mark.parametrize(
    "entry",
    [None, 5, b"text", {"prompt": "text"}, {"role": "user", "content": "text"}, ["one", "two"]],
)
def test_an_entry_of_another_type_is_refused_with_its_place(entry: Any) -> None:
    told = f"^gates.general.prompts: entry 2 is a {type(entry).__name__}; give a text, or a chat"
    with pytest.raises(TypeError, match=told):
        Sets().file_lists({"gates": {"general": {"prompts": ["fine", entry]}}})


def test_a_row_with_a_value_that_json_lacks_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^task: Object of type \w*Path .*give texts, numbers"):
        Sets().file_lists({"task": [{"clean": Path("a")}]})


def test_half_a_surrogate_pair_is_refused_with_its_line() -> None:
    with pytest.raises(PromptSetError, match="reference: The prompt on line 2 has half a surr"):
        Sets().file_lists({"reference": ["fine", "half \ud83d"]})


def test_an_empty_list_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="reference is an empty list"):
        Sets().file_lists({"reference": []})


def test_prompts_are_counted() -> None:
    sets = Sets()
    assert sets.count(sets.file_lists({"prompts": ["one", "two\nlines"]})["prompts"]) == 2
