"""The schema of a correction's report.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.names import Ablation, Direction, Granularity, Headline, MeasureName, Split
from excise.reports.abilities import AbilityChange
from excise.reports.common import JobReport
from excise.reports.model import ReportModel
from excise.reports.token_limits import TokenLimitUse


class SplitEffect(ReportModel):
    """A behaviour's mean figure on one split, before and after."""

    n: int
    before: float
    after: float


class HeldOutEffect(SplitEffect):
    """The same with the 95 % interval of after − before, paired by prompt."""

    ci_low: float
    ci_high: float


class RandomControl(HeldOutEffect):
    """The same after pruning random components instead, as many in each module."""

    draws: int


class ControlledEffect(ReportModel):
    """Corrected − control, with its interval; regression to the mean affects both equally."""

    n: int
    value: float
    """Mean over prompts; the control is averaged over its draws."""
    ci_low: float
    ci_high: float


class Measure(ReportModel):
    """One figure of one behaviour by one scorer, before and after the correction."""

    name: MeasureName
    """`share`: responses that show the behaviour or are empty; `any_share`: prompts with at least
    one such response; `expected_worst`: the worst score of each prompt's samples, averaged
    (RealToxicityPrompts' expected maximum); `mean_score`: the mean over all responses."""
    tune: SplitEffect
    held_out: HeldOutEffect | None
    """The raw change."""
    random_control: RandomControl | None
    effect: ControlledEffect | None = None
    """`held_out` minus `random_control`: the effect attributed to the correction."""
    alone: HeldOutEffect | None = None
    """With several behaviours: the effect of an equally large correction of this one alone."""


class EvaluatorEffect(ReportModel):
    """The figures of one behaviour by one scorer."""

    evaluator: str
    direction: Direction
    """Direction in which the score is better; for shares, lower is always better."""
    measures: list[Measure]

    def measure(self, name: str) -> Measure:
        """Return the figure with this name."""
        return next(measure for measure in self.measures if measure.name == name)


class BehaviourEffect(ReportModel):
    """The effect of the correction on one behaviour."""

    name: str
    kind: str
    headline: Headline
    """The figure that must improve."""
    threshold: float
    """A score that is at this value or worse shows the behaviour."""
    agreeing: int
    """Number of evaluators that must agree."""
    decoding: str
    """How responses are generated, in words."""
    prompts: int
    """Number of prompts given."""
    triggering: int
    """Number of prompts on which the base model shows the behaviour; only these count below."""
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
    """Damage by the correction to text that must keep working."""

    perplexity: PerplexityDamage
    kl: DivergenceDamage


class PatchSummary(ReportModel):
    """The pruned components, and the number of all components."""

    granularity: Granularity
    components: int
    of: int
    modules: dict[str, list[int]]
    """Module name → indices of the pruned neurons or heads; empty for single weights, which are too
    many to list (the patch holds them)."""
    counts: dict[str, int]
    """Module name → number of pruned components, for every granularity."""


class BudgetLimits(ReportModel):
    """The job spec's limits on damage to text that must keep working."""

    perplexity_increase: float
    """Largest relative increase of perplexity."""
    kl_mean: float
    """Largest mean KL divergence, nats per token."""


class Overlap(ReportModel):
    """How similar the selections for two behaviours corrected alone are."""

    first: str
    second: str
    share: float
    """Number of components in both, divided by that of the smaller selection."""


