"""The spec of a correction job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from excise.names import (
    Ablation,
    Attributor,
    GatedSet,
    Granularity,
    JobKind,
    Score,
    SearchPreset,
    Stage,
)
from excise.specs.abilities import ProtectSpec
from excise.specs.behaviours import BehaviourSpec
from excise.specs.common import (
    AliasName,
    JobSpecBase,
    OneOf,
    PerplexitySpec,
    PromptSetId,
    PromptSetUse,
    ServerTask,
    SpecModel,
    check_ascending,
    check_distinct,
)
from excise.specs.compression import list_tasks_without_rows
from excise.specs.gates import GatesSpec, ResponseLimitsSpec

MIN_UNDESIRED_PROMPTS = 4
MIN_REFERENCE_TEXTS = 8
MAX_BEHAVIOURS = 8
Amount = Annotated[int, Field(ge=1, le=1_000_000)]


AUTO_GRANULARITIES = (Granularity.NEURON, Granularity.WEIGHT)
"""What `auto` tries. Heads are left out: pruning whole heads never did as well as either
(benchmarks/RESULTS.md)."""


class AttributionSpec(SpecModel):
    """How components are found."""

    attributor: OneOf[Attributor] = Attributor.ATTNLRP
    score: OneOf[Score] = Score.BENEFIT_DAMAGE
    granularity: (
        Literal["auto"]
        | OneOf[Granularity]
        | Annotated[
            list[OneOf[Granularity]],
            Field(min_length=1, max_length=3),
            AfterValidator(check_distinct),
        ]
    ) = "auto"
    """What a component is; of several the search finds out which serves best. `auto` tries neurons
    and single weights, or neurons alone where the model's weights cannot be chosen one by one."""
    reference_tokens: int = Field(default=8192, ge=64, le=1_000_000)
    """Tokens of reference text that are attributed, at most; more predict damage better."""

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """Every granularity asked for; of `auto` those that it tries where the model has them."""
        if self.granularity == "auto":
            return AUTO_GRANULARITIES
        if isinstance(self.granularity, list):
            return tuple(self.granularity)
        return (self.granularity,)


Amounts = Annotated[
    list[Amount], Field(min_length=1, max_length=32), AfterValidator(check_ascending)
]


class SearchSpec(SpecModel):
    """What the search tries; the service chooses what is not given."""

    preset: OneOf[SearchPreset] = SearchPreset.QUICK
    """`quick` goes through its rounds; `thorough` then varies amount, granularity, layers, cost
    weight and ablation together."""
    amounts: Amounts | dict[OneOf[Granularity], Amounts] | None = None
    """Numbers of components tried; with several granularities, for each of them."""
    rounds: int | None = Field(default=None, ge=1, le=64)
    """Selections tried of each granularity, each ranked with what the one before it still got
    wrong."""
    trials: int | None = Field(default=None, ge=1, le=1000)
    """Trials after the rounds, with the preset `thorough`."""
    max_minutes: float | None = Field(default=None, gt=0, le=100_000)
    """No trial after the rounds begins later than this into the search."""
    ablations: Annotated[list[OneOf[Ablation]], AfterValidator(check_distinct)] = Field(
        default=[Ablation.ZERO], min_length=1
    )
    """What a pruned neuron or head leaves behind, with the preset `thorough`: nothing, or its
    mean activation on reference text as a bias (models whose output projections have one)."""

    @model_validator(mode="after")
    def _check_preset(self) -> Self:
        """Refuse what only the preset `thorough` reads."""
        if self.preset == SearchPreset.QUICK and (
            self.trials or self.max_minutes or self.ablations != [Ablation.ZERO]
        ):
            raise ValueError(
                "search.trials, search.max_minutes and search.ablations need search.preset "
                '"thorough". Add it, or leave them out.'
            )
        return self


class BudgetSpec(SpecModel):
    """What the correction may cost on text that must keep working."""

    perplexity_increase: float = Field(default=0.015, ge=0, le=1e6)
    """Relative: 0.015 is 1.5 %."""
    kl_mean: float = Field(default=0.03, ge=0, le=1e6)
    """Mean KL(base ‖ corrected), nats per token."""


class PublishSpec(SpecModel):
    """Where the correction is published if it passes."""

    alias: AliasName


DEFAULT_LINES = 8
"""What `auto` limits single weights to: the smallest limit that cost no effect in both trials
(benchmarks/RESULTS.md, "Scale"), and as dear to a vLLM server as 4."""


