"""Stage 4: measure the chosen correction on held-out data, and matched random selections too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate

from workers.abilities.encoding import EncodedProbe
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
from workers.measuring.measurement import Baseline, CheckPlan, count_probes
from workers.measuring.probes import measure_probes
from workers.measuring.state import ModelState
from workers.models.devices import release_unused_memory
from workers.progress import Advance, Counter, Part, Progress, answer_prompts
from workers.pruning.places import count_available
from workers.pruning.selection import draw_random_selection
from workers.stages.abilities import list_verdict_kinds
from workers.stages.checks import build_check_plan, hash_checks
from workers.stages.context import InvalidInputError, StageContext, StageOutput
from workers.stages.inputs import CorrectionInputs

CONTROL_DRAWS = 3
"""Number of random selections measured besides the chosen one; their figures are averaged."""

CONTROL_ITEMS = 12
"""Smallest number of items per slice on which a random selection is measured: a fifth of the
verdict's, enough to show that removing that many random components changes nothing.
"""

_BASE, _CORRECTED, _CONTROL = "base model", "corrected model", "random selection"
_AGAIN = ("base model again", "corrected model again")
_ANSWERS, _ALONE = "corrected model's answers", "answers without one behaviour"
"""Names of what is measured, shown to users."""


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
    release_unused_memory()  # what the search held
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
    assert trial is not None  # without a chosen trial there is nothing to validate
    plan = build_check_plan(inputs, prepared)
    bench = _HeldOutBench(inputs, prepared, trial.settings)
    compared = {name: take_items(probes, CONTROL_ITEMS) for name, probes in plan.abilities.items()}
    counter = Counter(progress, list_parts(plan, compared, bench.list_parts(len(search.alone))))
    baseline = Baseline(plan, inputs.base, counter)
    chosen = trial.selection.to_selection()
    counter.begin(_CORRECTED)  # ends the base's part, even if not all of it could be measured
    with bench.prune(chosen):
        corrected = baseline.measure(inputs.base, counter)
    counter.begin(_CONTROL)
    states = _look_again(inputs, plan, bench, chosen, (baseline.state, corrected), counter)
    with bench.prune(bench.draw_controls(chosen)[0]):
        control = measure_probes(inputs.base, compared, counter)
    return ValidationOutcome(
        behaviours=_measure_behaviours(bench, search, trial, counter),
        base=states[0],
        corrected=states[1],
        control_abilities=control,
    ).to_bytes()


def take_items(probes: Sequence[EncodedProbe], items: int) -> tuple[EncodedProbe, ...]:
    """Return the first probes with at least so many items in total, or all if there are fewer."""
    before = accumulate((len(probe.spans) for probe in probes), initial=0)
    return tuple(probe for probe, count in zip(probes, before, strict=False) if count < items)


def list_parts(
    plan: CheckPlan,
    compared: Mapping[str, Sequence[EncodedProbe]],
    answers: Iterable[Part],
) -> list[Part]:
    """Return the stage's work: base, correction, control on the probes `compared`, `answers`."""
    return [
        *plan.list_parts(_BASE, is_base=True),
        *plan.list_parts(_CORRECTED, is_base=False),
        count_probes(compared, _CONTROL),
        *answers,
    ]


def _look_again(
    inputs: CorrectionInputs,
    plan: CheckPlan,
    bench: _HeldOutBench,
    chosen: Selection,
    states: tuple[ModelState, ModelState],
    counter: Counter,
) -> tuple[ModelState, ModelState]:
    """Return the states of base and correction, with more items for slices still in doubt."""
    limits = inputs.spec.gates.abilities
    changes = compare_states(list_verdict_kinds(inputs), *states, {}, limits)
    more = draw_more(plan.probe_source, changes)
    if not more:
        return states
    for step in reversed(_AGAIN):  # each is inserted first, before the work already expected
        counter.expect(count_probes(more, step))
    base = add_figures(states[0], measure_probes(inputs.base, more, counter))
    with bench.prune(chosen):
        return base, add_figures(states[1], measure_probes(inputs.base, more, counter))


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
    """The held-out split of a job, which was not used to choose the correction."""

    def __init__(
        self, inputs: CorrectionInputs, prepared: PreparedCorrection, settings: TrialSettings
    ) -> None:
        self._inputs = inputs
        self._settings = settings
        self._tuning_text = [TokenSequence(ids) for ids in prepared.reference.tune]
        self.prompts: list[tuple[PromptOutcome, ...]] = [
            behaviour.triggering(held_out=True) for behaviour in prepared.behaviours
        ]

    def list_parts(self, alone: int) -> Iterator[Part]:
        """Yield the parts for the responses of all selections, in order.

        `alone` is the number of single behaviours that have a selection of their own.
        """
        numbers = range(1, CONTROL_DRAWS + 1)
        controls = [f"random selection {number} of {CONTROL_DRAWS}" for number in numbers]
        runs = [_ANSWERS, *controls]
        for step in [*runs, _ALONE] if alone else runs:
            for prompts, behaviour in zip(self.prompts, self._inputs.behaviours, strict=True):
                decoding = behaviour.decoding
                lengths = [len(outcome.prompt_ids) for outcome in prompts]
                yield answer_prompts(lengths, decoding.max_new_tokens, decoding.samples, step=step)

    def prune(self, selection: Selection) -> AbstractContextManager[None]:
        """Return a context in which `selection` is ablated as the chosen trial's was."""
        return ablated(self._inputs.base, selection, self._settings, self._tuning_text)

    def respond(
        self, selection: Selection, numbers: Sequence[int], advance: Advance
    ) -> list[Responses]:
        """Return the responses to the prompts of the given behaviours with `selection` pruned."""
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
        """Return random selections with the same number of components in each module."""
        sizes = count_available(self._inputs.base.model, selection)
        try:
            return [
                draw_random_selection(selection, sizes, self._inputs.spec.seed + draw)
                for draw in range(CONTROL_DRAWS)
            ]
        except ValueError as error:
            raise InvalidInputError(
                f"no random selection of the chosen one's size can be drawn: {error}; "
                "lower search.amounts"
            ) from error
