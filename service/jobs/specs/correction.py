"""The spec of a correction job."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from service.jobs.specs.common import (
    AliasName,
    AttributorName,
    GranularityName,
    JobSpecBase,
    Name,
    PerplexitySpec,
    PromptSetId,
    SpecModel,
    check_ascending,
)

MIN_UNDESIRED_PROMPTS = 4
MIN_REFERENCE_TEXTS = 8

Amount = Annotated[int, Field(ge=1, le=1_000_000)]


class BehaviourSpec(SpecModel):
    """One behaviour to correct: the prompts that bring it out and how it is measured."""

    name: Name
    metric: Literal["response_uniqueness"]
    """Response uniqueness ratio; higher is better."""
    prompts: PromptSetId
    max_new_tokens: int = Field(default=50, ge=8, le=512)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """A response below this shows the behaviour."""


class AttributionSpec(SpecModel):
    """How components are found."""

    attributor: AttributorName = "attnlrp"
    score: Literal["benefit_damage", "benefit_cost", "signed_difference"] = "benefit_damage"
    granularity: GranularityName = "neuron"
    reference_tokens: int = Field(default=8192, ge=64, le=1_000_000)
    """Tokens of reference text that are attributed, at most; more predict damage better."""


class SearchSpec(SpecModel):
    """Which amounts are tried, and how often; the service chooses what is not given."""

    amounts: (
        Annotated[list[Amount], Field(min_length=1, max_length=32), AfterValidator(check_ascending)]
        | None
    ) = None
    rounds: int | None = Field(default=None, ge=1, le=64)
    """Selections tried, each ranked with what the one before it still got wrong."""


class BudgetSpec(SpecModel):
    """What the correction may cost, and how much it must do."""

    perplexity_increase: float = Field(default=0.015, ge=0, le=1e6)
    """Relative: 0.015 is 1.5 %."""
    kl_mean: float = Field(default=0.03, ge=0, le=1e6)
    """Mean KL(base ‖ corrected), nats a token."""
    min_effect: float = Field(default=0.1, ge=0, le=1e6)
    """Least improvement of the behaviour's metric on held-out prompts."""


class PublishSpec(SpecModel):
    """Where the correction is published if it passes."""

    alias: AliasName


class ServingSpec(SpecModel):
    """What the server it is to be published to can take."""

    max_rank: int | None = Field(default=None, ge=1, le=512)
    """Most pruned neurons a layer, so that the correction fits an adapter of this rank."""


class CorrectionSpec(JobSpecBase):
    """A correction job, as submitted."""

    kind: Literal["correction"]
    behaviours: list[BehaviourSpec] = Field(min_length=1, max_length=1)
    reference: PromptSetId
    perplexity: PerplexitySpec | None = None
    attribution: AttributionSpec = AttributionSpec()
    search: SearchSpec = SearchSpec()
    budget: BudgetSpec = BudgetSpec()
    serving: ServingSpec = ServingSpec()
    publish: PublishSpec | None = None

    @model_validator(mode="after")
    def _check_sets_differ(self) -> Self:
        """Refuse a reference that is the undesired set itself: nothing could be told apart."""
        if any(behaviour.prompts == self.reference for behaviour in self.behaviours):
            raise ValueError("reference is also behaviours[0].prompts. Use another prompt set.")
        return self
