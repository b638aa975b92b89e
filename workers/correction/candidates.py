"""The components that a search may prune, ranked by benefit and cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

import torch

from excise.names import BudgetLimit, Granularity, Score
from workers.attribution.contrastive import ContrastiveRelevance
from workers.attribution.fisher import compute_fisher_rows
from workers.correction.line_use import (
    allow_best_lines,
    describe_limit,
    describe_lines,
)
from workers.correction.protection import CONTINUATIONS, list_learned
from workers.correction.results import ProtectedSlice, TrialSettings
from workers.correction.search import Benefit, Ranked, SearchInputs, SearchPlan
from workers.correction.slice_guards import LEAST_LIMIT, guard_ends, guard_slices, learn_half_way
from workers.domain import GeneralCost, Selection, TokenSequence
from workers.families import find_layer_numbers, is_linear, named_weight
from workers.models.devices import release_unused_memory
from workers.models.loaded import LoadedModel
from workers.progress import Advance
from workers.pruning.damage import compute_divergence
from workers.pruning.joint_ranking import (
    DivergenceGuard,
    MarginGuard,
    Pool,
    gather,
    rank_jointly,
)
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import combine_benefits, compute_floor, compute_scores

POOL_RATIO = 3
"""Ratio of the pool's size to the largest amount pruned. Larger pools changed nothing
(docs/decisions/0014)."""

REFERENCE_ROWS = 512
"""Pieces of reference text from which the joint damage of components is predicted. KL was 0.0080
with 512 and 0.0067 with 1,024 (docs/decisions/0014). 512 take half the time; the time saved is
spent on the protected slices."""


@dataclass(frozen=True)
class PoolSize:
    """The size of a pool."""

    granularity: Granularity
    components: int
    rows: int
    """Pieces of reference text from which the joint damage is predicted."""
    slices: int
    """Number of protected slices that have a guard."""


def weighs_together(base: LoadedModel, granularity: Granularity) -> bool:
    """Return whether joint damage can be predicted for components of this granularity.

    Neurons and single weights of fused experts see only some of the tokens, so no row of theirs
    stands for a text: they are ranked one by one.
    """
    modules = base.find_components(granularity)
    return all(map(is_linear, modules.values()))


def list_pooled(inputs: SearchInputs) -> list[Granularity]:
    """Return the granularities that a search chooses a pool of: those weighed together."""
    if inputs.score is not Score.BENEFIT_DAMAGE:
        return []
    return [kind for kind in inputs.relevance if weighs_together(inputs.base, kind)]


def list_written(inputs: SearchInputs) -> list[TokenSequence]:
    """Return the base's continuations of text whose ends a search guards, if it guards any."""
    if inputs.base.tokenizer.eos_token_id is None:
        return []
    kept = [own for own in inputs.prepared.protection if own.name == CONTINUATIONS]
    return list_learned(kept)


@dataclass(frozen=True, eq=False)
class _PlacedPool:
    """A pool, and the places of its components' values in the granularity's relevance."""

    pool: Pool
    places: Selection
    """The pool's components, or their positions in the shortlist if only some were kept."""

    def find_guard(self, name: str) -> MarginGuard:
        """Return the guard of the slice of this name."""
        (guard,) = (own for own in self.pool.guards if own.name == name)
        assert isinstance(guard, MarginGuard)
        return guard

    def replace_guard(self, guard: MarginGuard) -> _PlacedPool:
        """Return the pool with another guard in place of that of the same name."""
        kept = tuple(guard if own.name == guard.name else own for own in self.pool.guards)
        return replace(self, pool=replace(self.pool, guards=kept))


class _Rank(Protocol):
    """Ranks candidates best first."""

    def __call__(
        self, *, most_of_module: int | None = None, allowed: torch.Tensor | None = None
    ) -> Ranking:
        """Return as many components as a trial prunes, all of them `allowed`, if given.

        None of the modules gets more than `most_of_module`.
        """


@dataclass(frozen=True, eq=False)
class _Order:
    """The candidates of one trial, and how to rank them."""

    candidates: Selection
    """Given for single weights only; empty for other components, where they are not needed."""
    benefit: torch.Tensor
    """Benefit of removing each candidate, `(candidate,)`."""
    rank: _Rank


