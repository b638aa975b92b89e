"""What an adapter's rank costs: the chosen trial once more, with its own ranking and no limit."""

from __future__ import annotations

from tests.unit.workers.correction.test_search import BUDGET, NEURON, Bench, damage, falling
from workers.correction.results import Trial, TrialSettings
from workers.correction.search import try_settings
from workers.kinds.correction.rank_limit import RankLimit
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.selection import list_indices


def rank(amount: int) -> Ranking:
    return rank_components(falling(), NEURON, amount)


def choose(bench: Bench) -> Trial:
    settings = TrialSettings(origin="round 1", granularity=NEURON, amount=3)
    tried = try_settings([falling()], settings, bench.steps, BUDGET)
    assert tried is not None
    return tried[0]


def test_the_trial_is_measured_with_the_ranking_it_was_chosen_from() -> None:
    limit = RankLimit(2)
    bench = Bench(gains=((0.3,), (0.7,)), costs=(damage(), damage(perplexity=20.0)))
    chosen = choose(bench)
    limit.remember(chosen.settings, rank(6))
    later = chosen.settings.model_copy(update={"origin": "round 2"})
    limit.remember(later, rank(1))
    found = limit.try_without(chosen, bench.steps, BUDGET)
    assert found is not None
    assert found.max_rank == 2
    assert list_indices(found.trial.selection.to_selection()) == {"m0": [0, 1, 2]}
    assert found.trial.gains == (0.7,)
    assert not found.trial.within_budget
    assert found.trial.settings.origin == "round 1, any rank"
    assert [trial.settings.origin for trial in bench.told] == ["round 1", "round 1, any rank"]


def test_without_a_limit_nothing_is_tried() -> None:
    bench = Bench()
    chosen = choose(bench)
    unlimited = RankLimit(None)
    unlimited.remember(chosen.settings, rank(6))
    assert unlimited.try_without(chosen, bench.steps, BUDGET) is None
    assert RankLimit(2).try_without(chosen, bench.steps, BUDGET) is None  # of another kind
    assert len(bench.told) == 1
    assert (unlimited.trials, RankLimit(2).trials) == (0, 1)
