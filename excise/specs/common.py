"""Parts common to all kinds of job spec: strict validation, storable text, shared fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import not_
from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from excise.names import ComputeDtype
from excise.names.name import Name

MAX_METADATA_PAIRS = 16
MAX_PATTERN_CHARACTERS = 1000
"""Longest regular expression. With ordinary parts, one of this length compiles within 0.05 s."""

_Text = TypeVar("_Text", bound=str)
_Name = TypeVar("_Name", bound=Name)
_Limits = TypeVar("_Limits", bound=BaseModel)
OneOf = Annotated[_Name, Strict(False)]
"""A name in a spec. Specs are strict, but a name is accepted as a string."""


def check_storable(value: str) -> str:
    """Return `value` if PostgreSQL can store it as text; raises `ValueError` otherwise."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("contains a NUL or half a surrogate pair. Remove it.")
    return value


def read_whole(value: object) -> object:
    """Return `value` with whole floats, also in lists, as integers: in JSON, 10.0 is 10."""
    if isinstance(value, list):
        return [read_whole(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_ascending(amounts: list[int]) -> list[int]:
    """Return `amounts` if they ascend without repeats; raises `ValueError` otherwise."""
    if any(later <= earlier for earlier, later in pairwise(amounts)):
        raise ValueError("must be ascending without repeats. Sort it and remove the repeats.")
    return amounts


def check_distinct(names: list[_Text]) -> list[_Text]:
    """Return `names` if there are no repeats; raises `ValueError` otherwise."""
    if len(set(names)) < len(names):
        raise ValueError("names something twice. Remove the repeats.")
    return names


def inherit_limits(own: _Limits, usual: BaseModel) -> _Limits:
    """Return `own` with what it does not give from `usual`, so that it means the same once dumped.

    `usual` may have further fields.
    """
    inherited = type(own).model_fields.keys() - own.model_fields_set
    return own.model_copy(update={field: getattr(usual, field) for field in inherited})


Storable = AfterValidator(check_storable)
PlainName = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")
]
AliasName = Annotated[
    str,
    Field(
        max_length=96, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}@[A-Za-z0-9][A-Za-z0-9._-]{0,30}$"
    ),
]
PromptSetId = Annotated[str, Field(min_length=1, max_length=64), Storable]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64), Storable]
MetadataValue = Annotated[str, Field(max_length=512), Storable]


class SpecModel(BaseModel):
    """Base class of the parts of specs: immutable, strict about types, unknown fields and NaN.

    The docstrings of fields become their descriptions in the OpenAPI document.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class PerplexitySpec(SpecModel):
    """The corpus whose perplexity must not rise too much."""

    prompts: PromptSetId
    context: int = Field(default=512, ge=32, le=4096)
    """Tokens per sequence."""
    sequences: int = Field(default=40, ge=1, le=1000)


@dataclass(frozen=True)
class PromptSetUse:
    """One prompt set that a spec names."""

    field: str
    """The field that names it, such as `behaviours[0].prompts`."""
    prompt_set_id: str
    least: int
    """Smallest number of prompts or rows that suffices."""
    is_rows: bool = False
    """Whether it must be a set of rows instead of prompts."""


@dataclass(frozen=True)
class ServerTask:
    """A zero-shot task without rows in the spec, for which the server must have them."""

    field: str
    """The field that names the task, such as `tasks[0]`."""
    name: str


class JobSpecBase(SpecModel):
    """Fields common to all kinds of jobs."""

    stages: ClassVar[Mapping[str, float]]
    """The stages of this kind of job in order, each with its usual share of the job's time."""

    model: Annotated[str, Field(min_length=1, max_length=1024), Storable]
    dtype: OneOf[ComputeDtype] = ComputeDtype.FLOAT32
    """Number format of the model's weights and activations; relevance is always summed in
    float32."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict, max_length=MAX_METADATA_PAIRS
    )
    insist: bool = Field(default=False, exclude_if=not_)
    """Run it even where it is estimated not to fit: estimates are right within a factor of two.
    Written down only where it is asked for: it changes no result, and releases before it do not
    know it."""
    kind: str
    """The name of the kind; each kind narrows this to its own."""

    def list_prompt_sets(self) -> Iterator[PromptSetUse]:
        """Yield every prompt set that the spec names."""
        yield from ()

    def list_server_tasks(self) -> Iterator[ServerTask]:
        """Yield every zero-shot task that the spec names without rows."""
        yield from ()
