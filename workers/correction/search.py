"""The search for what to prune and how much, on the tuning split, within a budget.

Relevance explains only the responses on which it was computed. After pruning by it, the model may
give other undesired responses instead: freed from its loops, SmolLM2 falls into a loop of empty
lines (docs/decisions/0007). Therefore each round prunes, generates responses, explains those that
are still undesired, and ranks components anew by everything explained so far. A component that
suppresses the next loop then loses its rank.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from excise.names import Attributor, Granularity, Score
from workers.attribution.contrastive import ContrastiveRelevance
from workers.correction.amounts import Amounts, predict_use
from workers.correction.behaviour import Behaviour
from workers.correction.budget import BUDGET_SHARE, Budget, raise_prices
from workers.correction.choice import choose_trial
from workers.correction.emphasis import shift_emphasis
from workers.correction.protection import SEARCH_SHARE
from workers.correction.refinement import Refinement, Space
from workers.correction.results import (
    LineUse,
    PreparedCorrection,
    ProtectedSlice,
    Responses,
    SearchOutcome,
    SliceDamage,
    StoredSelection,
    Trial,
    TrialSettings,
    UnlimitedTrial,
)
from workers.domain import Selection, TokenSequence
from workers.gates.gates import GateRequest
from workers.measuring.text_damage import TextDamage
from workers.models.loaded import LoadedModel
from workers.pruning.ranking import Ranking

DEFAULT_ROUNDS = 6
"""Rounds per granularity if a job does not give a number: as many as in the run on SmolLM2 in which
every round was measured (benchmarks/RESULTS.md, "6 rounds")."""

GOING_ON = frozenset({"longer", "token_limit", "uniqueness", "self_repetition", "diversity"})
"""Gates on answers that go on too long. The last three see that long answers repeat themselves."""

Benefit = Mapping[str, torch.Tensor]
"""Module → benefit of removing each component, against one behaviour."""


class MeanBenefit:
    """The benefit against one behaviour: the weighted mean over all responses explained so far.

    It owns its tensors and updates them in place, so `values` is only valid until the next `add`.
    """

    def __init__(self, first: Mapping[str, torch.Tensor]) -> None:
        """Begin with the base model's own responses, of weight 1; takes ownership of `first`."""
        self.values: Benefit = first
        self._weight = 1.0

    def add(self, benefit: Benefit, weight: float) -> None:
        """Add the benefit against further responses to the weighted mean."""
        self._weight += weight
        for name, mean in self.values.items():
            mean.lerp_(benefit[name], weight / self._weight)


def start_benefits(
    relevance: Mapping[Granularity, ContrastiveRelevance],
) -> dict[Granularity, list[MeanBenefit]]:
    """Return the benefits against each behaviour, from the base model's own responses."""
    return {
        granularity: [
            MeanBenefit(behaviour.compute_benefit(behaviour.undesired))
            for behaviour in contrast.behaviours
        ]
        for granularity, contrast in relevance.items()
    }


@dataclass(frozen=True)
class SearchInputs:
    """The inputs of a search."""

    base: LoadedModel
    behaviours: Sequence[Behaviour]
    prepared: PreparedCorrection
    relevance: Mapping[Granularity, ContrastiveRelevance]
    attributor: Attributor
    score: Score
    budget: Budget
    """The budget of the search; see `build_search_budget`."""
    seed: int
    """The job's seed, with which the base model's responses were drawn."""
    requests: tuple[GateRequest, ...] = ()
    """The gates on answers to the behaviours' prompts and on continuations of reference text, with
    the verdict's own limits."""


def build_search_budget(budget: Budget, protection: Sequence[ProtectedSlice]) -> Budget:
    """Return the search's share of a correction's budget and of the protected slices' limits."""
    slices = {own.name: own.limit.leave_margin(SEARCH_SHARE) for own in protection}
    return replace(budget.scaled(BUDGET_SHARE), slices=slices)


