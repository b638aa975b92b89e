"""Job specs: one file per kind, and the table of all kinds that the API accepts."""

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
"""All kinds of jobs. The table in `workers.kinds.registry` says what runs each."""


def _unite(specs: Iterable[type[JobSpecBase]]) -> Any:
    """Return the union type of these specs, discriminated by `kind`."""
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
    """Return the spec in a job's stored document. Raises pydantic's `ValidationError`."""
    return _build_adapter(tuple(SPECS.values())).validate_python(document)


@lru_cache
def _build_adapter(specs: tuple[type[JobSpecBase], ...]) -> TypeAdapter[JobSpecBase]:
    return TypeAdapter(_unite(specs))
