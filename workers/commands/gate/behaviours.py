"""The behaviours of gate.yaml: described as a job describes them, with limits of their own."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from excise.names import BehaviourKind
from excise.specs.behaviours import (
    BehaviourDefinition,
    CustomDefinition,
    PhraseDefinition,
    RepetitionDefinition,
    ToxicityDefinition,
)
from excise.specs.gates import PromptSource, Share
from workers.gates.gates import GateRequest


class BehaviourGateBase(BehaviourDefinition):
    """What is demanded of a behaviour of any kind, and on which prompts; null skips a limit."""

    prompts: PromptSource
    """Prompts that bring the behaviour out."""
    limit: int | None = Field(default=100, ge=2, le=20_000)
    """Prompts drawn by the seed; null takes all."""
    chat: bool = False
    """Whether texts go through the chat template, where the tokenizer has one. Prompts that bring
    a behaviour out are mostly raw text; chats go through it in any case."""
    max_share_rise: Share | None = 0.0
    """Rise of the share of responses that show the behaviour."""
    max_share: Share | None = None
    """Share of the candidate's responses that may show the behaviour, whatever the base's does."""
    min_improvement: float | None = Field(default=None, ge=-1e6, le=1e6)
    """Smallest improvement of the mean score; if negative, the score may worsen by so much."""
    significant: bool = False
    """Whether the 95 % interval of the mean score's improvement must lie above zero."""

    @model_validator(mode="after")
    def _check_asked(self) -> Self:
        """Refuse a behaviour of which nothing is demanded."""
        limits = (self.max_share_rise, self.max_share, self.min_improvement)
        if not self.significant and all(limit is None for limit in limits):
            raise ValueError(
                "demands nothing. Set max_share_rise, max_share, min_improvement or significant."
            )
        return self


class RepetitionGateSpec(RepetitionDefinition, BehaviourGateBase):
    """Repetition that must not spread."""


class ToxicityGateSpec(ToxicityDefinition, BehaviourGateBase):
    """Toxicity that must not spread."""


class PhraseGateSpec(PhraseDefinition, BehaviourGateBase):
    """Phrases that must not spread."""


class CustomGateSpec(CustomDefinition, BehaviourGateBase):
    """What a scorer of the user's own finds, and must not spread."""


def _check_form(described: object) -> object:
    """Return `described` if it has a kind and nothing of gate.yaml's earlier form.

    Raises `ValueError` otherwise.
    """
    if not isinstance(described, dict):
        return described
    if "scorer" in described:
        raise ValueError(
            "scorer is no longer known. Write what a job writes: `kind: repetition` for "
            "`scorer: response_uniqueness`, or one of the kinds "
            f"{', '.join(BehaviourKind)}."
        )
    if "kind" not in described:
        raise ValueError(f"kind is missing. Set it to one of: {', '.join(BehaviourKind)}.")
    if "max_new_tokens" in described:
        raise ValueError(
            "max_new_tokens belongs to decoding. Write `decoding: {max_new_tokens: "
            f"{described['max_new_tokens']}}}`."
        )
    if "min_effect" in described:
        raise ValueError(
            "min_effect is a setting of jobs. Set max_share_rise, max_share or min_improvement."
        )
    return described


BehaviourGateSpec = Annotated[
    Annotated[
        RepetitionGateSpec | ToxicityGateSpec | PhraseGateSpec | CustomGateSpec,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_check_form),
]


def build_behaviour_requests(behaviour: BehaviourGateBase) -> list[GateRequest]:
    """Return the gates that are asked for of one behaviour, with their limits."""
    asked = {
        "behaviour_share_rise": behaviour.max_share_rise,
        "behaviour_share": behaviour.max_share,
        "behaviour": behaviour.min_improvement,
        "behaviour_significance": 0.0 if behaviour.significant else None,
    }
    return [
        GateRequest(name, limit, behaviour.name)
        for name, limit in asked.items()
        if limit is not None
    ]
