"""What a job's search stores and reports: measurements, trials and pools."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from excise.names import Granularity
from excise.plurals import count_noun
from workers.correction.bench import Findings, TuningBench
from workers.correction.candidates import PoolSize
from workers.correction.results import StoredSelection, Trial, TrialSettings
from workers.correction.search import Benefit, Measurement, Ranked
from workers.domain import Selection, TokenSequence
from workers.kinds.correction.search_work import SearchWork
from workers.progress import Counter
from workers.stages.context import StageContext, compute_key


class StoredBench:
    """A bench whose measurements are stored with the job.

    A job that is resumed does not repeat them: it continues with the first selection that was not
    measured.
    """

    def __init__(
        self,
        context: StageContext,
        bench: TuningBench,
        upstream: str,
        counter: Counter,
        work: SearchWork,
    ) -> None:
        """Wrap `bench`; `upstream` is the hash of the relevance from which selections are made.

        `counter` is told which step of `work` begins.
        """
        self._context = context
        self._bench = bench
        self._upstream = upstream
        self._counter = counter
        self._work = work

    def rank(self, benefits: Sequence[Benefit], settings: TrialSettings) -> Ranked:
        """Call `TuningBench.rank`."""
        self._counter.begin(self._work.name_pool(settings.granularity))
        return self._bench.rank(benefits, settings)

    def explain(
        self, granularity: Granularity, behaviour: int, undesired: Sequence[TokenSequence]
    ) -> tuple[Benefit, float]:
        """Call `TuningBench.explain`."""
        return self._bench.explain(granularity, behaviour, undesired)

    def learn_slices(self, selection: Selection, names: Collection[str]) -> None:
        """Call `TuningBench.learn_slices`."""
        self._counter.expect(self._work.count_learned(names))
        self._bench.learn_slices(selection, names)

    def measure(self, selection: Selection, settings: TrialSettings) -> Measurement:
        """Call `TuningBench.measure`, or return the stored measurement if there is one."""
        self._counter.begin(self._work.name_trial(settings))
        stored = StoredSelection.from_selection(selection)
        key = compute_key(
            "trial",
            {
                "attribute": self._upstream,
                "selection": stored.model_dump(mode="json"),
                "ablation": settings.ablation,
            },
        )
        data = self._context.remember(
            "search.measured", key, lambda: self._bench.observe(selection, settings).to_bytes()
        )
        return self._bench.judge(Findings.model_validate_json(data))


class SearchReporter:
    """Reports the progress of the search as events of the job."""

    def __init__(self, context: StageContext, behaviours: Sequence[str]) -> None:
        """Report to `context`; `behaviours` are the behaviours' names."""
        self._context = context
        self._behaviours = behaviours

    def report_pool(self, pool: PoolSize) -> None:
        """Report that the components to choose from have been found."""
        self._context.event(
            "search.pool",
            f"{count_noun(pool.components, pool.granularity.value)} to choose from, weighed "
            f"together by {count_noun(pool.rows, 'piece')} of reference text and "
            f"{count_noun(pool.slices, 'protected slice')}.",
            {"components": pool.components, "rows": pool.rows, "slices": pool.slices},
            once=True,
        )

    def report_trial(self, trial: Trial) -> None:
        """Report a trial's effect and cost; a stored trial is not reported twice."""
        gains = dict(zip(self._behaviours, trial.gains, strict=True))
        told = ", ".join(f"{name} {-gain:+.0%}" for name, gain in gains.items())
        self._context.event(
            "search.trial",
            f"{trial.settings.origin}, "
            f"{count_noun(trial.amount, trial.settings.granularity.value)}: {told}, "
            f"perplexity {trial.perplexity_increase:+.2%}, KL {trial.kl_mean:.4f}"
            f", {_describe_use(trial)}",
            {
                **trial.settings.model_dump(mode="json"),
                "components": trial.amount,
                "gains": gains,
                "perplexity_increase": trial.perplexity_increase,
                "kl": trial.kl_mean,
                "bound_by": trial.bound_by,
                "use": trial.use,
                "within_budget": trial.within_budget,
            },
            once=True,
        )


def _describe_use(trial: Trial) -> str:
    """Return the limit that is used most, and the share used of what the search allows."""
    used = f"{trial.bound_by} at {trial.use:.0%} of what the search allows"
    return used if trial.within_budget else f"over budget: {used}"
