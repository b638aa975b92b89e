"""The resources of a worker, as it reports them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from excise.names import ComputeDtype

MOST_BYTES = 2**60
LEAST_SPEED, MOST_SPEED = 1e6, 1e21
"""Limits of plausible speeds: a thousandth of a slow core, and more than a whole cluster of
accelerators."""


LEAST_LOW_PRECISION_GAIN = 2.0
"""How much faster products in bfloat16 must be for `auto` to choose it. With AMX and on GPUs they
are four times as fast or more; on other CPUs mostly slower."""


class Machine(BaseModel):
    """Memory, speed and device of one worker."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True
    )

    device: str = Field(default="cpu", max_length=200)
    """`cpu`, or the name of the GPU."""
    device_bytes: int = Field(default=0, ge=0, le=MOST_BYTES)
    """Memory of all GPUs that a job may use; 0 if there is none and main memory is used."""
    host_bytes: int = Field(gt=0, le=MOST_BYTES)
    """Main memory, limited by the worker's cgroup."""
    disk_bytes: int | None = Field(default=None, ge=0, le=MOST_BYTES)
    """Free space where results are kept; null if it is not known, as for S3."""
    flops: float = Field(ge=LEAST_SPEED, le=MOST_SPEED)
    """Multiplications and additions per second in large float32 matrix products, measured."""
    low_precision_flops: float | None = Field(default=None, ge=LEAST_SPEED, le=MOST_SPEED)
    """The same in bfloat16; null if it was not measured."""
    bytes_per_second: float = Field(ge=LEAST_SPEED, le=MOST_SPEED)
    """How fast the device reads its memory, measured."""


def choose_dtype(wanted: ComputeDtype, machines: Sequence[Machine]) -> ComputeDtype:
    """Return `wanted`, or for `auto` the one that suits all of these machines."""
    if wanted is not ComputeDtype.AUTO:
        return wanted
    gains = [(own.low_precision_flops or 0) / own.flops for own in machines]
    gains_enough = min(gains, default=0) >= LEAST_LOW_PRECISION_GAIN
    return ComputeDtype.BFLOAT16 if gains_enough else ComputeDtype.FLOAT32


class GivenMachine(Machine):
    """A machine that a request describes, read strictly."""

    model_config = ConfigDict(extra="forbid", strict=True)


USUAL_MACHINE = Machine(host_bytes=24 * 2**30, flops=2.7e11, bytes_per_second=2e10)
"""Machine for which estimates are made until a worker has reported its own: two cores like those on
which the recorded jobs ran (benchmarks/RESULTS.md)."""
