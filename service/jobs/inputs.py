"""What workers read of the prompt sets a job names. Only reads; every one checks the tenant."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.models import PromptSet
from service.prompt_sets.parsing import parse_prompts


class PromptSetInfo(NamedTuple):
    """What a report says about a prompt set."""

    name: str
    sha256: str


def load_prompts(session: Session, tenant_id: str, prompt_set_id: str) -> list[str]:
    """The prompts of one of the tenant's sets, in order. Raises `NotFoundError`."""
    row = session.execute(
        select(PromptSet.content, PromptSet.format).where(
            PromptSet.tenant_id == tenant_id, PromptSet.id == prompt_set_id
        )
    ).one_or_none()
    if row is None:
        raise _no_prompt_set(prompt_set_id)
    return parse_prompts(row.content, row.format)


def load_rows(session: Session, tenant_id: str, prompt_set_id: str) -> list[str]:
    """The lines of one of the tenant's sets of rows, blank ones too. Raises `NotFoundError`."""
    content = session.scalar(
        select(PromptSet.content).where(
            PromptSet.tenant_id == tenant_id, PromptSet.id == prompt_set_id
        )
    )
    if content is None:
        raise _no_prompt_set(prompt_set_id)
    return content.decode("utf-8-sig").split("\n")


def load_prompt_set_info(session: Session, tenant_id: str, prompt_set_id: str) -> PromptSetInfo:
    """Name and SHA-256 of one of the tenant's sets. Raises `NotFoundError`."""
    row = session.execute(
        select(PromptSet.name, PromptSet.sha256).where(
            PromptSet.tenant_id == tenant_id, PromptSet.id == prompt_set_id
        )
    ).one_or_none()
    if row is None:
        raise _no_prompt_set(prompt_set_id)
    return PromptSetInfo(row.name, row.sha256)


def _no_prompt_set(prompt_set_id: str) -> NotFoundError:
    return NotFoundError(f"There is no prompt set {prompt_set_id}.")
