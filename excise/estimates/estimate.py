"""An estimate for people and programs: what a job needs, whether it fits, and what would fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

from excise.estimates.cost import ROUNDS, Cost, compute_cost
from excise.estimates.machine import Machine, choose_dtype
from excise.estimates.memory import Footprint
from excise.estimates.prompts import JobSets
from excise.estimates.shape import ModelShape
from excise.names import ComputeDtype, Granularity, MachineSource, Stage
from excise.plurals import count_noun
from excise.specs.correction import CorrectionSpec

FILLED_SHARE = 0.9
"""Largest share of a memory or disk that a job may be planned to fill, because estimates are not
exact and other processes need some."""

WORTHWHILE_SHARE = 0.9
"""A setting that saves no memory is proposed if the job then takes at most this share of its time.
Chosen by hand."""

FEWER_TOKENS = 4
"""A proposal divides the number of reference tokens by this. Chosen by hand."""

LEAST_REFERENCE_TOKENS = 1024
"""Least reference text that a proposal leaves; with less, the general cost is mostly noise."""

LEAST_ROUNDS = 4
"""Fewest rounds that a proposal leaves. In the measured searches of single weights the first trial
within every limit was that of round two to five (benchmarks/RESULTS.md)."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class CheaperSetting(_Model):
    """One change of the spec with which the job would need less."""

    change: dict[str, Any]
    """Field → value, such as `{"dtype": "bfloat16"}`."""
    device_bytes: int
    host_bytes: int
    disk_bytes: int
    minutes: float
    fits: bool


class Estimate(_Model):
    """What a job needs on a machine, right within a factor of two."""

    machine: Machine
    device_bytes: int
    """Peak on the device; without a GPU it is part of the host's."""
    host_bytes: int
    """Peak of the job's process in main memory."""
    disk_bytes: int
    """Size in the artifact store, at the end."""
    minutes: float
    stages: dict[str, float]
    """Stage → seconds."""
    fits: bool
    problem: str | None = None
    """Which memory is too small, and by how much."""
    cheaper: list[CheaperSetting] = []
    """Changes that need less, those that fit first; if no single one fits, all of them together."""

    def __str__(self) -> str:
        """Return the lines that describe the estimate to a user."""
        machine = self.machine
        on_device = f" ({describe_bytes(machine.device_bytes)})" if machine.device_bytes else ""
        lines = [
            f"machine      {machine.device}{on_device}, {describe_bytes(machine.host_bytes)} of "
            f"main memory, {machine.flops / 1e9:.0f} GFLOP/s{self._describe_workers()}",
            f"memory       {describe_bytes(self.host_bytes)}"
            + (f", on the device {describe_bytes(self.device_bytes)}" if on_device else ""),
            f"disk         {describe_bytes(self.disk_bytes)} in the artifact store",
            f"time         {describe_minutes(self.minutes)}: "
            + ", ".join(f"{own} {self.stages[own]:.0f} s" for own in Stage if own in self.stages),
            f"fits         {'yes' if self.fits else f'no: it {self.problem}'}",
        ]
        for setting in self.cheaper:
            fits = "" if setting.fits else ", does not fit either"
            lines.append(
                f"cheaper      {describe_change(setting)}: {describe_bytes(setting.host_bytes)}, "
                + (f"device {describe_bytes(setting.device_bytes)}, " if on_device else "")
                + f"{describe_minutes(setting.minutes)}{fits}"
            )
        return "\n".join([*lines, "Estimates are right within a factor of two, not better."])

    def _describe_workers(self) -> str:
        """Return how many workers have such a machine, or "" if that is not known."""
        return ""


_EXAMPLE: JsonDict = {
    "machine": {
        "device": "cpu",
        "device_bytes": 0,
        "host_bytes": 25769803776,
        "disk_bytes": 107374182400,
        "flops": 2.7e11,
        "low_precision_flops": None,
        "bytes_per_second": 2e10,
    },
    "device_bytes": 43_900_000_000,
    "host_bytes": 44_500_000_000,
    "disk_bytes": 190_000_000,
    "minutes": 410.0,
    "stages": {"prepare": 1900, "attribute": 7700, "search": 8000, "validate": 6900, "package": 1},
    "fits": False,
    "problem": "needs 41.4 GiB of main memory, of 24.0 GiB",
    "cheaper": [
        {
            "change": {"dtype": "bfloat16", "attribution.granularity": "neuron"},
            "device_bytes": 16_600_000_000,
            "host_bytes": 17_200_000_000,
            "disk_bytes": 15_000_000,
            "minutes": 380.0,
            "fits": True,
        }
    ],
    "source": "worker",
    "workers": 2,
}


