"""The frozen values that travel between the stages of a job. Nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict


class Granularity(StrEnum):
    """What one component is."""

    NEURON = "neuron"
    """One MLP neuron: a feature of the down projection's input."""
    HEAD = "head"
    """One attention head: a slice of the attention output projection's input."""
    WEIGHT = "weight"
    """One entry of a linear module's weight matrix."""


class Scope(StrEnum):
    """Among which components a rank is taken."""

    ROW = "row"
    """Among the weights that write one output feature of one module."""
    LAYER = "layer"
    """Among the components of one module."""
    GLOBAL = "global"
    """Among all components."""


class Verdict(StrEnum):
    """How a correction ended."""

    PASSED = "passed"
    """Every gate was measured and met on held-out prompts."""
    REJECTED = "rejected"
    """The correction does something, but at least one gate was not met."""
    NO_EFFECT = "no_effect"
    """There was nothing to correct, or nothing within budget corrected it."""


class GateGroup(StrEnum):
    """What a gate watches."""

    EFFECT = "effect"
    """That the correction does what it is for."""
    DAMAGE = "damage"
    """That what worked before still works."""
    SAFETY = "safety"
    """That the model became neither more harmful nor more squeamish."""


class GateBound(StrEnum):
    """On which side of its limit a gate's value must lie."""

    AT_MOST = "at_most"
    AT_LEAST = "at_least"
    ABOVE = "above"

    def is_met(self, value: float, limit: float) -> bool:
        """Return whether `value` is on the right side of `limit`; NaN never is."""
        if self is GateBound.AT_MOST:
            return value <= limit
        return value >= limit if self is GateBound.AT_LEAST else value > limit


@dataclass(frozen=True)
class Selection:
    """Components chosen for removal.

    `indices` goes from module name to an int64 tensor `(chosen,)` on the CPU, ascending and
    without repeats; modules without a chosen component are absent. What an index counts
    depends on `granularity`: input features of an MLP's output projection, query heads before
    an attention output projection, or entries `row * columns + column` of a weight matrix in
    its stored layout.
    """

    granularity: Granularity
    indices: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return sum(len(chosen) for chosen in self.indices.values())


@dataclass(frozen=True)
class Relevance:
    """Per-component relevance statistics over the tokens of a set of reference samples.

    Every mapping goes from module name to a float32 tensor on the CPU: `(feature,)` for
    neurons, `(head,)` for heads, the stored weight's two axes for weights. A statistic that
    was not asked for is an empty mapping.
    """

    mean: Mapping[str, torch.Tensor]
    """Mean over tokens of the signed relevance (Eq. 1, per token instead of per sample)."""
    mean_absolute: Mapping[str, torch.Tensor]
    """Mean over tokens of |relevance|: what the tokens lean on, whatever its sign."""
    tokens: int
    samples: int
    mean_square: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Mean over tokens of relevance²: magnitude with the outliers counted more."""


@dataclass(frozen=True)
class GeneralCost:
    """What removing each component costs general text: the first two orders of the damage.

    Both mappings go from module name to a tensor as in `Relevance`. They answer two questions
    about the same text, so neither is a statistic of the other.
    """

    first_order: Mapping[str, torch.Tensor]
    """E[a · ∂log p(next)/∂a]: the rise of the negative log-likelihood to first order, nats a
    token; below 0 where a removal helps the text."""
    fisher: Mapping[str, torch.Tensor]
    """E[(a · ∂log p(y)/∂a)²] with y drawn from the model, the diagonal of the Fisher information.
    Half of it is the KL divergence to second order, nats a token; the halves are taken in float64
    (`pruning.damage.compute_divergence`), as float32 would lose bits of the smallest squares."""
    tokens: int
    """Tokens that the first order was averaged over."""
    samples: int


@dataclass(frozen=True)
class TokenSequence:
    """One tokenised sample: a prompt and, where there is one, the model's own response to it."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...] = ()
    is_explained: tuple[bool, ...] = ()
    """For each response token whether its prediction is to be explained; empty means all."""
    contrast_ids: tuple[int, ...] = ()
    """For each response token the one it is explained against (the wrong answer); may be empty."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and response, as the model saw them."""
        return self.prompt_ids + self.response_ids

    def explain_all(self) -> TokenSequence:
        """Return the same sample with the whole response to be explained."""
        return TokenSequence(self.prompt_ids, self.response_ids)

    @property
    def explained(self) -> int:
        """How many response tokens are to be explained."""
        return sum(self.is_explained) if self.is_explained else len(self.response_ids)