@dataclass(frozen=True)
class Ranked:
    """Components in the order in which a trial prunes them."""

    ranking: Ranking
    unlimited: Ranking | None = None
    """The ranking without the limit on components per module, if that limit applies."""
    lines: LineUse | None = None
    """For single weights, the lines of each matrix on which those that the trial prunes lie."""


@dataclass(frozen=True)
class Measurement:
    """The effect of pruning on the tuning split; tuples have one entry per behaviour."""

    responses: tuple[Responses, ...]
    gains: tuple[float, ...]
    """Relative fall of undesiredness from the base model's."""
    attained: tuple[float, ...]
    """The effect as a share of what the search wants."""
    damage: TextDamage
    base_perplexity: float
    slices: Mapping[str, SliceDamage]
    """Protected slice → its loss on tuning items."""
    answers: Mapping[str, float]
    """Gate on the responses → used share of its limit."""
    undesired: tuple[tuple[TokenSequence, ...], ...]
    """Responses that still show the behaviour, to be explained in the next round."""


class Bench(Protocol):
    """The operations on the model that a search needs."""

    def rank(self, benefits: Sequence[Benefit], settings: TrialSettings) -> Ranked:
        """Return the components that the settings allow, ranked by all behaviours' benefits."""

    def measure(self, selection: Selection, settings: TrialSettings) -> Measurement:
        """Return the effect of pruning `selection`."""

    def learn_slices(self, selection: Selection, names: Collection[str]) -> None:
        """Learn anew what these protected slices need, half-way to pruning `selection`."""

    def explain(
        self, granularity: Granularity, behaviour: int, undesired: Sequence[TokenSequence]
    ) -> tuple[Benefit, float]:
        """Return the benefit against undesired responses, and its weight.

        `behaviour` is the behaviour's index; the base model's own responses weigh 1.
        """


@dataclass(frozen=True)
class SearchPlan:
    """The plan of a search: rounds for every granularity, then a refinement of their results."""

    rounds: int
    amounts: Mapping[Granularity, Amounts]
    """Granularity → how many components its rounds prune."""
    space: Space
    """The search space of the refinement."""
    refinements: int
    """Number of trials of the refinement."""
    max_rank: int | None
    """Limit of pruned neurons per module, so that an adapter can hold the correction."""
    max_lines: int | None = None
    """Limit of rows and columns per matrix on which single weights may lie, for the same reason."""


@dataclass(frozen=True)
class Tried:
    """A trial, with data that the search needs later."""

    trial: Trial
    unlimited: Selection | None
    """The selection it would have pruned without the rank limit, if that applies."""
    undesired: tuple[tuple[TokenSequence, ...], ...] = ()
    """For each behaviour, the responses that still show it."""
    lines: LineUse | None = None
    """For single weights, the lines of each matrix on which they lie."""


def name_round(number: int) -> str:
    """Return the origin of a trial of this round, from 1."""
    return f"round {number}"


