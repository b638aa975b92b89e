"""Specs of what a model must still be able to do: limits by slice, and protected text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from excise.names import BudgetLimit
from excise.specs.common import PromptSetId, PromptSetUse, SpecModel, inherit_limits

DEFAULT_NATS_RISE = 0.10
"""Nats per token; this rise costs a copied list about one more wrong token in ten. Chosen by
hand."""

DEFAULT_ACCURACY_FALL = 0.05
"""Three items of sixty. Chosen by hand."""

MIN_PROTECTED_TEXTS = 2
"""One text to learn from and one to measure on."""

SliceName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
NatsRise = Annotated[float, Field(ge=0, le=100)]
AccuracyFall = Annotated[float, Field(ge=0, le=1)]


class SliceLimitsSpec(SpecModel):
    """How far one slice may fall; null sets no limit on a figure."""

    max_nats_rise: NatsRise | None = DEFAULT_NATS_RISE
    """Largest rise of the negative log-likelihood of right continuations, nats per token."""
    max_accuracy_fall: AccuracyFall | None = DEFAULT_ACCURACY_FALL
    """Largest fall of the share of items that are right; 0.05 is 5 percentage points."""


class AbilitiesGateSpec(SliceLimitsSpec):
    """Every slice of abilities must stay within its limits."""

    items: int = Field(default=60, ge=10, le=2000)
    """Minimum number of items per slice; fewer are quicker but less precise."""
    slices: Annotated[dict[SliceName, SliceLimitsSpec], Field(max_length=256)] = {}  # noqa: RUF012
    """Limits of individual slices, by name; what is not given here, and all other slices, have the
    limits above."""

    @model_validator(mode="after")
    def _inherit_limits(self) -> Self:
        """Write into each slice what it does not give, so that a dumped spec means the same."""
        for name, own in self.slices.items():
            self.slices[name] = inherit_limits(own, self)
        return self

    @property
    def has_limits(self) -> bool:
        """Whether any slice has a limit."""
        limits = (self, *self.slices.values())
        return any(
            getattr(own, field) is not None
            for own in limits
            for field in SliceLimitsSpec.model_fields
        )

    def limits_of(self, name: str) -> SliceLimitsSpec:
        """Return the limits of one slice."""
        return self.slices.get(name, self)


class ProtectedSetSpec(SpecModel):
    """A team's own text that must keep working, with its own limit."""

    name: SliceName
    prompts: PromptSetId
    max_nats_rise: float = Field(default=DEFAULT_NATS_RISE, gt=0, le=100)
    """Largest rise of the text's negative log-likelihood in the search, nats per token."""


def _check_names(sets: list[ProtectedSetSpec]) -> list[ProtectedSetSpec]:
    """Return `sets` if every name is unique; raises `ValueError` otherwise."""
    names = {own.name for own in sets}
    if len(names) < len(sets):
        raise ValueError("names a set twice. Give each its own name.")
    if taken := names & set(BudgetLimit):
        raise ValueError(
            f"has the name {min(taken)}, which is also a limit of the budget. Use another name."
        )
    return sets


class ProtectSpec(SpecModel):
    """What a search protects: the built-in slices of abilities, and a team's own texts."""

    abilities: bool = True
    """Whether the built-in slices are protected, each within its limits in `gates.abilities`."""
    sets: Annotated[
        list[ProtectedSetSpec], Field(max_length=16, fail_fast=True), AfterValidator(_check_names)
    ] = []  # noqa: RUF012
    """A team's own named sets, in addition to the built-in slices."""

    def list_prompt_sets(self) -> Iterator[PromptSetUse]:
        """Yield the texts of the team's own sets."""
        for index, own in enumerate(self.sets):
            yield PromptSetUse(f"protect.sets[{index}].prompts", own.prompts, MIN_PROTECTED_TEXTS)
