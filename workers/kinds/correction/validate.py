"""Stage 4: the chosen correction on held-out prompts and text, beside matched random ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from workers.correction.ablation import ablated
from workers.correction.measurement import measure_responses
from workers.correction.results import (
    BehaviourResponses,
    PreparedCorrection,
    PromptOutcome,
    Responses,
    SearchOutcome,
    Trial,
    TrialSettings,
    ValidationOutcome,
)
from workers.domain import Selection, TokenSequence
from workers.gates.abilities import compare_states
from workers.gates.second_look import TIMES_THE_ITEMS, add_figures, draw_more
from workers.measuring.measurement import Baseline, CheckPlan
from workers.measuring.probes import measure_probes
from workers.measuring.state import ModelState
from workers.progress import Advance, Counter, Progress
from workers.pruning.places import count_available
from workers.pruning.selection import draw_random_selection
from workers.stages.abilities import list_verdict_kinds
from workers.stages.checks import build_check_plan, hash_checks
from workers.stages.context import InvalidInputError, StageContext, StageOutput
from workers.stages.inputs import CorrectionInputs

CONTROL_DRAWS = 3
"""Random selections measured beside the chosen one; a figure of theirs is the mean."""

CONTROL_PROBES = 8
"""Probes of each slice that a random selection is measured on: some twenty items, enough to tell
that so many components gone at random change nothing."""


def run(
    context: StageContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    search: SearchOutcome,
    upstream: StageOutput,
) -> StageOutput:
    """Return the stage's result, a `ValidationOutcome`."""
    key = {
        "search": upstream.sha256,
        "seed": inputs.spec.seed,
        "draws": CONTROL_DRAWS,
        "second_look": TIMES_THE_ITEMS,
        "checks": hash_checks(inputs),
    }
    return context.run_stage(
        "validate", key, lambda progress: _work(inputs, prepared, search, progress)
    )


def _work(
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    search: SearchOutcome,
    progress: Progress,
) -> bytes:
    trial = search.chosen_trial
    assert trial is not None  # without one there is nothing to validate
    plan = build_check_plan(inputs, prepared)
    bench = _HeldOutBench(inputs, prepared, trial.settings)
    compared = {name: probes[:CONTROL_PROBES] for name, probes in plan.abilities.items()}
    units = 2 * plan.units + sum(map(len, compared.values()))
    advance = Counter(progress, bench.count_units(len(search.alone)) + units)
    baseline = Baseline(plan, inputs.base, advance)
    chosen = trial.selection.to_selection()
    with bench.prune(chosen):
        corrected = baseline.measure(inputs.base, advance)
    states = _look_again(inputs, plan, bench, chosen, (baseline.state, corrected), advance)
    with bench.prune(bench.draw_controls(chosen)[0]):
        control = measure_probes(inputs.base, compared, advance)
    return ValidationOutcome(
        behaviours=_measure_behaviours(bench, search, trial, advance),
        base=states[0],
        corrected=states[1],
        control_abilities=control,
    ).to_bytes()


def _look_again(
    inputs: CorrectionInputs,
    plan: CheckPlan,
    bench: _HeldOutBench,
    chosen: Selection,
    states: tuple[ModelState, ModelState],
    advance: Counter,
) -> tuple[ModelState, ModelState]:
    """Return base's and correction's state, with more items of the slices left in doubt."""
    limits = inputs.spec.gates.abilities
    changes = compare_states(list_verdict_kinds(inputs), *states, {}, limits)
    more = draw_more(plan.probe_source, changes)
    if not more:
        return states
    advance.expect(2 * sum(map(len, more.values())))
    base = add_figures(states[0], measure_probes(inputs.base, more, advance))
    with bench.prune(chosen):
        return base, add_figures(states[1], measure_probes(inputs.base, more, advance))


def _measure_behaviours(
    bench: _HeldOutBench, search: SearchOutcome, trial: Trial, advance: Advance
) -> tuple[BehaviourResponses, ...]:
    chosen = trial.selection.to_selection()
    everything = range(len(bench.prompts))
    corrected = bench.respond(chosen, everything, advance)
    controls = [
        bench.respond(selection, everything, advance) for selection in bench.draw_controls(chosen)
    ]
    alone = [
        bench.respond(stored.to_selection(), [number], advance)[0]
        for number, stored in enumerate(search.alone)
    ]
    return tuple(
        BehaviourResponses(
            corrected=corrected[number],
            controls=tuple(control[number] for control in controls),
            alone=alone[number] if alone else None,
        )
        for number in everything
    )


class _HeldOutBench:
    """The held-out split of a job: what took no part in choosing a correction."""

    def __init__(
        self, inputs: CorrectionInputs, prepared: PreparedCorrection, settings: TrialSettings
    ) -> None:
        self._inputs = inputs
        self._settings = settings
        self._tuning_text = [TokenSequence(ids) for ids in prepared.reference.tune]
        self.prompts: list[tuple[PromptOutcome, ...]] = [
            behaviour.triggering(held_out=True) for behaviour in prepared.behaviours
        ]

    def count_units(self, alone: int) -> int:
        """Return the units of work in the whole stage, as progress counts them."""
        responses = [
            len(prompts) * behaviour.decoding.samples
            for prompts, behaviour in zip(self.prompts, self._inputs.behaviours, strict=True)
        ]
        runs = 1 + CONTROL_DRAWS + (1 if alone else 0)
        return runs * sum(responses)

    def prune(self, selection: Selection) -> AbstractContextManager[None]:
        """Return the context in which `selection` is pruned as the chosen trial's was."""
        return ablated(self._inputs.base, selection, self._settings, self._tuning_text)

    def respond(
        self, selection: Selection, numbers: Sequence[int], advance: Advance
    ) -> list[Responses]:
        """Return the responses to the prompts of some behaviours with `selection` pruned."""
        inputs = self._inputs
        with self.prune(selection):
            return [
                measure_responses(
                    inputs.base,
                    inputs.behaviours[number],
                    self.prompts[number],
                    inputs.spec.seed,
                    advance,
                )
                for number in numbers
            ]

    def draw_controls(self, selection: Selection) -> list[Selection]:
        """Return random selections of the same size, module by module."""
        sizes = count_available(self._inputs.base.model, selection)
        try:
            return [
                draw_random_selection(selection, sizes, self._inputs.spec.seed + draw)
                for draw in range(CONTROL_DRAWS)
            ]
        except ValueError as error:
            raise InvalidInputError(
                f"no random selection can be set beside the chosen one: {error}; "
                "lower search.amounts"
            ) from error