class ServingSpec(SpecModel):
    """What the server it is to be published to can take."""

    max_rank: Literal["auto"] | Annotated[int, Field(ge=1, le=512)] | None = "auto"
    """Largest rank of the adapter that the correction is to fit: most pruned neurons per layer, or
    most rows and columns of a matrix that pruned weights lie on. `auto` limits single weights
    alone (what that may cost: benchmarks/RESULTS.md, "Scale"); null limits nothing."""

    def find_limit(self, granularity: Granularity) -> int | None:
        """Return the limit for components of this granularity; None without one."""
        if granularity is Granularity.HEAD:
            return None
        if self.max_rank == "auto":
            return DEFAULT_LINES if granularity is Granularity.WEIGHT else None
        return self.max_rank


class CorrectionSpec(JobSpecBase):
    """A correction job, as submitted."""

    stages: ClassVar[Mapping[str, float]] = {
        Stage.PREPARE: 0.05,
        Stage.ATTRIBUTE: 0.11,
        Stage.SEARCH: 0.58,
        Stage.VALIDATE: 0.255,
        Stage.PACKAGE: 0.005,
    }
    """Shares measured on the demo on two CPU cores: 36, 81, 433, 190 and 1 s (2026-11-29)."""

    kind: Literal[JobKind.CORRECTION]
    behaviours: list[BehaviourSpec] = Field(min_length=1, max_length=MAX_BEHAVIOURS)
    reference: PromptSetId
    protect: ProtectSpec | None = ProtectSpec()
    """What the search keeps besides the reference text; null protects nothing."""
    perplexity: PerplexitySpec | None = None
    attribution: AttributionSpec = AttributionSpec()
    search: SearchSpec = SearchSpec()
    budget: BudgetSpec = BudgetSpec()
    gates: GatesSpec = GatesSpec()
    """What else must keep working; perplexity and KL have their limits in `budget`."""
    responses: ResponseLimitsSpec = ResponseLimitsSpec()
    """Limits on continuations of reference text and on responses to each behaviour's prompts."""
    serving: ServingSpec = ServingSpec()
    publish: PublishSpec | None = None

    def list_prompt_sets(self) -> Iterator[PromptSetUse]:
        """Those of the behaviours, the reference, what is protected, the gates and the corpus."""
        for index, behaviour in enumerate(self.behaviours):
            field = f"behaviours[{index}].prompts"
            yield PromptSetUse(field, behaviour.prompts, MIN_UNDESIRED_PROMPTS)
        yield PromptSetUse("reference", self.reference, MIN_REFERENCE_TEXTS)
        if self.protect is not None:
            yield from self.protect.list_prompt_sets()
        yield from self.gates.list_prompt_sets()
        if self.perplexity is not None:
            yield PromptSetUse("perplexity.prompts", self.perplexity.prompts, 1)

    def list_server_tasks(self) -> Iterator[ServerTask]:
        """The gates' tasks without rows."""
        return list_tasks_without_rows("gates.zero_shot", self.gates.zero_shot)

    @model_validator(mode="after")
    def _check_sets_differ(self) -> Self:
        """Refuse a reference that is an undesired set itself: nothing could be told apart."""
        for position, behaviour in enumerate(self.behaviours):
            if behaviour.prompts == self.reference:
                raise ValueError(
                    f"reference is also behaviours[{position}].prompts. Use another prompt set."
                )
        return self

    @model_validator(mode="after")
    def _check_gates(self) -> Self:
        """Refuse a second limit for what the budget limits already."""
        if self.gates.perplexity is not None or self.gates.kl is not None:
            raise ValueError(
                "gates.perplexity and gates.kl are for `excise gate`. In a job set "
                "budget.perplexity_increase and budget.kl_mean."
            )
        return self

    @model_validator(mode="after")
    def _check_names_differ(self) -> Self:
        """Refuse two behaviours of one name: the report tells them apart by it."""
        if len({behaviour.name for behaviour in self.behaviours}) < len(self.behaviours):
            raise ValueError("behaviours have the same name twice. Give each its own.")
        if taken := {behaviour.name for behaviour in self.behaviours} & set(GatedSet):
            raise ValueError(
                f"behaviours has the name {min(taken)}, which the report uses for prompts of its "
                "own. Choose another."
            )
        return self

    @model_validator(mode="after")
    def _check_amounts(self) -> Self:
        """Refuse amounts that do not say what they count."""
        granularities, amounts = self.attribution.granularities, self.search.amounts
        if isinstance(amounts, list) and len(granularities) > 1:
            raise ValueError(
                "search.amounts is one list for several granularities (auto tries "
                f"{' and '.join(AUTO_GRANULARITIES)}). Give an object with a list for each, name "
                "one in attribution.granularity, or leave search.amounts out."
            )
        if isinstance(amounts, dict) and not amounts.keys() <= set(granularities):
            raise ValueError(
                "search.amounts names a granularity that attribution.granularity does not. "
                "Remove it, or add it there."
            )
        return self
