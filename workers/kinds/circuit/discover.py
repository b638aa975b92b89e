"""Stage 2 of a circuit job: find every attributor's circuits of all sizes, one shard each."""

from __future__ import annotations

from excise.names import Attributor, CircuitAblation, CircuitContrast, CircuitOrder, Granularity
from workers.circuits.discovery import WeakTaskError, count_work, discover_circuit
from workers.circuits.faithfulness import MIB_SHARES, UndefinedFaithfulnessError
from workers.circuits.outcome import CircuitSettings
from workers.kinds.circuit.results import DiscoveredCircuit, PreparedCircuit
from workers.progress import Advance, Counter, Progress
from workers.stages.context import ShardedStage, ShardedWork, StageContext, StageOutput, compute_key
from workers.stages.inputs import CircuitInputs


def run(
    context: StageContext,
    inputs: CircuitInputs,
    prepared: PreparedCircuit,
    upstream: StageOutput,
) -> StageOutput:
    """Return the stage's result: one `DiscoveredCircuit` per line, in order of the attributors."""
    spec = inputs.spec
    key = {
        "prepare": upstream.sha256,
        "granularity": spec.granularity,
        "attributors": list(spec.attributors),
        "order": spec.chosen_order,
        "ablation": spec.chosen_ablation,
        "shares": _shares(inputs),
        "threshold": spec.threshold,
        "seed": spec.seed,
    }
    stage = ShardedStage("discover", compute_key("discover", key), upstream.sha256)

    def work(progress: Progress) -> bytes:
        shards = build_work(inputs, prepared)
        return b"\n".join(context.run_shards(stage, shards, Counter(progress, [shards.part])))

    return context.run_stage("discover", key, work)


def parse_circuits(data: bytes) -> list[DiscoveredCircuit]:
    """Return the circuits of every attributor."""
    return [DiscoveredCircuit.model_validate_json(line) for line in data.split(b"\n")]


def build_work(inputs: CircuitInputs, prepared: PreparedCircuit) -> ShardedWork:
    """Return the stage's work, which is the same on every worker."""
    discovery = prepared.build_task(prepared.discovery)
    choice = prepared.build_task(prepared.choice)
    settings = [build_settings(inputs, name) for name in inputs.spec.attributors]

    def compute(position: int, advance: Advance) -> bytes:
        chosen = settings[position]
        try:
            outcome = discover_circuit(inputs.base, discovery, choice, chosen, advance=advance)
        except (WeakTaskError, UndefinedFaithfulnessError) as error:
            name = chosen.attributor.value
            return DiscoveredCircuit(attributor=name, too_weak=str(error)).to_bytes()
        return DiscoveredCircuit.from_outcome(outcome, chosen.granularities[0]).to_bytes()

    sizes = tuple(count_work(entry, discovery, choice) for entry in settings)
    return ShardedWork(sizes, compute, noun="rows")


def build_settings(inputs: CircuitInputs, attributor: str) -> CircuitSettings:
    """Return the settings with which one attributor's circuits are searched for."""
    spec = inputs.spec
    is_counterfactual = spec.chosen_ablation == CircuitAblation.COUNTERFACTUAL
    return CircuitSettings(
        attributor=Attributor(attributor),
        granularities=(Granularity(spec.granularity),),
        contrast=CircuitContrast.CORRUPTED if is_counterfactual else CircuitContrast.ZERO,
        order=CircuitOrder(spec.chosen_order),
        ablation=CircuitAblation(spec.chosen_ablation),
        shares=tuple(_shares(inputs)),
        threshold=spec.threshold,
        seed=spec.seed,
    )


def _shares(inputs: CircuitInputs) -> list[float]:
    """Return the sizes to try, with the whole model last."""
    return list(MIB_SHARES) if inputs.spec.shares is None else [*inputs.spec.shares, 1.0]
