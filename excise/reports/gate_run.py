"""The schema of the gate.json that `excise gate` writes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.names import GateOutcome, Trend
from excise.reports.abilities import AbilityChange
from excise.reports.common import ModelIdentity
from excise.reports.gates import GateResult
from excise.reports.model import ReportModel
from excise.reports.token_limits import TokenLimitUse


class GateExample(ReportModel):
    """A prompt, and the responses of both checkpoints."""

    behaviour: str
    """Name of the behaviour or prompt set."""
    prompt: str
    before: tuple[str, ...]
    """Responses of the checkpoint compared with, without reasoning."""
    after: tuple[str, ...]
    """Responses of the checkpoint that was judged."""
    shown: int | None = None
    """Number of the latter that show the behaviour; None for a prompt set without one."""


class FigureChange(ReportModel):
    """One figure of this run, compared with the same figure of an earlier run."""

    name: str
    """Name of a gate, or `ability:` and the name of a slice."""
    trend: Trend
    is_clear: bool
    """Whether the two 95 % intervals do not overlap; for a figure without interval, whether it
    changed. A figure that is no longer measured is always clear."""
    earlier: float | None
    """None if the earlier run did not measure it."""
    now: float | None
    """None if this run did not measure it."""


class RunComparison(ReportModel):
    """Comparison of this run with an earlier one of `excise gate`."""

    model: ModelIdentity
    """The checkpoint that the earlier run judged."""
    outcome: GateOutcome
    """Outcome of the earlier run."""
    obstacle: str | None = None
    """Why the two runs cannot be compared; None if they can."""
    caution: str | None = None
    """Why differences are doubtful; None if they are not."""
    changes: list[FigureChange] = Field(default_factory=list)
    """All figures of either run, in this run's order; empty if they cannot be compared."""

    @property
    def clearly_worse(self) -> list[FigureChange]:
        """The figures that are clearly worse or no longer measured."""
        bad = {Trend.WORSE, Trend.LOST}
        return [change for change in self.changes if change.trend in bad and change.is_clear]


class GateReport(ReportModel):
    """The gates of one checkpoint against another, as `gate.json` holds them."""

    schema_version: Literal[2] = 2
    outcome: GateOutcome
    """`passed` only if every gate asked for was measured and met."""
    model: ModelIdentity
    """The checkpoint that was judged."""
    against: ModelIdentity
    """The checkpoint it was compared with."""
    is_against_cached: bool = False
    """Whether an earlier run with the same configuration measured it."""
    measure_sha256: str | None = None
    """Hash of all that both were asked, in tokens; None in files from before it was said."""
    behaviours_sha256: dict[str, str] = Field(default_factory=dict)
    """Behaviour → hash of how it is found (phrases, threshold, evaluators …); limits are no part of
    it. Empty in files from before it was said."""
    notes: list[str] = Field(default_factory=list)
    """What else a reader must know of the two checkpoints, a sentence each."""
    gates: list[GateResult]
    abilities: list[AbilityChange] = Field(default_factory=list)
    """The change of each slice of the model's abilities."""
    token_limits: list[TokenLimitUse] = Field(default_factory=list)
    """For each set of prompts, how many answers were cut off; empty in older files."""
    examples: list[GateExample] = Field(default_factory=list)
    """Responses to prompts of each behaviour and prompt set with a gate that was not met."""
    comparison: RunComparison | None = None
    """Comparison with an earlier run, if one was given."""
    not_asked: list[str]
    """Parts of the configuration that asked for no gate."""
    dtype: str
    """Number format in which both were computed."""
    seed: int
    versions: dict[str, str]
