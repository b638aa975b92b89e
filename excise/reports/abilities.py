"""The part of a report about abilities: one entry per slice."""

from __future__ import annotations

import math

from pydantic import BaseModel, FiniteFloat

from excise.reports.model import ReportModel


class AbilityFigures(BaseModel):
    """Figures of one slice before and after the correction, and how far they may fall."""

    name: str
    """Name of the slice, as in `gates.abilities.slices`."""
    sentence: str
    """What the model does there, as words that complete "can no longer …"."""
    accuracy_before: FiniteFloat
    accuracy_after: FiniteFloat
    max_accuracy_fall: FiniteFloat | None
    """As a fraction; None if the spec limits only nats."""
    nats_change: FiniteFloat
    """Change of the right continuations' loss, nats per token; a rise is damage."""
    max_nats_rise: FiniteFloat | None

    @property
    def use(self) -> float:
        """Share of its limit used up, for the figure that uses more of it; 0 if nothing fell."""
        fall = self.accuracy_before - self.accuracy_after
        return max(
            _share(self.nats_change, self.max_nats_rise), _share(fall, self.max_accuracy_fall)
        )

    @property
    def right(self) -> str:
        """The share of items that are right, before and after, as text."""
        return f"{100 * self.accuracy_before:.0f} % → {100 * self.accuracy_after:.0f} %"


class AbilityChange(AbilityFigures, ReportModel):
    """The change of one slice of a model's abilities."""

    area: str
    items: int
    nats_before: float
    """Negative log-likelihood of the right continuations, nats per token."""
    nats_interval: tuple[float, float]
    """95 % interval of the change, over items."""
    accuracy_interval: tuple[float, float]
    """95 % interval of after − before, over items."""
    control_nats_change: float | None = None
    """The same change after pruning as many random components; None if not measured."""
    control_accuracy_change: float | None = None
    is_gated: bool
    """Whether the base is able enough that a fall means something."""
    within: bool
    """Whether the changes are within their limits; true if it is not gated."""

    @property
    def place(self) -> tuple[bool, bool, float]:
        """Sort key: lost slices first, then the nearest to their limits, ungated ones last."""
        return self.within, not self.is_gated, -self.use


def _share(rise: float, limit: float | None) -> float:
    if limit is None or rise <= 0:
        return 0.0
    return rise / limit if limit > 0 else math.inf
