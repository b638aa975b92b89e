"""Judging a pair of model states by the gates that are asked for.

A gate is met if its value, a point estimate, is on the right side of its limit. The interval is
shown beside it, so that readers see how uncertain the value is. Where certainty is required
(`behaviour_significance`), the value itself is an end of the interval. A gate whose value cannot be
computed or is not finite is not met and says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from excise.names import GateBound
from excise.reports.gates import GateResult
from workers.gates.rows import Figure, Gate, judge_figure
from workers.gates.table import GATES
from workers.measuring import estimates
from workers.measuring.estimates import Estimate, Pair
from workers.measuring.state import ModelState


@dataclass(frozen=True)
class GateRequest:
    """A gate that is asked for."""

    name: str
    """Name of a gate in `GATES`."""
    limit: float
    subject: str | None = None
    """Prompt set, task or behaviour; None means the gate's default."""


def judge_gates(
    requests: Sequence[GateRequest], base: ModelState, changed: ModelState
) -> list[GateResult]:
    """Return the result of each requested gate, in order. Raises `KeyError` for an unknown gate."""
    return [judge_gate(request, base, changed) for request in requests]


def judge_gate(request: GateRequest, base: ModelState, changed: ModelState) -> GateResult:
    """Return whether `changed`, compared with `base`, is within the gate's limit."""
    gate = GATES[request.name]
    subject = gate.subject if request.subject is None else request.subject
    figure = _measure(gate, Pair(base, changed, subject), request.limit)
    return judge_figure(gate, request.limit, figure, subject)


def _measure(gate: Gate, pair: Pair, limit: float) -> Figure:
    """Return the pair's figure, or the reason why there is none."""
    assert gate.estimate is not None, "no gate of GATES waits for an engine's figure"
    try:
        found = _check_finite(gate.estimate(pair))
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the gate was not measured
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return Figure(None, unmeasured=f"{kind}{error}")
    return Figure(
        found.value,
        found.ci_low,
        found.ci_high,
        found.before,
        found.after,
        found.count,
        note=_explain(gate, found, limit, pair),
    )


def _explain(gate: Gate, found: Estimate, limit: float, pair: Pair) -> str | None:
    """Return a note that helps to judge the value; None if none is needed."""
    room, unanswered = _explain_room(gate, found, limit), estimates.describe_unanswered(pair)
    notes = (found.remark, room, unanswered)
    return "; ".join(note for note in notes if note) or None


def _explain_room(gate: Gate, found: Estimate, limit: float) -> str | None:
    """Return a note if, given the base's figure, the gate could not have failed; else None."""
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
