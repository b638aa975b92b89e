"""The rules of prompt sets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from sqlalchemy.orm import Session

from excise.intake.prompt_sets import PromptSetError, parse_prompts, parse_rows
from excise.names import PromptSetFormat
from excise.resources.tenants import Quotas
from service.audit.recording import record
from service.errors import ConflictError, InvalidRequestError
from service.listing import Noun, cut_page
from service.models import PromptSet, new_id
from service.prompt_sets import repository
from service.tenants import repository as tenant_repository
from service.tenants.operations import check_room_for_prompt_set, lock_tenant

MAX_NAME_CHARACTERS = 128
NAME_PATTERN = (
    "^[ !-~\u00a1-\u00ac\u00ae-\u167f\u1681-\u1fff\u2010-\u2027\u2030-\u205e\u2070-\u2fff"
    "\u3001-\ud7ff\uf900-\ufefe\uff00-\uffef\U00010000-\U0001ffff]+$"
)
"""Neither control nor formatting characters, nor blanks other than the space."""
_PROMPT_SET = Noun("prompt set", "GET /v1/prompt-sets", re.compile(r"ps_[0-9a-f]{24}"))
_FORMATS = {
    "text/plain": "text",
    "application/jsonl": PromptSetFormat.JSONL,
    "application/x-ndjson": PromptSetFormat.JSONL,
}


def create_prompt_set(
    session: Session,
    tenant_id: str,
    name: str,
    content_type: str,
    content: bytes,
    quotas: Quotas,
    *,
    is_rows: bool = False,
) -> tuple[PromptSet, bool]:
    """Return the tenant's set with this name, format and content, and whether it is new.

    `quotas` are those of a tenant without its own; `is_rows` says that the JSON lines are rows of
    a task, not prompts. Raises `InvalidRequestError` and `QuotaExceededError`.
    """
    kind = choose_format(content_type, is_rows=is_rows)
    try:
        found = parse_rows(content) if is_rows else parse_prompts(content, kind)
    except PromptSetError as error:
        raise InvalidRequestError(error.message, param="body") from None
    prompt_set = PromptSet(
        id=new_id("ps"),
        tenant_id=tenant_id,
        name=name,
        format=kind,
        sha256=hashlib.sha256(content).hexdigest(),
        content=content,
        prompts=len(found),
        bytes=len(content),
    )
    if same := repository.find_same(session, prompt_set):
        return same, False
    check_room_for_prompt_set(session, tenant_id, quotas, len(content))
    is_new = repository.insert_if_new(session, prompt_set)
    if is_new:
        data = {"name": name, "format": kind, "bytes": len(content)}
        record(session, tenant_id, "prompt_set.create", prompt_set.id, data)
    stored = repository.find_same(session, prompt_set)
    assert stored is not None
    return stored, is_new


def delete_prompt_set(session: Session, tenant_id: str, prompt_set_id: str) -> None:
    """Delete the tenant's set.

    Raises `NotFoundError`, and `ConflictError` while a job that has not ended needs it.
    """
    lock_tenant(session, tenant_id)  # as submitting a job does
    found = get_prompt_set(session, tenant_id, prompt_set_id)
    if tenant_repository.is_prompt_set_in_use(session, tenant_id, prompt_set_id):
        raise ConflictError("A job that has not ended needs the prompt set. Wait, or cancel it.")
    session.delete(found)
    record(session, tenant_id, "prompt_set.delete", found.id, {"name": found.name})


def get_prompt_set(session: Session, tenant_id: str, prompt_set_id: str) -> PromptSet:
    """Return the tenant's set with this id. Raises `NotFoundError`."""
    return _PROMPT_SET.get(prompt_set_id, lambda own: repository.find(session, tenant_id, own))


def list_prompt_sets(
    session: Session, tenant_id: str, after: str | None, limit: int
) -> tuple[Sequence[PromptSet], bool]:
    """Return one page of the tenant's sets, newest first, and whether there are more."""
    last = _PROMPT_SET.get_last(after, lambda own: repository.find(session, tenant_id, own))
    return cut_page(repository.list_page(session, tenant_id, last, limit + 1), limit)


def choose_format(content_type: str, *, is_rows: bool = False) -> str:
    """Return `text`, `jsonl` or `rows`. Raises `InvalidRequestError` for other content types."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _FORMATS:
        raise InvalidRequestError(
            "Content-Type must be text/plain (one prompt a line) or application/jsonl "
            "(one object a line). Set the header.",
            param="Content-Type",
        )
    if is_rows and _FORMATS[media_type] != PromptSetFormat.JSONL:
        raise InvalidRequestError(
            "Rows are JSON lines. Set Content-Type to application/jsonl, or leave out format.",
            param="Content-Type",
        )
    return PromptSetFormat.ROWS if is_rows else _FORMATS[media_type]
