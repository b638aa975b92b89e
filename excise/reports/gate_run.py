"""The schema of the gate.json that `excise gate` writes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.names import GateOutcome
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


class GateReport(ReportModel):
    """The gates of one checkpoint against another, as `gate.json` holds them."""

    schema_version: Literal[2] = 2
    outcome: GateOutcome
    """`passed` only where every gate asked for was measured and met."""
    model: ModelIdentity
    """The checkpoint that was judged."""
    against: ModelIdentity
    """The checkpoint it was compared with."""
    gates: list[GateResult]
    abilities: list[AbilityChange] = Field(default_factory=list)
    """What became of each slice of the model's abilities."""
    examples: list[GateExample] = Field(default_factory=list)
    """Responses that show a behaviour of which a gate was not met."""
    not_asked: list[str]
    """Parts of the configuration that asked for nothing."""
    dtype: str
    """What both were computed in."""
    seed: int
    versions: dict[str, str]
