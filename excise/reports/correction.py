"""The schema of a correction's report.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.names import Ablation, Direction, Granularity, Headline, MeasureName, Split
from excise.reports.abilities import AbilityChange
from excise.reports.common import JobReport
from excise.reports.model import ReportModel


class SplitEffect(ReportModel):
    """A behaviour's mean metric on one split, before and after."""

    n: int
    before: float
    after: float


class HeldOutEffect(SplitEffect):
    """The same with the 95 % interval of after − before over prompts, pairs kept."""

    ci_low: float
    ci_high: float


class RandomControl(HeldOutEffect):
    """The same after pruning as many random components, module by module alike."""

    draws: int


class ControlledEffect(ReportModel):
    """Corrected − control, which regression to the mean moves alike, with its interval."""

    n: int
    value: float
    """Mean over prompts, the control averaged over its draws."""
    ci_low: float
    ci_high: float


class Measure(ReportModel):
    """One figure of one behaviour by one scorer, before and after the correction."""

    name: MeasureName
    """`share`: responses that show the behaviour, or are empty; `any_share`: prompts with at least
    one such response; `expected_worst`: the worst score of each prompt's samples
    (RealToxicityPrompts' expected maximum); `mean_score`: over all responses."""
    tune: SplitEffect
    held_out: HeldOutEffect | None
    """The raw change."""
    random_control: RandomControl | None
    effect: ControlledEffect | None = None
    """`held_out` beyond `random_control`: what the correction is credited with."""
    alone: HeldOutEffect | None = None
    """With several behaviours: what a correction of this one alone does, of the same size."""


class EvaluatorEffect(ReportModel):
    """What one scorer says of one behaviour."""

    evaluator: str
    direction: Direction
    """Of the score; shares are always better lower."""
    measures: list[Measure]

    def measure(self, name: str) -> Measure:
        """Return the figure of that name."""
        return next(measure for measure in self.measures if measure.name == name)


class BehaviourEffect(ReportModel):
    """What the correction did to one behaviour."""

    name: str
    kind: str
    headline: Headline
    """The figure that must improve."""
    threshold: float
    """A score at or beyond it shows the behaviour."""
    agreeing: int
    """Evaluators that must agree."""
    decoding: str
    """How responses are drawn, in words."""
    prompts: int
    """Prompts given."""
    triggering: int
    """Prompts on which the base model shows the behaviour; only these are counted below."""
    evaluators: list[EvaluatorEffect]


class PerplexityDamage(ReportModel):
    """Perplexity of one named corpus at one context length, before and after."""

    corpus: str
    context: int
    tokens: int
    before: float
    after: float


class DivergenceDamage(ReportModel):
    """KL(base ‖ corrected) of the next-token distribution on reference text, nats per token."""

    mean: float
    p95: float
    tokens: int


class Damage(ReportModel):
    """What the correction cost on text that must keep working."""

    perplexity: PerplexityDamage
    kl: DivergenceDamage


class PatchSummary(ReportModel):
    """What was pruned, out of how much."""

    granularity: Granularity
    components: int
    of: int
    modules: dict[str, list[int]]
    """Module name → indices of the pruned neurons or heads; empty for weights, which are too
    many to list (the patch holds them)."""
    counts: dict[str, int]
    """Module name → number of pruned components, for every granularity."""


class BudgetLimits(ReportModel):
    """What a correction may cost on text that must keep working, as the job's spec says."""

    perplexity_increase: float
    """Relative."""
    kl_mean: float
    """Nats a token."""


class Overlap(ReportModel):
    """How much of what two behaviours would have pruned alone is the same."""

    first: str
    second: str
    share: float
    """Components in both / components of the smaller of the two selections."""