class ReportModel(BaseModel):
    """Base of the report's parts: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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

    name: Literal["mean_score", "share", "any_share", "expected_worst"]
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
    direction: Literal["higher_is_better", "lower_is_better"]
    """Of the score; shares are always better lower."""
    measures: list[Measure]

    def measure(self, name: str) -> Measure:
        """Return the figure of that name."""
        return next(measure for measure in self.measures if measure.name == name)


class BehaviourEffect(ReportModel):
    """What the correction did to one behaviour."""

    name: str
    kind: str
    headline: Literal["mean_score", "share"]
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
    """KL(base ‖ corrected) of the next-token distribution on reference text, nats a token."""

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
    ablation: Literal["zero", "mean"]
    gains: dict[str, float]
    """Behaviour → share by which its undesiredness fell on the tuning prompts."""
    gain: float
    """Their mean."""
    perplexity: float
    """Of tuning windows of the corpus, or the tuning part of the reference text."""
    perplexity_increase: float
    """Relative to the base model on the same text."""
    kl: float
    bound_by: str
    """The limit used up most: `perplexity`, `kl`, or the name of a protected slice."""
    use: float
    """The share of what the search allows itself of that limit."""
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


class GateResult(ReportModel):
    """One limit of the job spec against its measured value; unmeasured counts as failed."""

    name: str
    sentence: str
    """What the gate demands, in words a reader understands."""
    limit: float
    value: float | None
    passed: bool
    unit: str = ""
    """Of `limit` and `value`, such as `relative` or `nats a token`; empty where they have none."""
    group: GateGroup | None = None
    bound: GateBound | None = None
    """On which side of the limit the value must lie."""
    ci_low: float | None = None
    """95 % interval of the value; None where it has none."""
    ci_high: float | None = None
    before: float | None = None
    """The base model's own figure, from which the value was computed with `after`'s."""
    after: float | None = None
    count: int | None = None
    """Prompts, questions or text samples behind the value."""
    unmeasured: str | None = None
    """Why there is no value."""
    note: str | None = None
    """What a reader must know to judge the value by."""
    remedy: str | None = None
    """Of a gate that was not met: what may have caused it, and what to do about it."""


class Sample(ReportModel):
    """One response of the base model and the corrected one's, drawn with the same noise."""

    behaviour: str
    prompt: str
    split: Literal["tune", "held_out"]
    before: str
    after: str
    scores_before: dict[str, float]
    """Evaluator → score."""
    scores_after: dict[str, float]
    undesired_before: bool
    undesired_after: bool


class AbilityChange(ReportModel):
    """What became of one slice of a model's abilities: what it could do, and what it can now."""

    name: str
    area: str
    sentence: str
    """What the model does there, as in "can no longer repeat random tokens"."""
    items: int
    nats_before: float
    """Negative log-likelihood of the right continuations, nats a token."""
    nats_change: float
    nats_interval: tuple[float, float]
    """95 % interval of the change, over items."""
    accuracy_before: float
    accuracy_after: float
    accuracy_interval: tuple[float, float]
    """95 % interval of after − before, over items."""
    control_nats_change: float | None = None
    """After pruning as many random components; None where that was not measured."""
    control_accuracy_change: float | None = None
    max_nats_rise: float | None
    max_accuracy_fall: float | None
    is_gated: bool
    """Whether the base is able enough for a fall to mean something."""
    within: bool
    """Whether the changes are within their limits; of what is not gated, true."""


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


class ModelIdentity(ReportModel):
    """Which checkpoint was corrected; `sha256` is over its weights (see `pruning.patch`)."""

    id: str
    sha256: str


class JobReport(ReportModel):
    """What the report of a job of any kind says."""

    verdict: Verdict
    reason: str
    """One sentence: why this verdict."""
    gates: list[GateResult]
    timings: dict[str, float]
    """Seconds by stage."""
    dtype: str = "float32"
    """What the model was computed in."""
    seed: int
    versions: dict[str, str]
    model: ModelIdentity


class Report(JobReport):
    """The whole outcome of a correction job, as `report.json` holds it."""

    schema_version: Literal[3] = 3
    behaviours: list[BehaviourEffect]
    budget: BudgetLimits | None = None
    damage: Damage | None
    patch: PatchSummary | None
    overlap: list[Overlap] = []
    search: list[SearchStep]
    rank_limit: RankLimitCost | None = None
    """Where the job sets `serving.max_rank`."""
    abilities: list[AbilityChange] = []
    """What became of each slice of the model's abilities."""
    not_asked: list[str] = []
    """Gates that the job did not ask for."""
    advice: list[str] = []
    """Sentences: what else there is to know about how the job ended, and what to try."""
    leftovers: list[BehaviourLeftovers] = []
    """Of each behaviour of which something is left, or for which something came instead."""
    samples: list[Sample]
    attribution: dict[str, str]
    """Attributor, score and granularity used."""
