"""`/v1/models`: checkpoints for jobs, and the models that OpenAI clients list."""

from __future__ import annotations

from fastapi import APIRouter

from excise.resources.checkpoints import ModelList, ModelView
from service.checkpoints.operations import find_model, inspect_checkpoints, list_callable
from service.context import AppContext, Context
from service.keys.authentication import Caller
from service.keys.operations import Identity
from service.strict_bodies import StrictJsonRoute

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=StrictJsonRoute)


@router.get("")
def list_models(context: Context, caller: Caller) -> ModelList:
    """List models that can be called; for keys with more than `infer`, also checkpoints."""
    return ModelList(data=_list_visible(context, caller))


@router.get("/{model_id:path}")
def get_model(model_id: str, context: Context, caller: Caller) -> ModelView:
    """Get one model."""
    return find_model(_list_visible(context, caller), model_id)


def _list_visible(context: AppContext, caller: Identity) -> list[ModelView]:
    """Return the models visible to this key; a checkpoint that is served is listed as served."""
    settings = context.settings
    with context.database.transaction() as session:
        served = list_callable(session, caller.tenant_id, settings.serving_pools)
    if caller.is_inference_only:
        return served
    names = {model.id for model in served}
    checkpoints = inspect_checkpoints(settings.model_roots)
    return served + [model for model in checkpoints if model.id not in names]