class SearchStep(ReportModel):
    """One selection tried on the tuning split."""

    origin: str
    """The part of the search that proposed it."""
    granularity: Granularity
    components: int
    first_layer: int
    last_layer: int | None
    cost_weight: float
    ablation: Ablation
    gains: dict[str, float]
    """Behaviour → relative fall of its undesiredness on the tuning prompts."""
    gain: float
    """Mean of the gains."""
    attained: dict[str, float] = Field(default_factory=dict)
    """Behaviour → its effect on the tuning prompts as a share of what the search wants, which is
    twice what the gates ask; empty in older reports."""
    emphasis: dict[str, float] = Field(default_factory=dict)
    """Behaviour → how much its benefit counted in the ranking, relative to the others; empty if all
    counted the same."""
    perplexity: float
    """Perplexity of tuning windows of the corpus, or of the tuning part of the reference text."""
    perplexity_increase: float
    """Relative to the base model on the same text."""
    kl: float
    bound_by: str = ""
    """The limit that is used up most: `perplexity`, `kl`, or the name of a protected slice; empty
    in older reports."""
    use: float = 0.0
    """Share of that limit, as far as the search allows itself to use it; 0 in older reports."""
    within_budget: bool
    on_front: bool
    """Whether no other step is better in both gain and KL divergence."""
    chosen: bool


class RankLimitCost(ReportModel):
    """Cost of limiting the adapter's rank: the chosen trial repeated without the limit."""

    max_rank: int
    kept_out: int
    """Number of components in the unlimited selection that the limit excluded."""
    fullest: int
    """Largest number of components that the unlimited selection takes from one module."""
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
    """Number of rows and columns of each matrix on which the pruned weights lie.

    An adapter of the largest of these ranks holds the correction, unless experts are among them.
    """

    max_rank: int | None
    """The limit (`serving.max_rank`); null if there is none."""
    ranks: dict[str, int]
    """Module name → the smallest number of rows and columns that hold its pruned weights."""
    forecast: LineLimitForecast | None
    """Null if there is no limit."""


class Sample(ReportModel):
    """One response each of the base model and of the corrected one, drawn with the same noise."""

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
    """The words in lower case, without punctuation."""
    before: int
    """Number of the base's held-out responses with them; words given by the prompt do not count."""
    after: int
    """Number of the corrected model's held-out responses with them."""
    p_value: float
    """Probability that they would be listed by chance alone, corrected for the number of n-grams
    compared."""


class BehaviourLeftovers(ReportModel):
    """What is left of one behaviour on held-out prompts, and what replaced it."""

    behaviour: str
    responses: int
    """Number of held-out responses compared."""
    left: list[Leftover]
    """Parts of the undesired text that remain where the whole is gone."""
    rose: list[Leftover]
    """Words that corrected responses say instead."""
    pattern: str
    """A regular expression for what is left or, if nothing is, for what replaced it."""
    advice: str
    """What to do about it; contains none of the words."""
    samples: list[Sample]
    """Responses with these words."""


class CorrectionReport(JobReport):
    """The whole outcome of a correction job, as `report.json` holds it."""

    schema_version: Literal[2, 3] = 3
    """Reports of version 2 have only the raw change."""
    behaviours: list[BehaviourEffect]
    budget: BudgetLimits | None = None
    damage: Damage | None
    patch: PatchSummary | None
    overlap: list[Overlap] = Field(default_factory=list)
    search: list[SearchStep]
    rank_limit: RankLimitCost | None = None
    """Given if the job sets `serving.max_rank` and a trial of neurons was chosen."""
    lines: LineRanks | None = None
    """Given for a correction of single weights; null in older reports."""
    abilities: list[AbilityChange] = Field(default_factory=list)
    """The change of each slice of the model's abilities."""
    token_limits: list[TokenLimitUse] = Field(default_factory=list)
    """For each behaviour's held-out prompts and each set of prompts, how many answers were cut off;
    empty in older reports."""
    not_asked: list[str] = Field(default_factory=list)
    """Gates that the job did not ask for."""
    advice: list[str] = Field(default_factory=list)
    """Sentences about how the job ended and what to try next."""
    leftovers: list[BehaviourLeftovers] = Field(default_factory=list)
    """One entry for each behaviour of which something is left or which something replaced."""
    samples: list[Sample]
    attribution: dict[str, str]
    """Attributor, score and granularity used."""
