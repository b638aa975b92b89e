"""Reading the prompt sets that a job names, for workers; every read checks the tenant."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Row, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from excise.intake.prompt_sets import Prompt, parse_prompts
from service.errors import NotFoundError
from service.models import PromptSet


class PromptSetInfo(NamedTuple):
    """Facts about a prompt set in a report and a manifest."""

    name: str
    sha256: str
    format: str


def load_prompts(session: Session, tenant_id: str, prompt_set_id: str) -> list[Prompt]:
    """Return the prompts of one of the tenant's sets, in order. Raises `NotFoundError`."""
    row = _find(session, tenant_id, prompt_set_id, PromptSet.content, PromptSet.format)
    return parse_prompts(row.content, row.format)


def load_rows(session: Session, tenant_id: str, prompt_set_id: str) -> list[str]:
    """Return every line of one of the tenant's sets of rows. Raises `NotFoundError`."""
    row = _find(session, tenant_id, prompt_set_id, PromptSet.content)
    content: bytes = row.content
    return content.decode("utf-8-sig").split("\n")


def load_prompt_set_info(session: Session, tenant_id: str, prompt_set_id: str) -> PromptSetInfo:
    """Return name, SHA-256 and format of one of the tenant's sets. Raises `NotFoundError`."""
    columns = (PromptSet.name, PromptSet.sha256, PromptSet.format)
    row = _find(session, tenant_id, prompt_set_id, *columns)
    return PromptSetInfo(row.name, row.sha256, row.format)


def _find(
    session: Session, tenant_id: str, prompt_set_id: str, *columns: InstrumentedAttribute[Any]
) -> Row[Any]:
    """Return the columns of one of the tenant's sets. Raises `NotFoundError`."""
    row = session.execute(
        select(*columns).where(PromptSet.tenant_id == tenant_id, PromptSet.id == prompt_set_id)
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"There is no prompt set {prompt_set_id}.")
    return row