class Rounds:
    """Proposes the settings of one granularity's rounds.

    Amounts and prices depend on damage, the emphasis on what each behaviour attained.

    Once nothing undesired is left, the effect is as large as it can be, and the rounds look for
    the amount that keeps furthest from every limit: fewer components do less damage, until they
    are too few. Then answers go on too long, because what ended them is gone and nothing ends them
    in its place.
    """

    def __init__(self, granularity: Granularity, amounts: Amounts, budget: Budget) -> None:
        self._granularity = granularity
        self._amounts = amounts
        self._budget = budget
        self._amount: int | None = amounts.first
        """What the next round prunes; None once more rounds would gain nothing."""
        self._prices: dict[str, float] = {}
        self._emphasis: tuple[float, ...] = ()
        self._trials: list[Trial] = []
        self._too_few: int | None = None
        self._enough: int | None = None
        """The fewest components that left nothing undesired and are not too few."""
        self._least_use: float | None = None
        """Share of the scarcest limit that was used by the best of the trials within budget that
        left nothing undesired; None without any."""

    @property
    def are_over(self) -> bool:
        """Return whether more rounds would gain nothing, even with raised prices."""
        return self._amount is None

    def propose(self) -> TrialSettings:
        """Return the settings of the next round."""
        assert self._amount is not None, "the rounds are over"
        return TrialSettings(
            origin=name_round(len(self._trials) + 1),
            granularity=self._granularity,
            amount=self._amount,
            prices=self._prices,
            emphasis=self._emphasis,
        )

    def learn(self, trial: Trial, *, leaves_nothing: bool) -> None:
        """Learn from the result of the last settings proposed.

        `leaves_nothing` says whether no undesired response was left to be explained.
        """
        self._trials.append(trial)
        self._prices = raise_prices(self._prices, self._budget, trial.slices)
        self._emphasis = shift_emphasis(self._emphasis, trial.attained)
        is_best = self._least_use is None or trial.use < self._least_use
        if leaves_nothing and is_best:
            self._amount = self._look_for_fewer(trial)
        elif self._least_use is not None or self._amounts.is_flat(self._trials):
            self._amount = None
        else:
            use = predict_use(self._trials, self._budget)
            self._amount = self._amounts.choose_next(self._trials, use)

    def _look_for_fewer(self, trial: Trial) -> int | None:
        """Return the next amount after a trial that left nothing undesired."""
        if trial.within_budget:
            self._least_use = trial.use
        if _goes_on(trial):
            self._too_few = trial.amount
        else:
            self._enough = trial.amount
        return self._amounts.choose_between(self._too_few, self._enough)


def _goes_on(trial: Trial) -> bool:
    """Return whether the trial exceeds its budget because answers go on too long."""
    return not trial.within_budget and trial.bound_by.partition(":")[0] in GOING_ON