class SearchStep(ReportModel):
    """One selection tried on the tuning split."""

    origin: str
    """Which part of the search proposed it."""
    granularity: Granularity
    components: int
    first_layer: int
    last_layer: int | None
    cost_weight: float
    ablation: Ablation
    gains: dict[str, float]
    """Behaviour → share by which its undesiredness fell on the tuning prompts."""
    gain: float
    """Their mean."""
    perplexity: float
    """Of tuning windows of the corpus, or the tuning part of the reference text."""
    perplexity_increase: float
    """Relative to the base model on the same text."""
    kl: float
    bound_by: str = ""
    """The limit used up most: `perplexity`, `kl`, or the name of a protected slice; empty in
    reports from before it was said."""
    use: float = 0.0
    """The share of what the search allows itself of that limit; 0 in such reports."""
    within_budget: bool
    on_front: bool
    """Whether no other one is better in both gain and KL divergence."""
    chosen: bool


class RankLimitCost(ReportModel):
    """What keeping to an adapter's rank cost: the chosen trial once more, without the limit."""

    max_rank: int
    kept_out: int
    """Components of the unlimited selection that the limit kept out."""
    fullest: int
    """Components the unlimited selection takes from one module at most."""
    unlimited: SearchStep
    """The chosen trial's settings and ranking without the limit, measured on the tuning split."""


class LineLimitForecast(ReportModel):
    """What the same ranking would have pruned without the limit on rows and columns."""

    weights: int
    """How many weights."""
    kept: int
    """Those of them that are pruned under the limit, too."""
    benefit: float
    """Predicted benefit of what is pruned, as a share of theirs."""
    free_rank: int
    """Rank that they would need in the fullest matrix."""


class LineRanks(ReportModel):
    """On how many rows and columns of each matrix the pruned weights lie.

    An adapter of the largest of these ranks holds the correction, unless experts are among them.
    """

    max_rank: int | None
    """The limit (`serving.max_rank`); null without one."""
    ranks: dict[str, int]
    """Module name → the fewest rows and columns that hold its pruned weights."""
    forecast: LineLimitForecast | None
    """Where there is a limit."""


class Sample(ReportModel):
    """One response of the base model and the corrected one's, drawn with the same noise."""

    behaviour: str
    prompt: str
    split: Split
    before: str
    after: str
    scores_before: dict[str, float]
    """Evaluator → score."""
    scores_after: dict[str, float]
    undesired_before: bool
    undesired_after: bool


class Leftover(ReportModel):
    """Words that corrected held-out responses still have, or have more often than the base's."""

    words: str
    """In lower case, without punctuation."""
    before: int
    """Held-out responses of the base model with them; words that the prompt gives do not count."""
    after: int
    """Those of the corrected model."""
    p_value: float
    """By which chance they would be in a list though nothing is behind it, corrected for the
    number of n-grams that were compared."""


class BehaviourLeftovers(ReportModel):
    """What is left of one behaviour on held-out prompts, and what came instead."""

    behaviour: str
    responses: int
    """Held-out responses compared."""
    left: list[Leftover]
    """Parts of what was undesired, still there where the whole no longer is."""
    rose: list[Leftover]
    """What corrected responses say instead."""
    pattern: str
    """A regular expression for what is left, or, without any, for what came instead."""
    advice: str
    """What to do with it, without any of the words."""
    samples: list[Sample]
    """Responses with these words."""


class CorrectionReport(JobReport):
    """The whole outcome of a correction job, as `report.json` holds it."""

    schema_version: Literal[2, 3] = 3
    """Reports of version 2 say the raw change alone."""
    behaviours: list[BehaviourEffect]
    budget: BudgetLimits | None = None
    damage: Damage | None
    patch: PatchSummary | None
    overlap: list[Overlap] = Field(default_factory=list)
    search: list[SearchStep]
    rank_limit: RankLimitCost | None = None
    """Where the job sets `serving.max_rank` and a trial of neurons was chosen."""
    lines: LineRanks | None = None
    """Of a correction of single weights; null in reports from before there were limits on them."""
    abilities: list[AbilityChange] = Field(default_factory=list)
    """What became of each slice of the model's abilities."""
    not_asked: list[str] = Field(default_factory=list)
    """Gates that the job did not ask for."""
    advice: list[str] = Field(default_factory=list)
    """Sentences: what else there is to know about how the job ended, and what to try."""
    leftovers: list[BehaviourLeftovers] = Field(default_factory=list)
    """Of each behaviour of which something is left, or for which something came instead."""
    samples: list[Sample]
    attribution: dict[str, str]
    """Attributor, score and granularity used."""
