"""Job specs: one file a kind, and the table of all kinds that the API takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

from excise.names import JobKind
from excise.specs.circuit import CircuitSpec
from excise.specs.common import JobSpecBase
from excise.specs.compression import CompressionSpec
from excise.specs.correction import CorrectionSpec

SPECS: dict[str, type[JobSpecBase]] = {
    JobKind.CORRECTION: CorrectionSpec,
    JobKind.CIRCUIT: CircuitSpec,
    JobKind.COMPRESSION: CompressionSpec,
}
"""Every kind of job there is. What runs each is in the table of `workers.kinds.registry`."""


def _unite(specs: Iterable[type[JobSpecBase]]) -> Any:
    """The type of a spec of any of these kinds, told apart by `kind`."""
    return Annotated[reduce(or_, specs), Field(discriminator="kind")]


if TYPE_CHECKING:
    JobSpec = JobSpecBase
else:
    JobSpec = _unite(SPECS.values())

__all__ = [
    "SPECS",
    "CircuitSpec",
    "CompressionSpec",
    "CorrectionSpec",
    "JobSpec",
    "parse_spec",
]


def parse_spec(document: Mapping[str, Any]) -> JobSpec:
    """The spec a job's row holds. Raises pydantic's `ValidationError`."""
    return _build_adapter(tuple(SPECS.values())).validate_python(document)


@lru_cache
def _build_adapter(specs: tuple[type[JobSpecBase], ...]) -> TypeAdapter[JobSpecBase]:
    return TypeAdapter(_unite(specs))
