"""From a job's spec to the slices that are asked and the text that its search keeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.tiny import CONTEXT, as_loaded, build_tiny_model
from tests.unit.workers.abilities.tokenizers import build_byte_tokenizer
from tests.unit.workers.kinds.correction.correction_inputs import build_spec
from workers.abilities.catalogue import SLICES
from workers.correction.results import SliceDamage
from workers.stages.abilities import (
    UNLIMITED,
    check_slice_names,
    describe_protection,
    list_kinds,
    list_verdict_kinds,
    protect,
)
from workers.stages.context import InvalidInputError

BYTES = build_byte_tokenizer()
PHRASE = {"kind": "phrase", "name": "p", "prompts": "ps_1", "phrases": ["As an AI"]}
TOXICITY = {"kind": "toxicity", "name": "t", "prompts": "ps_1"}
TEXTS = {"ps_3": ["One text of ours.", "And another one."], "ps_4": ["Only one."]}


def inputs_of(context: int = CONTEXT, **changes: Any) -> Any:
    """As much of a job's inputs as abilities need; a byte a token, so that any text can be."""
    model = build_tiny_model(max_position_embeddings=context)
    return SimpleNamespace(
        spec=build_spec(**changes),
        base=as_loaded(model, tokenizer=BYTES),
        task_data=None,
        prompts=TEXTS.__getitem__,
        prompt_set=lambda name: SimpleNamespace(sha256=f"sha of {name}"),
    )


def names_of(inputs: Any) -> list[str]:
    return [own.name for own in protect(inputs)]


def test_every_job_is_asked_the_slices_of_every_model() -> None:
    kinds = list_kinds(inputs_of())
    assert kinds[: len(SLICES)] == SLICES
    assert list_verdict_kinds(inputs_of()) == kinds


def test_behaviours_bring_their_neighbourhoods() -> None:
    names = {kind.name for kind in list_kinds(inputs_of())}
    for behaviour in (PHRASE, TOXICITY):
        more = {kind.name for kind in list_kinds(inputs_of(behaviours=[behaviour]))}
        assert more - names


def test_a_limit_of_a_slice_that_there_is_not_is_refused() -> None:
    slices = {"slices": {"words": {}}}
    check_slice_names(inputs_of(gates={"abilities": slices}))
    check_slice_names(inputs_of(gates={"abilities": None}))
    with pytest.raises(
        InvalidInputError,
        match=r"^gates\.abilities\.slices names wrods, which is no slice\. Name one of: .*words",
    ):
        check_slice_names(inputs_of(gates={"abilities": {"slices": {"wrods": {}}}}))
    with pytest.raises(InvalidInputError, match="names wrods"):
        protect(inputs_of(protect=None, gates={"abilities": {"slices": {"wrods": {}}}}))


def test_a_search_keeps_every_slice_within_what_the_gate_allows_it() -> None:
    gate = {
        "max_nats_rise": 0.3,
        "max_accuracy_fall": None,
        "slices": {"words": {"max_nats_rise": None, "max_accuracy_fall": 0.02}},
    }
    found = {
        own.name: own.limit for own in protect(inputs_of(context=4096, gates={"abilities": gate}))
    }
    assert list(found) == [kind.name for kind in list_kinds(inputs_of())]
    assert found["words"] == SliceDamage(nats_rise=UNLIMITED, accuracy_fall=0.02)
    assert found["quotations"] == SliceDamage(nats_rise=0.3, accuracy_fall=UNLIMITED)


def test_without_a_gate_slices_are_kept_within_the_defaults() -> None:
    found = protect(inputs_of(gates={"abilities": None}))
    assert {(own.limit.nats_rise, own.limit.accuracy_fall) for own in found} == {(0.1, 0.05)}


def test_what_is_longer_than_the_model_s_context_is_not_asked() -> None:
    short = protect(inputs_of(context=80))
    assert 0 < len(short) < len(protect(inputs_of(context=4096)))
    for own in short:
        for sample in (*own.learn, *own.tune):
            assert len(sample.prompt_ids) + len(sample.response_ids) <= 80


def test_a_team_s_own_sets_stand_beside_the_built_in_slices_or_alone() -> None:
    sets = [{"name": "our_terms", "prompts": "ps_3", "max_nats_rise": 0.02}]
    both = names_of(inputs_of(protect={"sets": sets}))
    assert both == [*names_of(inputs_of()), "our_terms"]
    (own,) = protect(inputs_of(protect={"abilities": False, "sets": sets}))
    assert (own.name, own.limit.nats_rise) == ("our_terms", 0.02)
    assert protect(inputs_of(protect=None)) == ()
    assert protect(inputs_of(protect={"abilities": False})) == ()


def test_sets_that_cannot_be_kept_are_refused() -> None:
    small = {"sets": [{"name": "small", "prompts": "ps_4"}]}
    with pytest.raises(InvalidInputError, match=r"protect\.sets: small needs two texts"):
        protect(inputs_of(protect=small))
    taken = {"sets": [{"name": "words", "prompts": "ps_3"}]}
    for abilities in (True, False):
        with pytest.raises(InvalidInputError, match="has the name words, which a built-in slice"):
            protect(inputs_of(protect={**taken, "abilities": abilities}))


def test_a_prepared_protection_is_known_by_what_it_depends_on() -> None:
    def described(**changes: Any) -> Any:
        return describe_protection(inputs_of(**changes))

    sets = [{"name": "contracts", "prompts": "ps_3"}]
    different = [
        described(),
        described(protect=None),
        described(protect={"abilities": False}),
        described(protect={"sets": sets}),
        described(protect={"sets": [{**sets[0], "max_nats_rise": 0.2}]}),
        described(gates={"abilities": {"max_nats_rise": 0.2}}),
        described(gates={"abilities": None}),
    ]
    assert all(one != other for place, one in enumerate(different) for other in different[:place])
    # Prompt sets are told by content: another id of the same text is the same.
    own = inputs_of(protect={"sets": sets})
    renamed = replace_prompts(own, {"name": "contracts", "prompts": "ps_9"})
    assert describe_protection(renamed) == describe_protection(own)


def replace_prompts(inputs: Any, item: dict[str, Any]) -> Any:
    """The same inputs with a set of another id and the same content."""
    fields = vars(inputs) | {
        "spec": build_spec(protect={"sets": [item]}),
        "prompt_set": lambda name: SimpleNamespace(sha256="sha of ps_3"),
    }
    return SimpleNamespace(**fields)
