"""Check that a spec's checkpoint is of a kind that Excise loads and this server allows."""

from __future__ import annotations

from excise.intake.model_sources import ModelSource, ModelSourceError, resolve_model_source
from excise.specs import JobSpec
from service.errors import InvalidRequestError
from service.settings import Settings


def check_model(spec: JobSpec, settings: Settings) -> ModelSource:
    """Return the job's checkpoint. Raises `InvalidRequestError` if Excise cannot load it."""
    try:
        source = resolve_model_source(spec.model, settings.model_roots)
    except ModelSourceError as error:
        raise InvalidRequestError(error.message, param="model") from error
    if source.repository is not None:
        organisation, allowed = source.repository.partition("/")[0], settings.hub_organisations
        if not {organisation, "*"} & set(allowed):
            raise InvalidRequestError(
                f"model belongs to the hub organisation {organisation}, which is not among "
                f"those allowed here ({', '.join(allowed) or 'none'}). Use a folder under the "
                "model roots, or have the operator add it to EXCISE_HUB_ORGANISATIONS.",
                param="model",
            )
    return source
