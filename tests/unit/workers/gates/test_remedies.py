"""Every unmet gate says what may have caused it and what to do, a met one nothing."""

from __future__ import annotations

import pytest

from excise.names import GateGroup
from excise.reports.gates import GateResult
from workers.gates.remedies import add_remedies, find_remedy
from workers.gates.table import (
    ABILITIES,
    COMPRESSED_PERPLEXITY,
    EFFECT_GATES,
    GATES,
    RETENTION,
    SIZE,
)

NAMES = [*GATES, *EFFECT_GATES, ABILITIES.name]
BEHAVIOUR_GATES = [*EFFECT_GATES, *(name for name in GATES if name.startswith("behaviour"))]
SUBJECTS = {"zero_shot": "boolq", **dict.fromkeys(BEHAVIOUR_GATES, "slogan")}


def gate(name: str, value: float | None = 2.0, *, passed: bool = False) -> GateResult:
    return GateResult(
        name=name,
        sentence="it holds",
        limit=1.0,
        value=value,
        passed=passed,
        group=GateGroup.DAMAGE,
        unmeasured="out of memory" if value is None else None,
    )


def test_every_gate_of_the_table_has_its_own_remedy() -> None:
    rows = [*GATES.values(), *EFFECT_GATES.values(), ABILITIES]
    rows += [RETENTION, SIZE, COMPRESSED_PERPLEXITY]
    assert len({row.remedy for row in rows}) == len(rows)


@pytest.mark.parametrize("of_job", [True, False])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_remedy_is_whole_sentences_about_its_subject(name: str, of_job: bool) -> None:
    subject = SUBJECTS.get(name, "")
    text = find_remedy(gate(f"{name}:{subject}" if subject else name), of_job=of_job)
    assert text.endswith(".")
    assert text[0].isupper()
    assert not set("{}") & set(text)
    assert "  " not in text


def test_only_unmet_gates_have_a_remedy() -> None:
    met, unmet, unmeasured = add_remedies(
        [gate("kl", passed=True), gate("kl"), gate("kl", None, passed=True)], of_job=True
    )
    assert met.remedy is None
    assert "budget.kl_mean" in (unmet.remedy or "")
    assert "not measured" in (unmeasured.remedy or "")


def test_answers_that_no_longer_end_are_to_be_given_room() -> None:
    text = find_remedy(gate("token_limit:slogan"), of_job=True)
    assert "Raise decoding.max_new_tokens of slogan" in text
    assert "responses.sets.slogan.max_token_limit_rise" in text
    fixed = find_remedy(gate("token_limit:reference"), of_job=True)
    assert "max_new_tokens" not in fixed
    assert "responses.sets.reference.max_token_limit_rise" in fixed
    general = find_remedy(gate("token_limit"), of_job=False)
    assert "max_new_tokens of these prompts" in general
    assert "general.max_token_limit_rise" in general


def test_limits_are_named_where_they_are_set() -> None:
    assert "gates.general.max_empty_rise" in find_remedy(gate("emptiness"), of_job=True)
    assert "set general.max_empty_rise" in find_remedy(gate("emptiness"), of_job=False)
    own = find_remedy(gate("emptiness:my.slogan"), of_job=True)
    assert "set responses.sets.my.slogan.max_empty_rise" in own


@pytest.mark.parametrize(
    "name", ["effect", "significance", "better_than_random", "held_out_prompts"]
)
def test_the_gates_of_an_effect_name_their_behaviour(name: str) -> None:
    assert "my.own slogan" in find_remedy(gate(f"my.own slogan.{name}"), of_job=True)


def test_what_remains_names_its_limit() -> None:
    text = find_remedy(gate("remaining:slogan"), of_job=True)
    assert "max_remaining of slogan" in text


def test_a_gate_of_another_kind_still_has_one() -> None:
    assert find_remedy(gate("novelty"), of_job=True).endswith(".")
