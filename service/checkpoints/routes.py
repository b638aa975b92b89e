"""`/v1/models`."""

from __future__ import annotations

from fastapi import APIRouter

from service.checkpoints.operations import inspect_checkpoints
from service.checkpoints.schemas import CheckpointList
from service.context import Context
from service.keys.authentication import Reader

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(context: Context, _: Reader) -> CheckpointList:
    """The checkpoints under the model roots, and why some cannot be used."""
    return CheckpointList(data=inspect_checkpoints(context.settings.model_roots))
