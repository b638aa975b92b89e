"""The verdict on a circuit: its gates, and the sentence that says why."""

from __future__ import annotations

from excise.names import Verdict
from excise.reports.circuit import ChosenCircuit
from excise.reports.gates import GateResult
from workers.gates.remedies import judge_with_remedy
from workers.gates.rows import Figure
from workers.gates.table import RETENTION, SIZE


def judge_circuit(
    circuit: ChosenCircuit, threshold: float, max_share: float
) -> tuple[Verdict, str, list[GateResult]]:
    """Return the verdict on a circuit, the sentence that explains it, and its gates.

    On held-out rows the circuit must keep at least the share `threshold` of the model's metric;
    it may have at most the share `max_share` of all components.
    """
    share, held_out = circuit.kept / circuit.of, circuit.held_out
    gates = [
        judge_with_remedy(RETENTION, threshold, Figure(held_out.retention)),
        judge_with_remedy(SIZE, max_share, Figure(share)),
    ]
    found = (
        f"{circuit.kept:,} of {circuit.of:,} components ({share:.2%}) keep "
        f"{held_out.retention:.0%} of the model's metric on held-out rows"
    )
    if all(gate.passed for gate in gates):
        return Verdict.PASSED, f"{found}.", gates
    missed = ", ".join(gate.name for gate in gates if not gate.passed)
    return Verdict.REJECTED, f"{found}; not met: {missed}.", gates
