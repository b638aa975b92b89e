"""A circuit job: the order of its stages, and its report."""

from __future__ import annotations

from excise.names import Granularity, Verdict
from excise.reports.circuit import (
    ChosenCircuit,
    CircuitCurve,
    CircuitReport,
    CircuitTask,
    HeldOutCircuit,
)
from excise.reports.common import ModelIdentity
from excise.reports.gates import GateResult
from workers.circuits.verdict import judge_circuit
from workers.domain import Selection
from workers.kinds.circuit import discover, package, prepare, validate
from workers.kinds.circuit.results import CircuitValidation, DiscoveredCircuit, PreparedCircuit
from workers.stages.context import ShardedWork, StageContext
from workers.stages.inputs import CircuitInputs
from workers.stages.packaging import list_versions


def run_circuit(context: StageContext, inputs: CircuitInputs) -> CircuitReport:
    """Run every stage that is not done yet, and return the report."""
    prepare_output = prepare.run(context, inputs)
    prepared = PreparedCircuit.model_validate_json(prepare_output.data)
    discover_output = discover.run(context, inputs, prepared, prepare_output)
    circuits = discover.parse_circuits(discover_output.data)
    validated, outside = None, None
    if (weak := circuits[0].too_weak) is not None:
        context.skip_stage("validate", f"Skipped validate: {weak}")
    else:
        output = validate.run(context, inputs, prepared, circuits[0], discover_output)
        validated = CircuitValidation.model_validate_json(output.data)
        assert circuits[0].outside is not None
        outside = circuits[0].outside.to_selection()
    report = build_report(context, inputs, prepared, circuits, validated, outside)
    package.run(context, inputs, report, outside)
    return report


def build_sharded_work(inputs: CircuitInputs, data: bytes) -> ShardedWork:
    """Return the work of the stage `discover`, built from the result of the stage before it."""
    return discover.build_work(inputs, PreparedCircuit.model_validate_json(data))


def build_report(
    context: StageContext,
    inputs: CircuitInputs,
    prepared: PreparedCircuit,
    circuits: list[DiscoveredCircuit],
    validated: CircuitValidation | None,
    outside: Selection | None,
) -> CircuitReport:
    """Return the job's report; the patch is described later."""
    spec, first = inputs.spec, circuits[0]
    circuit, gates = None, list[GateResult]()
    verdict, reason = Verdict.NO_EFFECT, first.too_weak or ""
    if validated is not None and outside is not None:
        circuit = _choose(first, validated, outside)
        verdict, reason, gates = judge_circuit(circuit, spec.threshold, spec.max_share)
    return CircuitReport(
        verdict=verdict,
        reason=reason,
        granularity=Granularity(spec.granularity),
        ablation=spec.chosen_ablation,
        order=spec.chosen_order,
        threshold=spec.threshold,
        task=_describe_task(prepared, first),
        curves=[_build_curve(found) for found in circuits if found.chosen is not None],
        circuit=circuit,
        heatmap=list(first.heatmap),
        gates=gates,
        patch_note="",
        timings=context.load_stage_seconds(),
        dtype=spec.dtype,
        seed=spec.seed,
        versions=list_versions(),
        model=ModelIdentity(id=spec.model, sha256=prepared.model_sha256),
    )


def _choose(
    found: DiscoveredCircuit, validated: CircuitValidation, outside: Selection
) -> ChosenCircuit:
    return ChosenCircuit(
        attributor=found.attributor,
        kept=found.components - len(outside),
        of=found.components,
        held_out=HeldOutCircuit(
            whole_metric=validated.whole_metric,
            metric=validated.metric,
            retention=validated.retention,
            accuracy=validated.accuracy,
            zero_retention=validated.zero_retention,
        ),
    )


def _describe_task(prepared: PreparedCircuit, found: DiscoveredCircuit) -> CircuitTask:
    return CircuitTask(
        name=prepared.task,
        metric=prepared.metric.value,
        rows={
            "discovery": len(prepared.discovery),
            "choice": len(prepared.choice),
            "held_out": len(prepared.held_out),
        },
        whole_metric=found.whole_metric,
        corrupted_metric=found.corrupted_metric,
        whole_accuracy=found.whole_accuracy,
    )


def _build_curve(found: DiscoveredCircuit) -> CircuitCurve:
    assert found.chosen is not None
    return CircuitCurve(
        attributor=found.attributor,
        empty_metric=found.empty_metric,
        cpr=found.cpr,
        cmd=found.cmd,
        points=list(found.curve),
        chosen=found.chosen,
    )
