"""What is said of a document that was refused: the field, the limit, the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from excise.specs import CorrectionSpec
from excise.specs.complaints import complain, describe_complaints

SPEC = {
    "kind": "correction",
    "model": "smollm2-135m-instruct",
    "reference": "ps_1",
    "behaviours": [{"name": "advert", "kind": "phrase", "prompts": "ps_2", "phrases": ["Buy"]}],
}


def refuse(**changes: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        CorrectionSpec.model_validate({**SPEC, **changes})
    return caught.value


def behaviour(**changes: Any) -> list[dict[str, Any]]:
    return [{**SPEC["behaviours"][0], **changes}]  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 1}, "seeds is not a known field. Did you mean seed?"),
        ({"nonsense": 1}, "nonsense is not a known field. Remove it or check its spelling."),
        (
            {"behaviours": behaviour(prase=["x"])},
            "behaviours[0].prase is not a known field. Did you mean phrases?",
        ),
        (
            {"behaviours": behaviour(kind="vibes")},
            "behaviours[0].kind names no kind of behaviour. "
            "Supported kinds: repetition, toxicity, phrase, custom.",
        ),
        (
            {"behaviours": behaviour(decoding={"max_new_tokens": 4096})},
            "behaviours[0].decoding.max_new_tokens is 4096; the limit is 512. Use at most 512.",
        ),
        ({"seed": "0"}, "seed must be an integer, without quotes."),
        ({"reference": None}, "reference must be a string."),
    ],
)
def test_a_complaint_names_the_field_and_the_remedy(changes: dict[str, Any], said: str) -> None:
    assert describe_complaints(refuse(**changes), CorrectionSpec) == said


def test_every_broken_rule_is_named() -> None:
    said = describe_complaints(refuse(seeds=1, reference=None), CorrectionSpec)
    assert "reference must be a string. " in f"{said} "
    assert "seeds is not a known field." in said


def test_without_models_no_other_name_is_proposed() -> None:
    (detail,) = refuse(seeds=1).errors()
    assert complain(detail).sentence == "is not a known field. Remove it or check its spelling."