class Candidates:
    """Ranks the components of the model for each trial of a search.

    If damage is predicted, a pool of the best components is chosen at the first ranking of a
    granularity. Every ranking then takes its components from that pool, with the cost of each
    depending on those taken before. Otherwise components are ranked one by one.
    """

    def __init__(
        self,
        inputs: SearchInputs,
        plan: SearchPlan,
        advance: Advance,
        on_pool: Callable[[PoolSize], None],
    ) -> None:
        """`advance` is called after every batch and may raise to stop; `on_pool` for each pool."""
        self._base = inputs.base
        self._inputs = inputs
        self._plan = plan
        self._advance = advance
        self._on_pool = on_pool
        self._floors = {
            granularity: _find_floor(contrast, inputs.score)
            for granularity, contrast in inputs.relevance.items()
        }
        self._pools: dict[Granularity, _PlacedPool] = {}

    def rank(self, benefits: Sequence[Benefit], settings: TrialSettings) -> Ranked:
        """Return the components that the settings allow, ranked by all behaviours' benefits.

        The first ranking of a granularity is made twice: what protected slices need is learned
        from the base model first, and then half-way to pruning what that would choose.
        """
        is_first = settings.granularity not in self._pools
        ranked = self._rank(benefits, settings)
        if not is_first or settings.granularity not in self._pools:
            return ranked
        slices = self._inputs.prepared.protection
        self._learn_half_way(ranked.ranking.top(settings.amount), slices)
        return self._rank(benefits, settings)

    def learn_slices(self, chosen: Selection, names: Collection[str]) -> None:
        """Learn anew what the protected slices of these names need, half-way to pruning `chosen`.

        From then on more of their samples are read. Nothing happens where components are ranked
        one by one.
        """
        if chosen.granularity in self._pools:
            protection = self._inputs.prepared.protection
            asked = [own.with_more() for own in protection if own.name in names]
            self._learn_half_way(chosen, asked)

    def _learn_half_way(self, chosen: Selection, slices: Iterable[ProtectedSlice]) -> None:
        """Replace the rows of these slices' guards by those half-way to pruning `chosen`.

        It goes slice by slice, so that hardly more rows are kept at once than before.
        """
        for own in slices if len(chosen) else ():
            placed = self._pools[chosen.granularity]
            guard = learn_half_way(
                self._base,
                placed.pool.components,
                own,
                placed.find_guard(own.name),
                chosen,
                self._advance,
            )
            self._pools[chosen.granularity] = placed.replace_guard(guard)

    def _rank(self, benefits: Sequence[Benefit], settings: TrialSettings) -> Ranked:
        """Return the components that the settings allow, by what is known of protected slices."""
        granularity = settings.granularity
        contrast, floor = self._inputs.relevance[granularity], self._floors[granularity]
        general, shortlist = contrast.general, contrast.shortlist
        allowed = self._list_allowed(settings)
        benefit = combine_benefits(
            [{name: own[name] for name in allowed} for own in benefits],
            None if shortlist is None else shortlist.scales,
            settings.emphasis,
        )
        score = self._inputs.score
        scores = compute_scores(general, benefit, score, settings.cost_weight, floor)
        if isinstance(general, GeneralCost) and weighs_together(self._base, granularity):
            placed = self._find_pool(granularity, scores, general)
            order = self._order_together(placed, benefit, floor, settings)
        else:
            order = self._order_apart(scores, benefit, settings)
        if shortlist is not None:
            return self._rank_weights(order, settings.amount)
        limit = self._plan.max_rank if granularity is Granularity.NEURON else None
        if limit is None:
            return Ranked(order.rank())
        return Ranked(order.rank(most_of_module=limit), order.rank())

    def _list_allowed(self, settings: TrialSettings) -> list[str]:
        """Return the modules in the layers from which a trial may take components."""
        modules = self._inputs.relevance[settings.granularity].modules
        numbers = find_layer_numbers(modules, self._base.family)
        last = self._base.layers if settings.last_layer is None else settings.last_layer
        return [name for name, layer in numbers.items() if settings.first_layer <= layer <= last]

    def _rank_weights(self, order: _Order, amount: int) -> Ranked:
        """Return single weights on no more lines of each matrix than the plan allows.

        The lines are those that hold most of the benefit of the weights that would be pruned
        without a limit. That selection takes all texts that must keep working into account, which
        scores of single weights do not.
        """
        free, limit = order.rank(), self._plan.max_lines
        pruned = free.top(amount)
        if limit is None:
            return Ranked(free, lines=describe_lines(pruned, self._shapes))
        candidates, benefit = order.candidates, order.benefit
        worth = torch.where(candidates.mark(pruned), benefit, 0.0)
        ranking = order.rank(allowed=allow_best_lines(candidates, worth, self._shapes, limit))
        chosen = ranking.top(amount)
        use = describe_limit(chosen, pruned, candidates, benefit, self._shapes, limit)
        return Ranked(ranking, lines=use)

    @cached_property
    def _shapes(self) -> Mapping[str, torch.Size]:
        """Module → the shape of its stored weight."""
        modules = self._base.find_components(Granularity.WEIGHT)
        return {name: named_weight(module, name).shape for name, module in modules.items()}

    def _locate(self, ranking: Ranking) -> Ranking:
        """Return a ranking of positions in a shortlist as one of the model's components."""
        shortlist = self._inputs.relevance[ranking.granularity].shortlist
        if shortlist is None:
            return ranking
        indices = ranking.indices.clone()
        for number, name in enumerate(ranking.modules):
            own = ranking.owners == number
            indices[own] = shortlist.components.indices[name][indices[own]]
        return replace(ranking, indices=indices)

    def _order_apart(
        self, scores: Mapping[str, torch.Tensor], benefit: Benefit, settings: TrialSettings
    ) -> _Order:
        """Return the order of components that are ranked one by one."""
        granularity, amount = settings.granularity, settings.amount
        everything = sum(values.numel() for values in scores.values())

        def rank(most_of_module: int | None = None, allowed: torch.Tensor | None = None) -> Ranking:
            own = scores if allowed is None else _mask(scores, allowed)
            if most_of_module is None:
                return self._locate(rank_components(own, granularity, amount))
            return self._locate(rank_components(own, granularity, everything)).cap(most_of_module)

        shortlist = self._inputs.relevance[granularity].shortlist
        if shortlist is None:
            return _Order(Selection(granularity, {}), torch.empty(0), rank)
        listed = shortlist.components.indices
        candidates = Selection(granularity, {name: listed[name] for name in scores})
        return _Order(candidates, torch.cat([benefit[name].flatten() for name in scores]), rank)

    def _order_together(
        self, placed: _PlacedPool, benefit: Benefit, floor: float, settings: TrialSettings
    ) -> _Order:
        """Return the order of the pool's components, each ranked given those before it."""
        values = gather(placed.places, benefit)
        rank = partial(
            rank_jointly,
            placed.pool,
            values,
            floor,
            limit=settings.amount,
            cost_weight=settings.cost_weight,
            prices=settings.prices,
        )
        return _Order(placed.pool.components, values, rank)

    def _find_pool(
        self, granularity: Granularity, scores: Mapping[str, torch.Tensor], general: GeneralCost
    ) -> _PlacedPool:
        """Return the granularity's pool; the first call chooses it by `scores`."""
        if granularity not in self._pools:
            self._pools[granularity] = self._build_pool(granularity, scores, general)
        return self._pools[granularity]

    def _build_pool(
        self, granularity: Granularity, scores: Mapping[str, torch.Tensor], general: GeneralCost
    ) -> _PlacedPool:
        """Return the components that are best by themselves, and the guards of all texts."""
        most = self._plan.space.amounts[granularity][1]
        ranking = rank_components(scores, granularity, POOL_RATIO * most)
        places = ranking.top(len(ranking))
        components = self._locate(ranking).top(len(ranking))
        rows = compute_fisher_rows(
            self._base,
            components,
            [TokenSequence(ids) for ids in self._inputs.prepared.reference.attribute],
            seed=self._inputs.seed,
            most_rows=REFERENCE_ROWS,
            advance=self._advance,
        )
        self._advance(REFERENCE_ROWS - len(rows))  # there may be fewer rows than planned
        slices = self._inputs.prepared.protection
        limits = self._inputs.budget.slices
        guards = guard_slices(self._base, components, slices, limits, self._advance)
        self._on_pool(PoolSize(granularity, len(components), len(rows), len(guards)))
        reference = DivergenceGuard(
            name=BudgetLimit.DIVERGENCE,
            limit=max(self._inputs.budget.kl_mean, LEAST_LIMIT),
            first_order=gather(places, general.first_order),
            divergence=compute_divergence(gather(places, general.fisher)),
            rows=rows,
        )
        pool = Pool(components, (reference, *guards, *self._guard_ends(components)))
        release_unused_memory()  # before trials are measured, which takes as much again
        return _PlacedPool(pool, places)

    def _guard_ends(self, components: Selection) -> tuple[MarginGuard, ...]:
        """Return a guard of where the base's continuations of text might have ended, if any."""
        end, written = self._base.tokenizer.eos_token_id, list_written(self._inputs)
        if end is None or not written:
            return ()
        return (guard_ends(self._base, components, written, end, self._advance),)


def _mask(scores: Mapping[str, torch.Tensor], allowed: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the scores, set to 0 where not allowed so that no ranking takes them."""
    parts = allowed.split([values.numel() for values in scores.values()])
    return {
        name: torch.where(part.view(values.shape), values, torch.zeros_like(values))
        for (name, values), part in zip(scores.items(), parts, strict=True)
    }


def _find_floor(contrast: ContrastiveRelevance, score: Score) -> float:
    """Return the floor that is added to every cost, from the mean over all components."""
    if contrast.shortlist is not None:
        return contrast.shortlist.floor
    return compute_floor(contrast.general, score)
