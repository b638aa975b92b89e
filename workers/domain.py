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


class ReportModel(BaseModel):
    """Base of the report's parts: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SplitEffect(ReportModel):
    """A behaviour's mean metric on one split, before and after."""

    n: int
    before: float
    after: float


class HeldOutEffect(SplitEffect):
    """The same with the paired bootstrap 95 % interval of after − before."""

    ci_low: float
    ci_high: float


class RandomControl(ReportModel):
    """The held-out metric after pruning as many random components, module by module alike."""

    before: float
    after: float
    ci_low: float
    ci_high: float
    draws: int


class BehaviourEffect(ReportModel):
    """What the correction did to one behaviour."""

    name: str
    metric: str
    direction: Literal["higher_is_better", "lower_is_better"]
    threshold: float
    prompts: int
    """Prompts given."""
    triggering: int
    """Prompts on which the base model shows the behaviour; only these are counted below."""
    tune: SplitEffect
    held_out: HeldOutEffect | None
    random_control: RandomControl | None


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


class SearchStep(ReportModel):
    """One amount tried on the tuning split."""

    components: int
    tune_metric: float
    perplexity: float
    """Of the tuning part of the reference text."""
    perplexity_increase: float
    """Relative to the base model on the same text."""
    kl: float
    within_budget: bool
    chosen: bool


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


class Sample(ReportModel):
    """One prompt with the base and the corrected model's response, greedy."""

    prompt: str
    split: Literal["tune", "held_out"]
    before: str
    after: str
    metric_before: float
    metric_after: float


class ModelIdentity(ReportModel):
    """Which checkpoint was corrected; `sha256` is over its weights (see `pruning.patch`)."""

    id: str
    sha256: str


class Report(ReportModel):
    """The whole outcome of a correction job, as `report.json` holds it."""

    schema_version: Literal[1] = 1
    verdict: Verdict
    reason: str
    """One sentence: why this verdict."""
    behaviours: list[BehaviourEffect]
    damage: Damage | None
    patch: PatchSummary | None
    search: list[SearchStep]
    gates: list[GateResult]
    samples: list[Sample]
    attribution: dict[str, str]
    """Attributor, score and granularity used."""
    timings: dict[str, float]
    seed: int
    versions: dict[str, str]
    model: ModelIdentity
