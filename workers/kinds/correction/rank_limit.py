"""What `serving.max_rank` costs a correction: the chosen trial once more, without the limit."""

from __future__ import annotations

from dataclasses import replace

from excise.names import Granularity
from workers.correction.results import Trial, TrialSettings, UnlimitedTrial
from workers.correction.search import Budget, SearchSteps, try_settings
from workers.pruning.ranking import Ranking


class RankLimit:
    """Remembers what each trial of a search would have pruned without the limit."""

    def __init__(self, max_rank: int | None) -> None:
        self._max_rank = max_rank
        self._rankings: dict[tuple[Granularity, str], Ranking] = {}

    @property
    def trials(self) -> int:
        """How many trials it adds to a search."""
        return 0 if self._max_rank is None else 1

    def remember(self, settings: TrialSettings, ranking: Ranking) -> None:
        """Keep as much of the whole ranking as the trial prunes."""
        amount = settings.amount
        self._rankings[settings.granularity, settings.origin] = replace(
            ranking,
            owners=ranking.owners[:amount].clone(),
            indices=ranking.indices[:amount].clone(),
        )

    def try_without(
        self, chosen: Trial, steps: SearchSteps, budget: Budget
    ) -> UnlimitedTrial | None:
        """Return the chosen trial's settings tried with its own ranking and no limit.

        None where there is no limit, or none on components of this kind.
        """
        ranking = self._rankings.get((chosen.settings.granularity, chosen.settings.origin))
        if self._max_rank is None or ranking is None:
            return None
        origin = f"{chosen.settings.origin}, any rank"
        settings = chosen.settings.model_copy(update={"origin": origin})
        tried = try_settings((), settings, replace(steps, rank=lambda *_: ranking), budget)
        return None if tried is None else UnlimitedTrial(max_rank=self._max_rank, trial=tried[0])
