"""The verdict on a circuit: both limits are gates, and an unmet one says what to do."""

from __future__ import annotations

import pytest

from excise.names import GateBound, GateGroup, Verdict
from excise.reports.circuit import ChosenCircuit, HeldOutCircuit
from workers.circuits.verdict import judge_circuit


def chosen_circuit(retention: float = 0.95, kept: int = 1500) -> ChosenCircuit:
    return ChosenCircuit(
        attributor="attnlrp",
        kept=kept,
        of=10_000,
        held_out=HeldOutCircuit(
            whole_metric=4.0,
            metric=4.0 * retention,
            retention=retention,
            accuracy=1.0,
            zero_retention=-0.07,
        ),
    )


@pytest.mark.parametrize(
    ("retention", "kept", "missed"),
    [
        (0.9, 5000, ()),
        (0.8999, 5000, ("retention",)),
        (0.9, 5001, ("size",)),
        (-0.1, 9000, ("retention", "size")),
    ],
)
def test_both_limits_are_gates(retention: float, kept: int, missed: tuple[str, ...]) -> None:
    verdict, reason, gates = judge_circuit(chosen_circuit(retention, kept), 0.9, 0.5)
    assert verdict is (Verdict.REJECTED if missed else Verdict.PASSED)
    assert tuple(gate.name for gate in gates if not gate.passed) == missed
    assert f"{kept:,} of 10,000" in reason
    assert all(name in reason.partition("not met:")[2] for name in missed)


def test_gates_say_what_they_watch_and_how_it_is_counted() -> None:
    _, _, (retention, size) = judge_circuit(chosen_circuit(), 0.9, 0.5)
    assert (retention.group, size.group) == (GateGroup.EFFECT, GateGroup.EFFECT)
    assert (retention.bound, retention.unit) == (GateBound.AT_LEAST, "share of the metric")
    assert (size.bound, size.unit) == (GateBound.AT_MOST, "share of components")
    assert retention.remedy is None
    assert size.remedy is None


def test_an_unmet_gate_says_what_to_do() -> None:
    _, _, (retention, size) = judge_circuit(chosen_circuit(0.1, 9000), 0.9, 0.5)
    assert "Give more rows" in (retention.remedy or "")
    assert "a larger max_share" in (size.remedy or "")
