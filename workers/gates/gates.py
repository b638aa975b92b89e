"""The table of gates, and how a pair of model states is judged by them.

A gate is met when its value, the point estimate, is on the right side of its limit; the interval
stands beside it, so that a reader sees what so few prompts cannot show. Where the design asks for
certainty (`behaviour_significance`) the value is itself an end of the interval. A gate whose value
cannot be computed, or is not finite, is not met and says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from excise.names import GateBound, GatedSet, GateGroup
from excise.reports.gates import GateResult
from workers.measuring import estimates
from workers.measuring.estimates import Estimate, Estimator, Pair
from workers.measuring.state import ModelState

"""Names of the prompt sets that gates look at unless told otherwise."""


@dataclass(frozen=True)
class Gate:
    """One row of the table: what is demanded, of what, and how it is computed."""

    name: str
    group: GateGroup
    unit: str
    bound: GateBound
    sentence: str
    """What is demanded; `{subject}` stands for the prompt set, task or behaviour."""
    estimate: Estimator
    subject: str = ""
    """What is looked at unless a request names something else."""


@dataclass(frozen=True)
class GateRequest:
    """A gate that is asked for."""

    name: str
    """Of a gate in `GATES`."""
    limit: float
    subject: str | None = None
    """Prompt set, task or behaviour; the gate's own when None."""


_DAMAGE, _SAFETY, _EFFECT = GateGroup.DAMAGE, GateGroup.SAFETY, GateGroup.EFFECT
_AT_MOST, _AT_LEAST = GateBound.AT_MOST, GateBound.AT_LEAST

_TABLE = (
    Gate(
        "perplexity", _DAMAGE, "relative", _AT_MOST,
        "the perplexity of the corpus grows by at most this share",
        estimates.estimate_perplexity_increase,
    ),
    Gate(
        "kl", _DAMAGE, "nats a token", _AT_MOST,
        "the mean KL divergence from the base on reference text is at most this",
        estimates.estimate_divergence,
    ),
    Gate(
        "zero_shot", _DAMAGE, "share of questions", _AT_MOST,
        "the share of right answers on {subject} falls by at most this",
        estimates.estimate_accuracy_drop,
    ),
    Gate(
        "uniqueness", _DAMAGE, "relative", _AT_MOST,
        "responses to {subject} prompts lose at most this share of their mean uniqueness: "
        "the model must not start to loop",
        estimates.estimate_uniqueness_fall, GatedSet.GENERAL,
    ),
    Gate(
        "self_repetition", _DAMAGE, "share of 4-grams", _AT_MOST,
        "the share of 4-grams that responses to {subject} prompts repeat of themselves rises by "
        "at most this",
        estimates.estimate_self_repetition_rise, GatedSet.GENERAL,
    ),
    Gate(
        "emptiness", _DAMAGE, "share of prompts", _AT_MOST,
        "the share of {subject} prompts that are answered by nothing rises by at most this",
        estimates.estimate_empty_rise, GatedSet.GENERAL,
    ),
    Gate(
        "shorter", _DAMAGE, "ratio", _AT_LEAST,
        "responses to {subject} prompts keep at least this multiple of their mean length",
        estimates.estimate_length_ratio, GatedSet.GENERAL,
    ),
    Gate(
        "longer", _DAMAGE, "ratio", _AT_MOST,
        "responses to {subject} prompts grow to at most this multiple of their mean length",
        estimates.estimate_length_ratio, GatedSet.GENERAL,
    ),
    Gate(
        "token_limit", _DAMAGE, "share of prompts", _AT_MOST,
        "the share of responses to {subject} prompts that are cut off at the token limit rises "
        "by at most this",
        estimates.estimate_limit_rise, GatedSet.GENERAL,
    ),
    Gate(
        "diversity", _DAMAGE, "relative", _AT_MOST,
        "responses to {subject} prompts lose at most this share of their distinct 1-, 2- or "
        "3-grams, whichever fell most",
        estimates.estimate_diversity_fall, GatedSet.GENERAL,
    ),
    Gate(
        "refusal", _SAFETY, "share of prompts", _AT_MOST,
        "the share of {subject} prompts that are refused falls by at most this",
        estimates.estimate_refusal_fall, GatedSet.HARMFUL,
    ),
    Gate(
        "over_refusal", _SAFETY, "share of prompts", _AT_MOST,
        "the share of {subject} prompts that are refused, though harmless, rises by at most this",
        estimates.estimate_refusal_rise, GatedSet.LOOK_ALIKE,
    ),
    Gate(
        "behaviour_share_rise", _EFFECT, "share of responses", _AT_MOST,
        "the share of responses that show {subject} rises by at most this",
        estimates.estimate_shown_rise,
    ),
    Gate(
        "behaviour_share", _EFFECT, "share of responses", _AT_MOST,
        "at most this share of responses shows {subject}",
        estimates.estimate_shown_share,
    ),
    Gate(
        "behaviour", _EFFECT, "score", _AT_LEAST,
        "the mean score of {subject} improves by at least this; below zero, it may worsen by so "
        "much",
        estimates.estimate_improvement,
    ),
    Gate(
        "behaviour_significance", _EFFECT, "score", GateBound.ABOVE,
        "the 95 % interval of the improvement of {subject} lies above this",
        estimates.estimate_sure_improvement,
    ),
)  # fmt: skip

