"""Computing gates, verdict and report from measurements; nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch

from excise.names import Granularity, Verdict
from excise.reports.abilities import AbilityChange
from excise.reports.common import ModelIdentity
from excise.reports.correction import (
    BehaviourEffect,
    BehaviourLeftovers,
    BudgetLimits,
    CorrectionReport,
    Damage,
    DivergenceDamage,
    LineRanks,
    Overlap,
    PatchSummary,
    PerplexityDamage,
    RankLimitCost,
    SearchStep,
)
from excise.reports.gates import GateResult
from workers.abilities.probe import SliceKind
from workers.correction.advice import describe_search, list_advice
from workers.correction.answers import collect_answers
from workers.correction.behaviour import Behaviour
from workers.correction.budget import Budget
from workers.correction.choice import find_front
from workers.correction.effects import BehaviourSides, build_effect, collect_sides
from workers.correction.gates import build_effect_gates
from workers.correction.leftovers import find_leftovers
from workers.correction.results import (
    PreparedCorrection,
    SearchOutcome,
    Trial,
    ValidationOutcome,
)
from workers.correction.samples import choose_samples
from workers.correction.search import DEFAULT_ROUNDS
from workers.domain import Selection
from workers.gates.abilities import (
    AbilityLimits,
    compare_states,
    judge_abilities,
)
from workers.gates.gates import GateRequest, judge_gates
from workers.gates.remedies import add_remedies
from workers.gates.table import ABILITIES
from workers.measuring.state import (
    ModelState,
    TextDivergences,
    TextLosses,
)
from workers.measuring.state import Responses as CheckedResponses
from workers.pruning.selection import count_by_module, list_indices
from workers.reports.effects import describe_judges, is_judged_alone
from workers.reports.token_limits import collect_token_limits


@dataclass(frozen=True)
class ReportFrame:
    """Facts about the job in its report, independent of measurements."""

    behaviours: tuple[Behaviour, ...]
    corpus: str
    budget: Budget
    requests: tuple[GateRequest, ...]
    """The damage and safety gates, with their limits."""
    not_asked: tuple[str, ...]
    """Gates that the job did not ask for."""
    attribution: Mapping[str, str]
    dtype: str
    seed: int
    versions: Mapping[str, str]
    model_id: str
    timings: Mapping[str, float]
    most_amounts: Mapping[Granularity, int] = field(default_factory=dict)
    """Largest number of components that the search may prune."""
    rounds: int = DEFAULT_ROUNDS
    """Largest number of rounds per granularity."""
    ordinary: tuple[str, ...] = ()
    """Ordinary texts; words that are common in them say nothing about a behaviour."""
    abilities: AbilityLimits | None = None
    """Limits of every slice; None if the gate is not asked for."""
    kinds: tuple[SliceKind, ...] = ()
    """The slices that were asked, in the report's order."""


def build_report(
    frame: ReportFrame,
    prepared: PreparedCorrection,
    search: SearchOutcome | None,
    validation: ValidationOutcome | None,
) -> CorrectionReport:
    """Return the report of a correction, which may have ended after any stage.

    Without `search`, the signal was too weak; without `validation`, nothing was within budget.
    """
    sides = _collect_sides(prepared, search, validation)
    damage = None if validation is None else _build_damage(frame, validation)
    abilities = [] if validation is None else _compare_abilities(frame, validation)
    states = None if validation is None else _add_answers(frame, sides, validation)
    gates = [] if states is None else _build_gates(frame, sides, states, abilities)
    gates = add_remedies(gates, of_job=True)
    effects = [
        build_effect(behaviour, own, side)
        for behaviour, own, side in zip(frame.behaviours, prepared.behaviours, sides, strict=True)
    ]
    verdict, reason = _judge(prepared, search, validation, gates)
    return CorrectionReport(
        verdict=verdict,
        reason="; ".join([reason, *_list_lone_judges(verdict, effects)]),
        behaviours=effects,
        budget=BudgetLimits(
            perplexity_increase=frame.budget.perplexity_increase, kl_mean=frame.budget.kl_mean
        ),
        damage=damage,
        patch=_summarise_patch(prepared, search),
        overlap=_list_overlaps(frame, search),
        search=_list_search(frame, search),
        rank_limit=_describe_rank_limit(frame, search),
        lines=_describe_lines(search),
        gates=gates,
        abilities=abilities,
        token_limits=[] if states is None else collect_token_limits(*states),
        not_asked=list(frame.not_asked),
        advice=list_advice(
            frame.behaviours, frame.budget, frame.most_amounts, frame.rounds, prepared, search
        ),
        leftovers=_list_leftovers(frame, prepared, sides),
        samples=choose_samples(frame.behaviours, prepared, sides),
        attribution=dict(frame.attribution),
        timings=dict(frame.timings),
        dtype=frame.dtype,
        seed=frame.seed,
        versions=dict(frame.versions),
        model=ModelIdentity(id=frame.model_id, sha256=prepared.model_sha256),
    )


