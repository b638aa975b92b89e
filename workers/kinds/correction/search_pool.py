"""The components that a search takes its own from, and what guards the texts they matter to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from workers.attribution.fisher import compute_fisher_rows, compute_margin_rows
from workers.correction.protection import SEARCH_SHARE, list_learned
from workers.correction.results import ProtectedSlice, TrialSettings
from workers.correction.search import BUDGET_SHARE, DIVERGENCE, Benefit
from workers.domain import GeneralCost, Granularity, Selection, TokenSequence
from workers.families import find_components, is_linear
from workers.pruning.damage import compute_divergence
from workers.pruning.joint_ranking import (
    DivergenceGuard,
    MarginGuard,
    Pool,
    gather,
    rank_jointly,
)
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import Score
from workers.running.context import JobContext
from workers.running.loading import CorrectionInputs

POOL_SHARE = 3
"""Times as many components are weighed together as are pruned at most."""

REFERENCE_ROWS = 512
"""Pieces of reference text that the pool's components are weighed together by. Decision 0014
found KL 0.0080 with 512 where 1,024 gave 0.0067; they take half the time, which goes to the
protected slices."""


LEAST_LIMIT = 1e-6
"""Nats a token that stand for a limit of nothing, so that shares of it can be told."""


def weighs_together(inputs: CorrectionInputs, granularity: Granularity) -> bool:
    """Whether components of this kind are weighed together, each beside those chosen before.

    They are where damage is predicted. Neurons of fused experts see only some of the tokens, so
    that no row of theirs stands for a text: they are ranked one by one.
    """
    if Score(inputs.spec.attribution.score) is not Score.BENEFIT_DAMAGE:
        return False
    modules = find_components(inputs.checkpoint.model, inputs.family, granularity)
    return all(map(is_linear, modules.values()))


def build_pool(
    context: JobContext,
    inputs: CorrectionInputs,
    scores: Mapping[str, torch.Tensor],
    general: GeneralCost,
    text: Sequence[TokenSequence],
    protection: Sequence[ProtectedSlice],
    granularity: Granularity,
    most: int,
) -> Pool:
    """Return the components that a whole search takes its own from: the best, each by itself."""
    ranking = rank_components(scores, granularity, POOL_SHARE * most)
    components = ranking.top(len(ranking))
    rows = compute_fisher_rows(
        inputs.checkpoint.model,
        inputs.family,
        components,
        text,
        inputs.checkpoint.pad_id,
        seed=inputs.spec.seed,
        most_rows=REFERENCE_ROWS,
        advance=lambda _: context.check_cancelled(),
    )
    guards = _build_guards(context, inputs, components, protection)
    context.event(
        "search.pool",
        f"{len(components)} {granularity.value}s to choose from, weighed together by {len(rows)} "
        f"pieces of reference text and {len(guards)} protected slices.",
        {"components": len(components), "rows": len(rows), "slices": len(guards)},
        once=True,
    )
    reference = DivergenceGuard(
        name=DIVERGENCE,
        limit=max(inputs.budget.scaled(BUDGET_SHARE).kl_mean, LEAST_LIMIT),
        first_order=gather(components, general.first_order),
        divergence=compute_divergence(gather(components, general.fisher)),
        rows=rows,
    )
    return Pool(components, (reference, *guards))


def _build_guards(
    context: JobContext,
    inputs: CorrectionInputs,
    components: Selection,
    protection: Sequence[ProtectedSlice],
) -> tuple[MarginGuard, ...]:
    """Return what keeps each protected slice, from the leads of its right tokens."""
    if not protection or not len(components):
        return ()
    found = compute_margin_rows(
        inputs.checkpoint.model,
        inputs.family,
        components,
        list_learned(protection),
        inputs.checkpoint.pad_id,
        advance=lambda _: context.check_cancelled(),
    )
    guards, start = [], 0
    for own in protection:
        part = slice(start, start + len(own.learn))
        limit = max(SEARCH_SHARE * own.limit.nats_rise, LEAST_LIMIT)
        guards.append(MarginGuard(own.name, limit, found.rows[part], found.leads[part]))
        start = part.stop
    return tuple(guards)


def rank_pool(
    inputs: CorrectionInputs,
    pool: Pool,
    benefit: Benefit,
    floor: float,
    settings: TrialSettings,
    on_limited: Callable[[TrialSettings, Ranking], None],
) -> Ranking:
    """Return the joint ranking, with no more of a module than an adapter's rank holds."""

    def rank(most_of_module: int | None) -> Ranking:
        return rank_jointly(
            pool,
            benefit,
            floor,
            settings.amount,
            settings.cost_weight,
            settings.prices,
            most_of_module,
        )

    most = inputs.spec.serving.max_rank
    if most is None or settings.granularity is not Granularity.NEURON:
        return rank(None)
    on_limited(settings, rank(None))
    return rank(most)
