"""Whether a checkpoint's weights can be changed: they must be stored as ordinary numbers."""

from __future__ import annotations

from workers.pruning.safetensors_files import list_tensors
from workers.stages.context import InvalidInputError
from workers.stages.inputs import Inputs

_PACKED = ("F8", "F6", "F4", "I8", "U16", "U32", "U64")
"""Beginnings of the dtypes, as safetensors names them, in which quantised weights are stored."""


def check_stored_weights(inputs: Inputs) -> None:
    """Raise `InvalidInputError` for quantised weights, before anything is computed with them.

    No patch could hold them, nor a corrected checkpoint be written that reads as the measured one.
    """
    stored = list_tensors(inputs.checkpoint_path).values()
    packed = [tensor for tensor in stored if tensor.dtype.startswith(_PACKED)]
    if packed:
        first = min(packed, key=lambda tensor: tensor.name)
        raise InvalidInputError(
            f"The checkpoint is quantised: {len(packed)} of its weights are stored as "
            f"{', '.join(sorted({tensor.dtype for tensor in packed}))} ({first.name}, …), which "
            "cannot be changed exactly. Give the checkpoint from before, or one saved in bfloat16, "
            "and quantise the corrected one."
        )
