"""Gates: limits against measured values."""

from __future__ import annotations

from excise.names import GateBound, GateGroup
from excise.reports.model import ReportModel


class GateResult(ReportModel):
    """One limit of the job spec against its measured value; unmeasured counts as failed."""

    name: str
    sentence: str
    """What the gate demands, in words a reader understands."""
    limit: float
    value: float | None
    passed: bool
    unit: str = ""
    """Unit of `limit` and `value`, such as `relative` or `nats a token`; empty where there is none."""
    group: GateGroup | None = None
    bound: GateBound | None = None
    """On which side of the limit the value must lie."""
    ci_low: float | None = None
    """95 % interval of the value; None where it has none."""
    ci_high: float | None = None
    before: float | None = None
    """The base model's own figure, from which the value was computed with `after`'s."""
    after: float | None = None
    count: int | None = None
    """Prompts, questions or text samples behind the value."""
    unmeasured: str | None = None
    """Why there is no value."""
    note: str | None = None
    """What a reader must know to judge the value by."""
    remedy: str | None = None
    """Of a gate that was not met: what may have caused it, and what to do about it."""

    @property
    def is_met(self) -> bool:
        """Whether it was measured and met; what was not measured is not met."""
        return self.passed and self.value is not None
