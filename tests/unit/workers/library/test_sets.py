"""Lists in a spec become sets by content."""

from __future__ import annotations

import json

import pytest

from excise.intake.prompt_sets import PromptSetError
from workers.library.sets import Sets


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
    with pytest.raises(PromptSetError, match="line 2"):
        Sets().file_lists({"prompts": ["fine", " "]})
