"""Estimates on the wire: what a job will take, before it is submitted."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from excise.estimates.estimate import JobEstimate
from excise.estimates.machine import GivenMachine
from excise.specs import CorrectionSpec


class EstimateRequest(BaseModel):
    """What is to be estimated."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    spec: CorrectionSpec
    """The job, as it would be submitted; only corrections are estimated."""
    machine: GivenMachine | None = None
    """The machine to estimate for, as `excise estimate --json` prints one; by default those of the
    workers that are alive."""


class EstimateView(BaseModel):
    """What a job takes, right within a factor of two."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    object: Literal["estimate"] = "estimate"
    model: str
    fits: bool
    """On every machine below: any worker may take the job."""
    note: str | None
    """What is to be known about the machines."""
    data: list[JobEstimate]
    """One for each kind of machine: those on which the job does not fit first, then the slowest."""
