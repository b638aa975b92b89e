"""What jobs look like on the wire: the spec going in, the job object coming out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_METADATA_PAIRS = 16
MIN_UNDESIRED_PROMPTS = 4
MIN_REFERENCE_TEXTS = 8
SUPPORTED_KINDS = ("correction",)
STAGES = {"correction": ("prepare", "attribute", "search", "validate", "package")}


def check_storable(value: str) -> str:
    """`value`, if it is text PostgreSQL can hold; raises `ValueError` otherwise."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("contains a NUL or half a surrogate pair. Remove it.")
    return value


def _check_ascending(amounts: list[int]) -> list[int]:
    """`amounts`, if every entry is larger than the one before; raises `ValueError` otherwise."""
    if any(later <= earlier for earlier, later in pairwise(amounts)):
        raise ValueError("must be ascending without repeats. Sort it and remove the repeats.")
    return amounts


Storable = AfterValidator(check_storable)
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]
PromptSetId = Annotated[str, Field(min_length=1, max_length=64), Storable]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64), Storable]
MetadataValue = Annotated[str, Field(max_length=512), Storable]
Amount = Annotated[int, Field(ge=1, le=10_000)]


class SpecModel(BaseModel):
    """Base of the spec's parts: immutable, strict about types, unknown fields and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BehaviourSpec(SpecModel):
    """One behaviour to correct: the prompts that bring it out and how it is measured."""

    name: Name
    metric: Literal["response_uniqueness"]
    """Response uniqueness ratio; higher is better."""
    prompts: PromptSetId
    max_new_tokens: int = Field(default=50, ge=8, le=512)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """A response below this shows the behaviour."""


class PerplexitySpec(SpecModel):
    """The corpus whose perplexity must not suffer."""

    prompts: PromptSetId
    context: int = Field(default=512, ge=32, le=4096)
    """Tokens a sequence."""
    sequences: int = Field(default=40, ge=1, le=1000)


class AttributionSpec(SpecModel):
    """How components are found."""

    attributor: Literal[
        "attnlrp", "cp_lrp", "gradient_x_input", "activation", "magnitude", "random"
    ] = "attnlrp"
    score: Literal["benefit_squared_cost", "benefit_cost", "signed_difference"] = (
        "benefit_squared_cost"
    )
    granularity: Literal["neuron"] = "neuron"


class SearchSpec(SpecModel):
    """Which amounts are tried; the service chooses when none are given."""

    amounts: (
        Annotated[
            list[Amount], Field(min_length=1, max_length=32), AfterValidator(_check_ascending)
        ]
        | None
    ) = None


class BudgetSpec(SpecModel):
    """What the correction may cost, and how much it must do."""

    perplexity_increase: float = Field(default=0.015, ge=0, le=1e6)
    """Relative: 0.015 is 1.5 %."""
    kl_mean: float = Field(default=0.03, ge=0, le=1e6)
    """Mean KL(base ‖ corrected), nats a token."""
    min_effect: float = Field(default=0.1, ge=0, le=1e6)
    """Least improvement of the behaviour's metric on held-out prompts."""


class CorrectionSpec(SpecModel):
    """A correction job, as submitted."""

    kind: Literal["correction"]
    model: Annotated[str, Field(min_length=1, max_length=1024), Storable]
    behaviours: list[BehaviourSpec] = Field(min_length=1, max_length=1)
    reference: PromptSetId
    perplexity: PerplexitySpec | None = None
    attribution: AttributionSpec = AttributionSpec()
    search: SearchSpec = SearchSpec()
    budget: BudgetSpec = BudgetSpec()
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict, max_length=MAX_METADATA_PAIRS
    )

    @model_validator(mode="after")
    def _check_sets_differ(self) -> Self:
        """Refuse a reference that is the undesired set itself: nothing could be told apart."""
        if any(behaviour.prompts == self.reference for behaviour in self.behaviours):
            raise ValueError("reference is also behaviours[0].prompts. Use another prompt set.")
        return self


JobSpec = CorrectionSpec
"""Every kind of job the service takes; becomes a union discriminated by `kind` with the second."""


def parse_spec(document: Mapping[str, Any]) -> JobSpec:
    """The spec a job's row holds."""
    return CorrectionSpec.model_validate(document)


class StageView(BaseModel):
    """One stage of a job."""

    name: str
    status: Literal["pending", "running", "succeeded", "skipped", "failed"]
    done: int
    total: int | None
    message: str | None
    seconds: float | None


class ArtifactView(BaseModel):
    """One file a job gives to its owner."""

    name: str
    sha256: str
    bytes: int
    media_type: str


class JobErrorView(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobView(BaseModel):
    """The job object."""

    id: str
    object: Literal["job"] = "job"
    kind: str
    status: Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled"]
    verdict: Literal["passed", "rejected", "no_effect"] | None
    model: str
    spec: dict[str, Any]
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    estimated_finish: datetime | None
    attempts: int
    cancel_requested: bool
    stage: str | None
    """The stage that is running now."""
    stages: list[StageView]
    error: JobErrorView | None
    artifacts: list[ArtifactView]


class JobList(BaseModel):
    """One page of jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[JobView]
    has_more: bool


class EventView(BaseModel):
    """Something that happened to a job."""

    id: int
    object: Literal["job.event"] = "job.event"
    type: str
    level: str
    message: str
    data: dict[str, Any]
    created_at: datetime


class EventList(BaseModel):
    """One page of a job's events, oldest first."""

    object: Literal["list"] = "list"
    data: list[EventView]
    has_more: bool
