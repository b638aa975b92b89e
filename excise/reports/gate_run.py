"""The schema of the gate.json that `excise gate` writes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.names import GateOutcome, Trend
from excise.reports.abilities import AbilityChange
from excise.reports.common import ModelIdentity
from excise.reports.gates import GateResult
from excise.reports.model import ReportModel


class GateExample(ReportModel):
    """A prompt, and what both checkpoints answered."""

    behaviour: str
    prompt: str
    before: tuple[str, ...]
    """Responses of the checkpoint compared with, what follows the reasoning."""
    after: tuple[str, ...]
    """Responses of the checkpoint that was judged."""
    shown: int
    """How many of the latter show the behaviour."""


class FigureChange(ReportModel):
    """One figure of this run beside the same of an earlier one."""

    name: str
    """Of a gate, or `ability:` and the name of a slice."""
    trend: Trend
    is_clear: bool
    """Whether the 95 % intervals of both do not meet; of a figure without one, whether it moved.
    What was lost is clear."""
    earlier: float | None
    """None where the earlier run did not measure it."""
    now: float | None
    """None where this run did not."""


class RunComparison(ReportModel):
    """This run beside an earlier one of `excise gate`."""

    model: ModelIdentity
    """The checkpoint that the earlier run judged."""
    outcome: GateOutcome
    """Of the earlier run."""
    obstacle: str | None = None
    """Why the two cannot be compared; None where they can."""
    caution: str | None = None
    """What makes differences doubtful; None where nothing does."""
    changes: list[FigureChange] = Field(default_factory=list)
    """Every figure of either run, this run's in order; empty where they cannot be compared."""

    @property
    def clearly_worse(self) -> list[FigureChange]:
        """What is worse, or no longer measured, beyond what so many prompts leave to chance."""
        bad = {Trend.WORSE, Trend.LOST}
        return [change for change in self.changes if change.trend in bad and change.is_clear]


class GateReport(ReportModel):
    """The gates of one checkpoint against another, as `gate.json` holds them."""

    schema_version: Literal[2] = 2
    outcome: GateOutcome
    """`passed` only where every gate asked for was measured and met."""
    model: ModelIdentity
    """The checkpoint that was judged."""
    against: ModelIdentity
    """The checkpoint it was compared with."""
    is_against_cached: bool = False
    """Whether an earlier run measured it, in the same configuration."""
    measure_sha256: str | None = None
    """Hash of all that both were asked, in tokens; None in files from before it was said."""
    notes: list[str] = Field(default_factory=list)
    """What else a reader must know of the two checkpoints, a sentence each."""
    gates: list[GateResult]
    abilities: list[AbilityChange] = Field(default_factory=list)
    """What became of each slice of the model's abilities."""
    examples: list[GateExample] = Field(default_factory=list)
    """Responses that show a behaviour of which a gate was not met."""
    comparison: RunComparison | None = None
    """This run beside an earlier one, where one was named."""
    not_asked: list[str]
    """Parts of the configuration that asked for nothing."""
    dtype: str
    """What both were computed in."""
    seed: int
    versions: dict[str, str]
