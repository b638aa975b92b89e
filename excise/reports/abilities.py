"""What a report says about abilities: one entry a slice."""

from __future__ import annotations

import math

from pydantic import BaseModel, FiniteFloat

from excise.reports.model import ReportModel


class AbilityFigures(BaseModel):
    """What the model could do there, what it can now, and how far it may fall."""

    name: str
    """Of the slice, as `gates.abilities.slices` names it."""
    sentence: str
    """What the model does there, as in "can no longer repeat random tokens"."""
    accuracy_before: FiniteFloat
    accuracy_after: FiniteFloat
    max_accuracy_fall: FiniteFloat | None
    """As a fraction; None where the spec limits nats alone."""
    nats_change: FiniteFloat
    """Of the right continuations, nats per token; a rise is damage."""
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


class AbilityChange(AbilityFigures, ReportModel):
    """What became of one slice of a model's abilities: what it could do, and what it can now."""

    area: str
    items: int
    nats_before: float
    """Negative log-likelihood of the right continuations, nats per token."""
    nats_interval: tuple[float, float]
    """95 % interval of the change, over items."""
    accuracy_interval: tuple[float, float]
    """95 % interval of after − before, over items."""
    control_nats_change: float | None = None
    """After pruning as many random components; None where that was not measured."""
    control_accuracy_change: float | None = None
    is_gated: bool
    """Whether the base is able enough for a fall to mean something."""
    within: bool
    """Whether the changes are within their limits; of what is not gated, true."""

    @property
    def place(self) -> tuple[bool, bool, float]:
        """Sort key: what is lost first, then the nearest to its limit, what is not gated last."""
        return self.within, not self.is_gated, -self.use


def _share(rise: float, limit: float | None) -> float:
    if limit is None or rise <= 0:
        return 0.0
    return rise / limit if limit > 0 else math.inf