class Search:
    """One search: the trials so far, and everything explained so far."""

    def __init__(
        self,
        bench: Bench,
        plan: SearchPlan,
        benefits: Mapping[Granularity, Sequence[MeanBenefit]],
        budget: Budget,
        seed: int,
        on_trial: Callable[[Trial], None],
    ) -> None:
        """`budget` is the search's budget; `on_trial` is called after every trial.

        `seed` is that of the refinement's proposals.
        """
        self.bench = bench
        self.plan = plan
        self.benefits = benefits
        self.budget = budget
        self.seed = seed
        self.on_trial = on_trial
        self.tried: list[Tried] = []

    def run(self, is_time_up: Callable[[], bool]) -> SearchOutcome:
        """Run the search and return its outcome; no refinement starts once `is_time_up`."""
        for granularity in self.plan.amounts:
            self.go_through_rounds(granularity)
        if self.plan.refinements:
            self.refine(is_time_up)
        return self.conclude()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials so far, in order."""
        return tuple(tried.trial for tried in self.tried)

    def go_through_rounds(self, granularity: Granularity) -> None:
        """Try one selection per round, each ranked by what was still undesired after the last.

        It ends early if there is nothing to prune, or if more rounds would gain nothing.
        """
        rounds = Rounds(granularity, self.plan.amounts[granularity], self.budget)
        for number in range(1, self.plan.rounds + 1):
            tried = self._try(rounds.propose())
            if tried is None:
                return
            rounds.learn(tried.trial, leaves_nothing=not any(tried.undesired))
            if rounds.are_over:
                return
            if number < self.plan.rounds:
                self._explain(granularity, tried.undesired)
                self._learn_slices(tried.trial)

    def refine(self, is_time_up: Callable[[], bool]) -> None:
        """Try settings proposed from all trials so far, until `is_time_up`.

        Settings that prune nothing count towards the number, but are not trials.
        """
        plan = self.plan
        refinement = Refinement(plan.space, self.budget, self.trials, self.seed)
        for _ in range(plan.refinements):
            if is_time_up():
                return
            tried = self._try(refinement.propose())
            refinement.learn(None if tried is None else tried.trial)

    def conclude(self) -> SearchOutcome:
        """Return all trials and the chosen one, with what is measured only for the chosen one."""
        trials = self.trials
        chosen = choose_trial(trials)
        if chosen is None:
            return SearchOutcome(trials=trials, chosen=None)
        unlimited = self._try_unlimited(self.tried[chosen])
        alone = self._select_alone(trials[chosen])
        return SearchOutcome(
            trials=trials,
            chosen=chosen,
            alone=alone,
            unlimited=unlimited,
            lines=self.tried[chosen].lines,
        )

    def _try(self, settings: TrialSettings) -> Tried | None:
        """Return the trial with these settings; None if they prune nothing."""
        benefits = [benefit.values for benefit in self.benefits[settings.granularity]]
        ranked = self.bench.rank(benefits, settings)
        selection = ranked.ranking.top(settings.amount)
        if len(selection) == 0:
            return None
        trial, undesired = self._measure(selection, settings)
        free = ranked.unlimited
        unlimited = None if free is None else free.top(settings.amount)
        self.tried.append(Tried(trial, unlimited, undesired, ranked.lines))
        return self.tried[-1]

    def _measure(
        self, selection: Selection, settings: TrialSettings
    ) -> tuple[Trial, tuple[tuple[TokenSequence, ...], ...]]:
        """Return a trial and, for each behaviour, the responses that still show it."""
        measured = self.bench.measure(selection, settings)
        text = self.budget.compute_uses(measured.base_perplexity, measured.damage, measured.slices)
        uses = {**text, **measured.answers}
        scarcest = max(uses, key=uses.__getitem__)
        trial = Trial(
            settings=settings,
            selection=StoredSelection.from_selection(selection),
            responses=measured.responses,
            gains=measured.gains,
            attained=measured.attained,
            perplexity=measured.damage.perplexity,
            base_perplexity=measured.base_perplexity,
            kl_mean=measured.damage.kl_mean,
            slices=dict(measured.slices),
            answers=dict(measured.answers),
            bound_by=scarcest,
            use=uses[scarcest],
            within_budget=uses[scarcest] <= 1,
            is_text_kept=max(text.values()) <= 1,
        )
        self.on_trial(trial)
        return trial, measured.undesired

    def _explain(
        self, granularity: Granularity, undesired: Sequence[Sequence[TokenSequence]]
    ) -> None:
        """Explain each behaviour's undesired responses and add the result to its benefit."""
        for behaviour, responses in enumerate(undesired):
            if responses:
                benefit, weight = self.bench.explain(granularity, behaviour, responses)
                self.benefits[granularity][behaviour].add(benefit, weight)

    def _learn_slices(self, trial: Trial) -> None:
        """Learn anew what those slices need that lost more than their limits in this trial."""
        uses = self.budget.compute_slice_uses(trial.slices)
        if over := [name for name, use in uses.items() if use > 1]:
            self.bench.learn_slices(trial.selection.to_selection(), over)

    def _try_unlimited(self, chosen: Tried) -> UnlimitedTrial | None:
        """Return the chosen trial repeated, with its own ranking but without the rank limit.

        Returns None if there is no limit on components of this granularity.
        """
        max_rank, selection = self.plan.max_rank, chosen.unlimited
        if max_rank is None or selection is None or len(selection) == 0:
            return None
        origin = f"{chosen.trial.settings.origin}, any rank"
        settings = chosen.trial.settings.model_copy(update={"origin": origin})
        trial, _ = self._measure(selection, settings)
        return UnlimitedTrial(max_rank=max_rank, trial=trial)

    def _select_alone(self, chosen: Trial) -> tuple[StoredSelection, ...]:
        """Return, for each of several behaviours, the selection of the chosen size for it alone."""
        benefits = self.benefits[chosen.settings.granularity]
        if len(benefits) < 2:
            return ()
        settings = chosen.settings.model_copy(update={"emphasis": ()})
        rankings = (self.bench.rank([benefit.values], settings).ranking for benefit in benefits)
        return tuple(
            StoredSelection.from_selection(ranking.top(chosen.amount)) for ranking in rankings
        )
