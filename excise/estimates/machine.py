"""What a worker has to work with, as it reports itself."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Machine(BaseModel):
    """Memory, speed and device of one worker."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    device: str = "cpu"
    """`cpu`, or the name of the GPU."""
    device_bytes: int = Field(default=0, ge=0)
    """Memory of all GPUs that a job may use; 0 where the main memory is the device."""
    host_bytes: int = Field(gt=0)
    """Main memory, as far as the worker's cgroup allows."""
    flops: float = Field(gt=0)
    """Multiplications and additions a second of large float32 matrix products, measured."""
    low_precision_flops: float | None = Field(default=None, gt=0)
    """The same in bfloat16; None where it was not measured."""
    bytes_per_second: float = Field(gt=0)
    """How fast the device reads its memory, measured."""
