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
from excise.specs.gates import GatesSpec, ResponsesSpec

MIN_UNDESIRED_PROMPTS = 4
MIN_REFERENCE_TEXTS = 8
MAX_BEHAVIOURS = 8
Amount = Annotated[int, Field(ge=1, le=1_000_000)]


AUTO_GRANULARITIES = (Granularity.NEURON, Granularity.WEIGHT)
"""The granularities that `auto` tries. Pruning whole heads never did as well as either of them
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
            Field(min_length=1, max_length=3, fail_fast=True),
            AfterValidator(check_distinct),
        ]
    ) = "auto"
    """What a component is; if several are given, the search finds out which works best. `auto`
    tries neurons and single weights, or only neurons if the model's single weights cannot be
    pruned."""
    reference_tokens: int = Field(default=8192, ge=64, le=1_000_000)
    """Largest number of reference tokens that are attributed; more predict damage better."""

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """The granularities given; for `auto`, those that it tries if the model supports them."""
        if self.granularity == "auto":
            return AUTO_GRANULARITIES
        if isinstance(self.granularity, list):
            return tuple(self.granularity)
        return (self.granularity,)


Amounts = Annotated[
    list[Amount],
    Field(min_length=1, max_length=32, fail_fast=True),
    AfterValidator(check_ascending),
]


class SearchSpec(SpecModel):
    """What the search tries; the service chooses whatever is not given."""

    preset: OneOf[SearchPreset] = SearchPreset.QUICK
    """`quick` runs the rounds only; `thorough` then varies amount, granularity, layers, cost weight
    and ablation together."""
    amounts: Amounts | dict[OneOf[Granularity], Amounts] | None = None
    """Numbers of components to try; with several granularities, a list for each."""
    rounds: int | None = Field(default=None, ge=1, le=64)
    """Number of rounds per granularity. Each round ranks components anew, by the responses that
    were still undesired after the round before."""
    trials: int | None = Field(default=None, ge=1, le=1000)
    """Number of trials after the rounds, with the preset `thorough`."""
    max_minutes: float | None = Field(default=None, gt=0, le=100_000)
    """After this many minutes of searching, no further trial is started (rounds always are)."""
    ablations: Annotated[list[OneOf[Ablation]], AfterValidator(check_distinct)] = Field(
        default=[Ablation.ZERO], min_length=1, max_length=len(Ablation), fail_fast=True
    )
    """What replaces a pruned neuron or head, with the preset `thorough`: zero, or its mean
    activation on reference text, as a bias (for models whose output projections have one)."""

    @model_validator(mode="after")
    def _check_preset(self) -> Self:
        """Raise `ValueError` for fields that only the preset `thorough` uses."""
        if self.preset == SearchPreset.QUICK and (
            self.trials or self.max_minutes or self.ablations != [Ablation.ZERO]
        ):
            raise ValueError(
                "search.trials, search.max_minutes and search.ablations need search.preset "
                '"thorough". Add it, or leave them out.'
            )
        return self


class BudgetSpec(SpecModel):
    """How much damage the correction may do to text that must keep working."""

    perplexity_increase: float = Field(default=0.015, ge=0, le=1e6)
    """Largest relative increase of perplexity: 0.015 is 1.5 %."""
    kl_mean: float = Field(default=0.03, ge=0, le=1e6)
    """Largest mean of KL(base ‖ corrected), nats per token."""


class PublishSpec(SpecModel):
    """Where the correction is published if it passes."""

    alias: AliasName


DEFAULT_LINES = 16
"""The limit that `auto` sets for single weights. In two rounds it cost a fiftieth of the gain and a
twentieth of the KL divergence, and a whole job passed with it that was rejected with 8
(benchmarks/RESULTS.md, "Scale"). It is also vLLM's default for --max-lora-rank."""


class ServingSpec(SpecModel):
    """Limits of the server to which the correction will be published."""

    max_rank: Literal["auto"] | Annotated[int, Field(ge=1, le=512)] | None = "auto"
    """Largest rank of the adapter that must be able to hold the correction. It limits the pruned
    neurons per layer, or the rows and columns of each matrix on which pruned weights may lie.
    `auto` limits single weights only (its cost: benchmarks/RESULTS.md, "Scale"); null sets no
    limit."""

    def find_limit(self, granularity: Granularity) -> int | None:
        """Return the limit for components of this granularity; None if there is none."""
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
    behaviours: list[BehaviourSpec] = Field(min_length=1, max_length=MAX_BEHAVIOURS, fail_fast=True)
    reference: PromptSetId
    protect: ProtectSpec | None = ProtectSpec()
    """What the search protects besides the reference text; null protects nothing else."""
    perplexity: PerplexitySpec | None = None
    attribution: AttributionSpec = AttributionSpec()
    search: SearchSpec = SearchSpec()
    budget: BudgetSpec = BudgetSpec()
    gates: GatesSpec = GatesSpec()
    """What else must keep working; the limits on perplexity and KL are in `budget`."""
    responses: ResponsesSpec = ResponsesSpec()
    """Limits on continuations of reference text (`reference`) and on responses to each behaviour's
    prompts (its name)."""
    serving: ServingSpec = ServingSpec()
    publish: PublishSpec | None = None

    def list_prompt_sets(self) -> Iterator[PromptSetUse]:
        """Yield the sets of behaviours, reference, protected text, gates and corpus."""
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
        """Yield the gates' tasks without rows."""
        return list_tasks_without_rows("gates.zero_shot", self.gates.zero_shot)

    @model_validator(mode="after")
    def _check_sets_differ(self) -> Self:
        """Raise `ValueError` if the reference is also a behaviour's set: the two must differ."""
        for position, behaviour in enumerate(self.behaviours):
            if behaviour.prompts == self.reference:
                raise ValueError(
                    f"reference is also behaviours[{position}].prompts. Use another prompt set."
                )
        return self

    @model_validator(mode="after")
    def _check_gates(self) -> Self:
        """Raise `ValueError` for gates whose figures the budget limits already."""
        if self.gates.perplexity is not None or self.gates.kl is not None:
            raise ValueError(
                "gates.perplexity and gates.kl are for `excise gate`. In a job set "
                "budget.perplexity_increase and budget.kl_mean."
            )
        return self

    @model_validator(mode="after")
    def _check_names_differ(self) -> Self:
        """Raise `ValueError` for two behaviours with the same name, as reports go by names."""
        if len({behaviour.name for behaviour in self.behaviours}) < len(self.behaviours):
            raise ValueError("behaviours have the same name twice. Give each its own.")
        if taken := {behaviour.name for behaviour in self.behaviours} & set(GatedSet):
            raise ValueError(
                f"behaviours has the name {min(taken)}, which the report uses for prompts of its "
                "own. Choose another."
            )
        return self

    @model_validator(mode="after")
    def _check_limited_sets(self) -> Self:
        """Raise `ValueError` for limits on a set that the job does not have."""
        names = {behaviour.name for behaviour in self.behaviours}
        self.responses.require_known(names | {GatedSet.REFERENCE.value})
        return self

    @model_validator(mode="after")
    def _check_amounts(self) -> Self:
        """Raise `ValueError` for amounts whose granularity is not clear."""
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