class JobEstimate(Estimate):
    """What a job needs on the machines available for it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    source: MachineSource
    """Who described the machine."""
    workers: int = 0
    """Number of live workers with such a machine; the slowest of them represents all."""

    @classmethod
    def of(cls, found: Estimate, source: MachineSource, workers: int = 0) -> Self:
        """Return `found` with the source of its machine."""
        return cls(**vars(found), source=source, workers=workers)

    def _describe_workers(self) -> str:
        return f" ({count_noun(self.workers, 'worker')})" if self.workers else ""


@dataclass(frozen=True)
class Question:
    """What is to be estimated."""

    spec: CorrectionSpec
    shape: ModelShape
    sets: JobSets


def estimate(question: Question, machine: Machine) -> Estimate:
    """Return what a correction needs on `machine`, with cheaper settings."""
    dtype = choose_dtype(question.spec.dtype, [machine])
    question = replace(question, spec=question.spec.model_copy(update={"dtype": dtype}))
    cost = _compute(question, machine)
    problem = describe_lack(cost.footprint, machine)
    return Estimate(
        machine=machine,
        **vars(cost.footprint),
        minutes=cost.total_seconds / 60,
        stages=dict(cost.seconds),
        fits=problem is None,
        problem=problem,
        cheaper=sorted(
            _list_cheaper(question, machine, cost), key=lambda own: (not own.fits, own.minutes)
        ),
    )


def describe_lack(needed: Footprint, machine: Machine) -> str | None:
    """Return which memory, or which disk, is too small for a job, or None if it fits."""
    if lack := _describe_memory_lack(needed, machine):
        return lack
    if machine.disk_bytes is not None and needed.disk_bytes > FILLED_SHARE * machine.disk_bytes:
        return (
            f"needs {describe_bytes(needed.disk_bytes)} where results are kept, of which "
            f"{describe_bytes(machine.disk_bytes)} are free"
        )
    return None


def _describe_memory_lack(needed: Footprint, machine: Machine) -> str | None:
    if machine.device_bytes and needed.device_bytes > FILLED_SHARE * machine.device_bytes:
        return (
            f"needs {describe_bytes(needed.device_bytes)} on the device, which has "
            f"{describe_bytes(machine.device_bytes)}"
        )
    if needed.host_bytes > FILLED_SHARE * machine.host_bytes:
        return (
            f"needs {describe_bytes(needed.host_bytes)} of main memory, of "
            f"{describe_bytes(machine.host_bytes)}"
        )
    return None


def explain_refusal(found: Estimate) -> str:
    """Return why a job that does not fit is not run, what would fit, and how to insist."""
    fitting = [setting for setting in found.cheaper if setting.fits]
    needed = Footprint(found.device_bytes, found.host_bytes, found.disk_bytes)
    if fitting:
        offers = "; ".join(_describe_offer(setting, found.machine) for setting in fitting)
        remedy = f"These would fit: {offers}."
    elif _describe_memory_lack(needed, found.machine) is None:
        remedy = "Make room there (delete jobs that are no longer needed), or add to it."
    else:
        remedy = "No cheaper setting would fit: use a larger machine, or a smaller model."
    return (
        f"The job {found.problem}, a tenth of which is left to others. {remedy} Estimates are "
        "right within a factor of two: set insist to true to have it tried as it is."
    )


def describe_change(setting: CheaperSetting) -> str:
    """Return a cheaper setting's change in the form shown to users: `dtype = bfloat16`."""
    return ", ".join(f"{name} = {value}" for name, value in setting.change.items())


def describe_bytes(count: float) -> str:
    """Return a number of bytes in the form shown to users: `3.2 GiB`, `540 MiB`."""
    gib = count / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{count / 2**20:.0f} MiB"


def describe_minutes(minutes: float) -> str:
    """Return a time in the form shown to users: `12 min`, `under a minute`."""
    return f"{minutes:.0f} min" if minutes >= 1 else "under a minute"


def _compute(question: Question, machine: Machine) -> Cost:
    return compute_cost(question.spec, question.shape, machine, question.sets)


def _describe_offer(setting: CheaperSetting, machine: Machine) -> str:
    if machine.device_bytes:
        memory = f"{describe_bytes(setting.device_bytes)} on the device"
    else:
        memory = f"{describe_bytes(setting.host_bytes)} of main memory"
    return f"{describe_change(setting)} ({memory}, {describe_minutes(setting.minutes)})"


def _list_cheaper(question: Question, machine: Machine, cost: Cost) -> list[CheaperSetting]:
    """Return changes of the spec that save memory or a tenth of the time.

    These are single changes and, if no single one makes the job fit, also all of those that save
    memory together.
    """
    tried = [_try(question, machine, change) for change in _list_changes(question.spec)]
    smaller = [own for own in tried if own.device_bytes < cost.footprint.device_bytes]
    is_too_large = describe_lack(cost.footprint, machine) is not None
    if is_too_large and len(smaller) > 1 and not any(own.fits for own in tried):
        together = {name: value for own in smaller for name, value in own.change.items()}
        tried.append(_try(question, machine, together))
    most = WORTHWHILE_SHARE * cost.total_seconds / 60
    return [own for own in tried if own in smaller or len(own.change) > 1 or own.minutes <= most]


def _try(question: Question, machine: Machine, change: Mapping[str, Any]) -> CheaperSetting:
    changed = Question(_apply(question.spec, change), question.shape, question.sets)
    found = _compute(changed, machine)
    return CheaperSetting(
        change=dict(change),
        **vars(found.footprint),
        minutes=found.total_seconds / 60,
        fits=describe_lack(found.footprint, machine) is None,
    )


def _list_changes(spec: CorrectionSpec) -> Iterator[Mapping[str, Any]]:
    if spec.dtype is not ComputeDtype.BFLOAT16:
        yield {"dtype": ComputeDtype.BFLOAT16.value}
    searched = spec.attribution.granularities
    if Granularity.WEIGHT in searched and len(searched) > 1:
        yield {"attribution.granularity": Granularity.WEIGHT.value}
    if Granularity.WEIGHT in searched:
        yield {"attribution.granularity": Granularity.NEURON.value}
    tokens = spec.attribution.reference_tokens
    if tokens > LEAST_REFERENCE_TOKENS:
        yield {"attribution.reference_tokens": max(tokens // FEWER_TOKENS, LEAST_REFERENCE_TOKENS)}
    if (spec.search.rounds or ROUNDS) > LEAST_ROUNDS:
        yield {"search.rounds": LEAST_ROUNDS}


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
