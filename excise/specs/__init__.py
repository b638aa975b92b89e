"""Job specs: one file a kind, and the union of them all that the API takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from excise.specs.circuit import CircuitSpec
from excise.specs.compression import CompressionSpec
from excise.specs.correction import CorrectionSpec

JobSpec = Annotated[CorrectionSpec | CircuitSpec | CompressionSpec, Field(discriminator="kind")]

_ADAPTER: TypeAdapter[CorrectionSpec | CircuitSpec | CompressionSpec] = TypeAdapter(JobSpec)

__all__ = [
    "CircuitSpec",
    "CompressionSpec",
    "CorrectionSpec",
    "JobSpec",
    "parse_spec",
]


def parse_spec(document: Mapping[str, Any]) -> CorrectionSpec | CircuitSpec | CompressionSpec:
    """The spec a job's row holds. Raises pydantic's `ValidationError`."""
    return _ADAPTER.validate_python(document)
