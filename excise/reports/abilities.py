"""What a correction's report.json says about abilities, in so far as the service reads it."""

from __future__ import annotations

import math

from pydantic import BaseModel, Field, FiniteFloat


class AbilityFigures(BaseModel):
    """One ability: what the model could do, what it can now, and how far it may fall."""

    name: str
    """Of the slice, as `gates.abilities.slices` names it."""
    sentence: str
    """What the model does there, as in "can no longer count on"."""
    accuracy_before: FiniteFloat
    accuracy_after: FiniteFloat
    max_accuracy_fall: FiniteFloat | None
    """As a fraction; None where the spec limits nats alone."""
    nats_change: FiniteFloat
    """Of the right continuations, nats a token; a rise is damage."""
    max_nats_rise: FiniteFloat | None

    @property
    def use(self) -> float:
        """The share of its limits used up, by the figure nearer to one; 0 where nothing fell."""
        fall = self.accuracy_before - self.accuracy_after
        return max(
            _share(self.nats_change, self.max_nats_rise), _share(fall, self.max_accuracy_fall)
        )

    @property
    def right(self) -> str:
        """Which share of items is right, before and after."""
        return f"{100 * self.accuracy_before:.0f} % → {100 * self.accuracy_after:.0f} %"


class Ability(AbilityFigures):
    """One ability of a report, with what the gate made of it."""

    area: str
    is_gated: bool
    """Whether the base is able enough for a fall to mean something."""
    within: bool

    @property
    def place(self) -> tuple[bool, bool, float]:
        """Sort key: what is lost first, then the nearest to its limit, what is not gated last."""
        return self.within, not self.is_gated, -self.use


class _Report(BaseModel):
    abilities: list[Ability] = Field(default_factory=list)


def parse_abilities(content: bytes) -> list[Ability]:
    """The abilities in a report.json; none where it measured none or is older than they are.

    Raises `ValueError` for what is no report of a version known here.
    """
    return _Report.model_validate_json(content).abilities


def _share(rise: float, limit: float | None) -> float:
    if limit is None or rise <= 0:
        return 0.0
    return rise / limit if limit > 0 else math.inf
