"""An estimate as people and programs read it: what a job takes, whether it fits, what would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from excise.estimates.cost import Cost, SetSize, compute_cost
from excise.estimates.machine import Machine
from excise.estimates.shape import ModelShape
from excise.names import ComputeDtype, Granularity
from excise.specs.correction import CorrectionSpec

HEADROOM = 0.9
"""Share of a memory that a job may be planned to fill: estimates are not exact, and other
processes need some."""

FEWER = 4
"""By how much sizes are divided in a cheaper setting that is proposed."""

LEAST_REFERENCE_TOKENS = 1024
"""Reference text that a proposal leaves; with less the general cost is mostly noise."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class CheaperSetting(_Model):
    """One change of the spec by which the job would take less."""

    change: dict[str, Any]
    """Field → value, such as `{"dtype": "bfloat16"}`."""
    device_bytes: int
    host_bytes: int
    minutes: float
    fits: bool


class Estimate(_Model):
    """What a job takes on a machine, right within a factor of two."""

    machine: Machine
    device_bytes: int
    """Peak on the device; where there is no GPU it is part of the host's."""
    host_bytes: int
    """Peak of the job's process in main memory."""
    disk_bytes: int
    """In the artifact store, at the end."""
    minutes: float
    stages: dict[str, float]
    """Stage → seconds."""
    fits: bool
    problem: str | None = None
    """Which memory is too small, and by how much."""
    cheaper: list[CheaperSetting] = []
    """Changes that take less, those that fit first."""


@dataclass(frozen=True)
class Question:
    """What is to be estimated."""

    spec: CorrectionSpec
    shape: ModelShape
    behaviours: Sequence[SetSize]
    """Sizes of the behaviours' prompt sets, in their order."""


def estimate(question: Question, machine: Machine) -> Estimate:
    """Return what a correction takes on `machine`, with cheaper settings beside it."""
    cost = _compute(question, machine)
    problem = describe_lack(cost, machine)
    return Estimate(
        machine=machine,
        device_bytes=cost.device_bytes,
        host_bytes=cost.host_bytes,
        disk_bytes=cost.disk_bytes,
        minutes=cost.total_seconds / 60,
        stages=dict(cost.seconds),
        fits=problem is None,
        problem=problem,
        cheaper=sorted(
            _list_cheaper(question, machine, cost), key=lambda own: (not own.fits, own.minutes)
        ),
    )


def describe_lack(cost: Cost, machine: Machine) -> str | None:
    """Return which memory is too small for a job, or None where it fits."""
    if machine.device_bytes and cost.device_bytes > HEADROOM * machine.device_bytes:
        return (
            f"needs {describe_bytes(cost.device_bytes)} on the device, which has "
            f"{describe_bytes(machine.device_bytes)}"
        )
    if cost.host_bytes > HEADROOM * machine.host_bytes:
        return (
            f"needs {describe_bytes(cost.host_bytes)} of main memory, of "
            f"{describe_bytes(machine.host_bytes)}"
        )
    return None


def describe_bytes(count: float) -> str:
    """Return a number of bytes for people: `3.2 GiB`, `540 MiB`."""
    gib = count / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{count / 2**20:.0f} MiB"


def _compute(question: Question, machine: Machine) -> Cost:
    return compute_cost(question.spec, question.shape, machine, question.behaviours)


def _list_cheaper(question: Question, machine: Machine, cost: Cost) -> Iterator[CheaperSetting]:
    """Yield single changes of the spec that save memory or a tenth of the time."""
    for change in _list_changes(question.spec):
        changed = Question(_apply(question.spec, change), question.shape, question.behaviours)
        found = _compute(changed, machine)
        saves_memory = found.device_bytes < cost.device_bytes
        if not saves_memory and found.total_seconds > HEADROOM * cost.total_seconds:
            continue
        yield CheaperSetting(
            change=dict(change),
            device_bytes=found.device_bytes,
            host_bytes=found.host_bytes,
            minutes=found.total_seconds / 60,
            fits=describe_lack(found, machine) is None,
        )


def _list_changes(spec: CorrectionSpec) -> Iterator[Mapping[str, Any]]:
    if spec.dtype is not ComputeDtype.BFLOAT16:
        yield {"dtype": ComputeDtype.BFLOAT16.value}
    if Granularity.WEIGHT in spec.attribution.granularities:
        yield {"attribution.granularity": Granularity.NEURON.value}
    tokens = spec.attribution.reference_tokens
    if tokens > LEAST_REFERENCE_TOKENS:
        yield {"attribution.reference_tokens": max(tokens // FEWER, LEAST_REFERENCE_TOKENS)}
    if (spec.search.rounds or FEWER) > 2:
        yield {"search.rounds": 2}


def _apply(spec: CorrectionSpec, change: Mapping[str, Any]) -> CorrectionSpec:
    """Return the spec with dotted fields changed; amounts of one granularity go with it."""
    document = spec.model_dump(mode="json", exclude_unset=True)
    for field, value in change.items():
        *parts, last = field.split(".")
        place = document
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
        if field == "attribution.granularity":
            document.get("search", {}).pop("amounts", None)
    return CorrectionSpec.model_validate(document)