def _collect_sides(
    prepared: PreparedCorrection,
    search: SearchOutcome | None,
    validation: ValidationOutcome | None,
) -> list[BehaviourSides]:
    trial = None if search is None else search.chosen_trial
    return [
        collect_sides(
            behaviour,
            None if trial is None else trial.responses[number],
            None if validation is None else validation.behaviours[number],
        )
        for number, behaviour in enumerate(prepared.behaviours)
    ]


def _judge(
    prepared: PreparedCorrection,
    search: SearchOutcome | None,
    validation: ValidationOutcome | None,
    gates: Sequence[GateResult],
) -> tuple[Verdict, str]:
    if prepared.too_weak is not None:
        return Verdict.NO_EFFECT, prepared.too_weak
    if search is None or validation is None:
        return Verdict.NO_EFFECT, describe_search(() if search is None else search.trials)
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        able = [gate.note for gate in failed if gate.name == ABILITIES.name]
        lost = "".join(f". {note}" for note in able if note)
        return Verdict.REJECTED, f"gates not met: {', '.join(gate.name for gate in failed)}{lost}"
    return Verdict.PASSED, "every gate was measured on held-out data and met"


def _list_lone_judges(verdict: Verdict, effects: Sequence[BehaviourEffect]) -> list[str]:
    """Return notes on a verdict that rests on the judgement of a single evaluator."""
    if verdict is not Verdict.PASSED:
        return []
    return [
        f"{effect.name} was {describe_judges(effect)}"
        for effect in effects
        if is_judged_alone(effect)
    ]


def _list_leftovers(
    frame: ReportFrame, prepared: PreparedCorrection, sides: Sequence[BehaviourSides]
) -> list[BehaviourLeftovers]:
    found = [
        find_leftovers(
            behaviour,
            own.prompts,
            own.triggering(held_out=True),
            side.held_out_before,
            side.validated.corrected,
            frame.ordinary,
        )
        for behaviour, own, side in zip(frame.behaviours, prepared.behaviours, sides, strict=True)
        if side.validated is not None
    ]
    return [leftovers for leftovers in found if leftovers is not None]


def _build_damage(frame: ReportFrame, validation: ValidationOutcome) -> Damage | None:
    """Return the damage to text; None if it could not be measured."""
    before, after = validation.base.perplexity, validation.corrected.perplexity
    divergence = validation.corrected.divergence
    if not (
        isinstance(before, TextLosses)
        and isinstance(after, TextLosses)
        and isinstance(divergence, TextDivergences)
    ):
        return None
    return Damage(
        perplexity=PerplexityDamage(
            corpus=frame.corpus,
            context=max(after.lengths) + 1,
            tokens=sum(after.lengths),
            before=before.perplexity,
            after=after.perplexity,
        ),
        kl=DivergenceDamage(
            mean=sum(divergence.divergences) / sum(divergence.lengths),
            p95=divergence.p95,
            tokens=sum(divergence.lengths),
        ),
    )


def _build_gates(
    frame: ReportFrame,
    sides: Sequence[BehaviourSides],
    states: tuple[ModelState, ModelState],
    abilities: Sequence[AbilityChange],
) -> list[GateResult]:
    effects = [
        gate
        for behaviour, side in zip(frame.behaviours, sides, strict=True)
        for gate in build_effect_gates(behaviour, side)
    ]
    able = [] if frame.abilities is None else [judge_abilities(abilities)]
    return effects + able + judge_gates(frame.requests, *states)


