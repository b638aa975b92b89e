"""What a row of the table of gates holds, and the words of its remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.names import GateBound, GateGroup
from excise.reports.gates import GateResult
from workers.measuring.estimates import Estimator

LESS = "give smaller search.amounts or a smaller budget, so that less is pruned"


@dataclass(frozen=True)
class Remedy:
    """What may have caused that a gate is unmet, and what to do about it.

    `{subject}` stands for the prompt set, task or behaviour, `{part}` for the field of the spec
    that holds the limits of its responses, `{limit}` for the one among them that is the gate's.
    """

    cause: str
    job: str
    """What to do in a job."""
    gate: str | None = None
    """In `excise gate`, whose limits are in other fields; None where the job's words do."""

    def write(self, subject: str, part: str, limit: str, *, of_job: bool) -> str:
        """Return the cause and what to do, in a job or in `excise gate`."""
        what = self.job if of_job or self.gate is None else self.gate
        return f"{self.cause} {what}".format(subject=subject, part=part, limit=limit)


@dataclass(frozen=True)
class Gate:
    """One row of the table: what is demanded, of what, and how it is computed."""

    name: str
    group: GateGroup
    unit: str
    """Of limit and value; "" where they have none."""
    bound: GateBound
    sentence: str
    """What is demanded; `{subject}` stands for the prompt set, task or behaviour, and an engine
    may fill in more."""
    remedy: Remedy
    estimate: Estimator | None = None
    """From two model states to the figure; None where an engine brings the figure."""
    subject: str = ""
    """What is looked at unless something else is named."""
    limit: str = ""
    """Field of `ResponseLimitsSpec` that asks for the gate; "" where another part of a spec
    does."""
    spoken: str = "{name}:{subject}"
    """What a result is called whose subject is not the row's own."""

    def call(self, subject: str) -> str:
        """Return the name of a result about `subject`."""
        if subject == self.subject:
            return self.name
        return self.spoken.format(name=self.name, subject=subject)


@dataclass(frozen=True)
class Figure:
    """What a gate's limit is compared with, and what a reader must know to judge it by."""

    value: float | None
    """None where it could not be measured."""
    ci_low: float | None = None
    ci_high: float | None = None
    before: float | None = None
    after: float | None = None
    count: int | None = None
    """Prompts, questions or samples behind the value."""
    unmeasured: str | None = None
    """Why there is no value."""
    note: str | None = None


def judge_figure(
    gate: Gate,
    limit: float,
    figure: Figure,
    subject: str | None = None,
    words: Mapping[str, str] | None = None,
) -> GateResult:
    """Return whether `figure` is on the right side of `limit`; without a value it is not.

    `words` fill in what the gate's sentence leaves open; by default `{subject}`, as it is read.
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
    """Return the remedy of a gate on responses, whose limit is one of theirs."""
    return Remedy(
        cause,
        f"Read the responses in the report; {LESS}, or set {{part}}.{{limit}} to what you accept.",
        "Read what the checkpoint answers, and train it on texts of these prompts' kind, or set "
        "{part}.{limit} to what you accept.",
    )


def remedy_refusals(cause: str, field: str) -> Remedy:
    """Return the remedy of a gate on refusals, whose limit is `field`."""
    return Remedy(
        cause,
        f"{LESS[0].upper()}{LESS[1:]}, put such prompts with good answers into reference, or "
        f"set gates.{field} to what you accept.",
        f"Train on such prompts with good answers, or set {field} to what you accept.",
    )
