"""Gates: limits against measured values."""

from __future__ import annotations

from excise.names import GateBound, GateGroup
from excise.reports.model import ReportModel


class GateResult(ReportModel):
    """One limit of the job spec and its measured value; an unmeasured gate counts as failed."""

    name: str
    sentence: str
    """What the gate requires, in words for readers."""
    limit: float
    value: float | None
    passed: bool
    unit: str = ""
    """Unit of `limit` and `value`, such as `relative` or `nats a token`; empty if there is none."""
    group: GateGroup | None = None
    bound: GateBound | None = None
    """The side of the limit on which the value must lie."""
    ci_low: float | None = None
    """Lower end of the value's 95 % interval; None if it has no interval."""
    ci_high: float | None = None
    before: float | None = None
    """The base model's figure; the value was computed from it and from `after`."""
    after: float | None = None
    count: int | None = None
    """Number of prompts, questions or text samples that the value was computed from."""
    unmeasured: str | None = None
    """Why there is no value."""
    note: str | None = None
    """A note that helps to judge the value."""
    remedy: str | None = None
    """For a gate that was not met, the likely cause and what to do about it."""

    @property
    def is_met(self) -> bool:
        """Whether it was measured and met; a gate that was not measured is not met."""
        return self.passed and self.value is not None

    @property
    def is_close(self) -> bool:
        """Whether the limit lies within the value's interval, so that chance may have decided."""
        if self.ci_low is None or self.ci_high is None:
            return False
        return self.ci_low < self.limit < self.ci_high
