"""The models that can be named or called: served models, and checkpoints in the model roots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from excise.intake.model_sources import (
    ModelSourceError,
    check_checkpoint_folder,
    list_checkpoints,
    resolve_model_source,
)
from excise.names import ModelKind, PoolKind, PoolStatus, VersionStatus
from excise.resources.checkpoints import ModelView
from service.errors import NotFoundError
from service.models import Alias, ModelVersion
from service.serving import repository
from service.serving.pools import ServingPool

OWNER = "excise"


def list_callable(
    session: Session, tenant_id: str, pools: Sequence[ServingPool]
) -> list[ModelView]:
    """Return the models the tenant's applications may call: aliases, versions, pools' bases."""
    versions = {
        version.id: version for version in repository.list_callable_versions(session, tenant_id)
    }
    aliases = repository.list_aliases(session, tenant_id)
    up = {
        state.name
        for state in repository.list_pool_states(session)
        if state.status == PoolStatus.UP
    }
    bases = {pool.base_model: pool.name in up for pool in pools if pool.kind == PoolKind.LORA}
    return [
        *(_view_alias(alias, versions.get(alias.version_id)) for alias in aliases),
        *(_view_version(version.id, version, ModelKind.VERSION) for version in versions.values()),
        *(_view_base(name, is_up) for name, is_up in sorted(bases.items())),
    ]


def inspect_checkpoints(roots: Sequence[Path]) -> list[ModelView]:
    """Return every checkpoint folder under the roots, checked like a job's `model`."""
    return [_inspect(name, roots) for name in sorted(list_checkpoints(roots))]


def find_model(models: Sequence[ModelView], name: str) -> ModelView:
    """Return the model with this name. Raises `NotFoundError`."""
    found = next((model for model in models if model.id == name), None)
    if found is None:
        raise NotFoundError("There is no such model. List them with GET /v1/models.")
    return found


def _inspect(name: str, roots: Sequence[Path]) -> ModelView:
    architecture, problem = None, None
    try:
        source = resolve_model_source(name, roots)
        assert source.path is not None
        architecture = check_checkpoint_folder(source.path, roots)
    except ModelSourceError as error:
        problem = error.message
    return ModelView(
        id=name,
        created=0,
        owned_by=OWNER,
        kind=ModelKind.CHECKPOINT,
        architecture=architecture,
        usable=problem is None,
        problem=problem,
    )


def _view_alias(alias: Alias, version: ModelVersion | None) -> ModelView:
    """Return the view of an alias, which is usable while its version is."""
    view = _view_version(alias.name, version, ModelKind.ALIAS)
    return view.model_copy(update={"created": int(alias.created_at.timestamp())})


def _view_version(name: str, version: ModelVersion | None, kind: ModelKind) -> ModelView:
    is_live = version is not None and version.status == VersionStatus.LIVE
    return ModelView(
        id=name,
        created=int(version.created_at.timestamp()) if version else 0,
        owned_by=OWNER,
        kind=kind,
        usable=is_live,
        problem=None if is_live else "It is not on its server at the moment.",
    )


def _view_base(name: str, is_up: bool) -> ModelView:
    problem = None if is_up else "Its server is unavailable at the moment."
    return ModelView(
        id=name, created=0, owned_by=OWNER, kind=ModelKind.BASE, usable=is_up, problem=problem
    )