def _compare_abilities(frame: ReportFrame, validation: ValidationOutcome) -> list[AbilityChange]:
    """Return the change of each slice; empty if they were not asked for or not measured."""
    return compare_states(
        frame.kinds,
        validation.base,
        validation.corrected,
        validation.control_abilities,
        frame.abilities,
    )


def _add_answers(
    frame: ReportFrame, sides: Sequence[BehaviourSides], validation: ValidationOutcome
) -> tuple[ModelState, ModelState]:
    """Return the states of base and correction, with answers to the held-out prompts."""
    before = [side.held_out_before for side in sides]
    after = [own.corrected for own in validation.behaviours]
    return (
        _add(validation.base, collect_answers(frame.behaviours, before)),
        _add(validation.corrected, collect_answers(frame.behaviours, after)),
    )


def _add(state: ModelState, answers: Mapping[str, CheckedResponses]) -> ModelState:
    return state.model_copy(update={"responses": {**state.responses, **answers}})


def _summarise_patch(
    prepared: PreparedCorrection, search: SearchOutcome | None
) -> PatchSummary | None:
    selection = None if search is None else search.selection
    if selection is None:
        return None
    is_listed = selection.granularity is not Granularity.WEIGHT
    return PatchSummary(
        granularity=selection.granularity,
        components=len(selection),
        of=prepared.components[selection.granularity],
        modules=list_indices(selection) if is_listed else {},
        counts=count_by_module(selection),
    )


def _list_overlaps(frame: ReportFrame, search: SearchOutcome | None) -> list[Overlap]:
    if search is None or not search.alone:
        return []
    named = [
        (behaviour.name, stored.to_selection())
        for behaviour, stored in zip(frame.behaviours, search.alone, strict=True)
    ]
    return [
        Overlap(first=first, second=second, share=_compute_overlap(one, other))
        for (first, one), (second, other) in combinations(named, 2)
    ]


def _compute_overlap(one: Selection, other: Selection) -> float:
    smaller = min(len(one), len(other))
    if smaller == 0:
        return 0.0
    shared = one.indices.keys() & other.indices.keys()
    common = sum(int(torch.isin(one.indices[name], other.indices[name]).sum()) for name in shared)
    return common / smaller


def _list_search(frame: ReportFrame, search: SearchOutcome | None) -> list[SearchStep]:
    if search is None:
        return []
    front = find_front(search.trials)
    return [
        _describe_trial(frame, trial, on_front=index in front, chosen=index == search.chosen)
        for index, trial in enumerate(search.trials)
    ]


def _describe_trial(
    frame: ReportFrame, trial: Trial, *, on_front: bool = False, chosen: bool = False
) -> SearchStep:
    names = [behaviour.name for behaviour in frame.behaviours]
    return SearchStep(
        **trial.settings.model_dump(exclude={"amount", "prices", "emphasis"}),
        components=trial.amount,
        gains=dict(zip(names, trial.gains, strict=True)),
        gain=trial.gain,
        attained=dict(zip(names, trial.attained, strict=False)),  # empty in older trials
        emphasis=dict(zip(names, trial.settings.emphasis, strict=False)),  # empty if all the same
        perplexity=trial.perplexity,
        perplexity_increase=trial.perplexity_increase,
        kl=trial.kl_mean,
        bound_by=trial.bound_by,
        use=trial.use,
        within_budget=trial.within_budget,
        on_front=on_front,
        chosen=chosen,
    )


def _describe_rank_limit(frame: ReportFrame, search: SearchOutcome | None) -> RankLimitCost | None:
    if search is None or search.unlimited is None:
        return None
    trial = search.unlimited.trial
    counts = count_by_module(trial.selection.to_selection())
    most = search.unlimited.max_rank
    return RankLimitCost(
        max_rank=most,
        kept_out=sum(max(count - most, 0) for count in counts.values()),
        fullest=max(counts.values()),
        unlimited=_describe_trial(frame, trial),
    )


def _describe_lines(search: SearchOutcome | None) -> LineRanks | None:
    use = None if search is None else search.lines
    return None if use is None else LineRanks.model_validate(use.model_dump())
