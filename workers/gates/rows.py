"""The types of rows in the table of gates, and the wording of remedies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from excise.names import GateBound, GateGroup
from excise.reports.gates import GateResult
from workers.measuring.estimates import Estimator

LEAST_LENGTH_ON_LOOPS = 0.5
"""Smallest length, relative to the base's, of responses to prompts that cause repetition: once its
loop is broken, a response may end. Chosen by hand."""

LESS = "give smaller search.amounts or a smaller budget, so that less is pruned"


@dataclass(frozen=True)
class Remedy:
    """The likely cause of an unmet gate, and what to do about it.

    `{subject}` stands for the prompt set, task or behaviour, `{part}` for the field of the spec
    with the limits on its responses, and `{limit}` for the gate's field among these.
    """

    cause: str
    job: str
    """What to do in a job."""
    gate: str | None = None
    """What to do in `excise gate`, whose limits are in other fields; None means the same text."""

    def write(self, subject: str, part: str, limit: str, *, of_job: bool) -> str:
        """Return the cause and what to do, worded for a job or for `excise gate`."""
        what = self.job if of_job or self.gate is None else self.gate
        return f"{self.cause} {what}".format(subject=subject, part=part, limit=limit)


def keep_limit(limit: float) -> float | None:
    """Return the limit, which holds for prompts that cause repetition as for any others."""
    return limit


def drop_limit(limit: float) -> float | None:  # noqa: ARG001 - one of three such rules
    """Return None: responses to prompts that cause repetition are meant to change in this."""
    return None


def relax_length(limit: float) -> float | None:
    """Return the limit on length for prompts that cause repetition."""
    return min(limit, LEAST_LENGTH_ON_LOOPS)


@dataclass(frozen=True)
class Gate:
    """One row of the table: the requirement, its subject, and how its figure is computed."""

    name: str
    group: GateGroup
    unit: str
    """Unit of limit and value; "" if there is none."""
    bound: GateBound
    sentence: str
    """The requirement; `{subject}` stands for the prompt set, task or behaviour, and an engine may
    fill in further fields."""
    remedy: Remedy
    estimate: Estimator | None = None
    """Computes the figure from two model states; None if an engine provides the figure."""
    subject: str = ""
    """The default subject."""
    limit_field: str = ""
    """Field of `ResponseLimitsSpec` that asks for the gate; "" if another part of a spec does."""
    on_loops: Callable[[float], float | None] = keep_limit
    """Returns the limit for prompts on which the base loops; None where the end of the loops alone
    would move the figure."""
    spoken: str = "{name}:{subject}"
    """Name of a result whose subject is not the default."""

    def call(self, subject: str) -> str:
        """Return the name of a result about `subject`."""
        if subject == self.subject:
            return self.name
        return self.spoken.format(name=self.name, subject=subject)


@dataclass(frozen=True)
class Figure:
    """The value that is compared with a gate's limit, and what is shown beside it."""

    value: float | None
    """None if it could not be measured."""
    ci_low: float | None = None
    ci_high: float | None = None
    before: float | None = None
    after: float | None = None
    count: int | None = None
    """Number of prompts, questions or samples it was computed from."""
    unmeasured: str | None = None
    """The reason why there is no value."""
    note: str | None = None


def judge_figure(
    gate: Gate,
    limit: float,
    figure: Figure,
    subject: str | None = None,
    words: Mapping[str, str] | None = None,
) -> GateResult:
    """Return the gate's result: met if `figure` has a value on the right side of `limit`.

    `words` fill in the fields of the gate's sentence; by default only `{subject}` is filled in.
    """
    about = gate.subject if subject is None else subject
    return GateResult(
        name=gate.call(about),
        sentence=gate.sentence.format(**(words or {"subject": about.replace("_", "-")})),
        limit=limit,
        value=figure.value,
        passed=figure.value is not None and gate.bound.is_met(figure.value, limit),
        unit=gate.unit,
        group=gate.group,
        bound=gate.bound,
        ci_low=figure.ci_low,
        ci_high=figure.ci_high,
        before=figure.before,
        after=figure.after,
        count=figure.count,
        unmeasured=figure.unmeasured,
        note=figure.note,
    )


def remedy_responses(cause: str) -> Remedy:
    """Return the remedy of a gate on responses, with the given cause."""
    return Remedy(
        cause,
        f"Read the responses in the report; {LESS}, or set {{part}}.{{limit}} to what you accept.",
        "Let the checkpoint answer these prompts, and train it on texts of their kind, or set "
        "{part}.{limit} to what you accept.",
    )


def remedy_refusals(cause: str, field: str) -> Remedy:
    """Return the remedy of a gate on refusals, with the given cause and the field of its limit."""
    return Remedy(
        cause,
        f"{LESS[0].upper()}{LESS[1:]}, put such prompts with good answers into reference, or "
        f"set gates.{field} to what you accept.",
        f"Train on such prompts with good answers, or set {field} to what you accept.",
    )