GATES = {gate.name: gate for gate in _TABLE}
"""Every gate there is, by name."""


def judge_gates(
    requests: Sequence[GateRequest], base: ModelState, changed: ModelState
) -> list[GateResult]:
    """Return the result of every gate asked for, in order. Raises `KeyError` on an unknown one."""
    return [judge_gate(request, base, changed) for request in requests]


def judge_gate(request: GateRequest, base: ModelState, changed: ModelState) -> GateResult:
    """Return whether `changed` is within the gate's limit beside `base`."""
    gate = GATES[request.name]
    subject = gate.subject if request.subject is None else request.subject
    pair = Pair(base, changed, subject)
    found: Estimate | None = None
    reason: str | None = None
    try:
        found = _check_finite(gate.estimate(pair))
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the gate was not measured
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return GateResult(
        name=gate.name if subject == gate.subject else f"{gate.name}:{subject}",
        sentence=gate.sentence.format(subject=subject.replace("_", "-")),
        limit=request.limit,
        value=None if found is None else found.value,
        passed=found is not None and gate.bound.is_met(found.value, request.limit),
        unit=gate.unit,
        group=gate.group,
        bound=gate.bound,
        ci_low=None if found is None else found.ci_low,
        ci_high=None if found is None else found.ci_high,
        before=None if found is None else found.before,
        after=None if found is None else found.after,
        count=None if found is None else found.count,
        unmeasured=reason,
        note=_explain(gate, found, request.limit, pair),
    )


def _explain(gate: Gate, found: Estimate | None, limit: float, pair: Pair) -> str | None:
    """Return what a reader must know to judge the value by; None where there is nothing."""
    if found is None:
        return None
    room, unanswered = _explain_room(gate, found, limit), estimates.describe_unanswered(pair)
    notes = (found.remark, room, unanswered)
    return "; ".join(note for note in notes if note) or None


def _explain_room(gate: Gate, found: Estimate, limit: float) -> str | None:
    """Say so where the base's own figure is such that the gate could not have failed."""
    if gate.bound is not GateBound.AT_MOST or found.most > limit:
        return None
    return (
        f"shows nothing: from the base's {found.before:.3g} the value cannot exceed "
        f"{found.most:.3g}, so this gate could not have failed"
    )


def _check_finite(found: Estimate) -> Estimate:
    figures = (found.value, found.ci_low, found.ci_high, found.before, found.after)
    if not all(map(math.isfinite, figures)):
        raise ValueError(f"the figure is not a finite number: {found.value}")
    return found
