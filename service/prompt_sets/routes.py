"""`/v1/prompt-sets`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from excise.resources.prompt_sets import PromptSetList, PromptSetView
from service.context import Context
from service.keys.authentication import Reader, Submitter
from service.paging import Paging
from service.prompt_sets import operations
from service.strict_bodies import StrictJsonRoute

router = APIRouter(prefix="/v1/prompt-sets", tags=["prompt sets"], route_class=StrictJsonRoute)

_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "text/plain": {
                "schema": {
                    "type": "string",
                    "description": "One prompt a line, in UTF-8",
                    "pattern": r"^[^\u0000]*[^\s\u0000\u001c-\u001f\u0085][^\u0000]*$",
                }
            },
            "application/jsonl": {
                "schema": {"type": "string", "description": "One JSON object a line, in UTF-8"}
            },
        },
    }
}


async def _read_body(request: Request) -> bytes:
    """Return the raw body, whose size was checked as it arrived."""
    return await request.body()


@router.post(
    "",
    status_code=201,
    openapi_extra=_UPLOAD,
    responses={
        200: {"model": PromptSetView, "description": "The same set already existed"},
        409: {"description": "A quota is used up"},
    },
)
async def create_prompt_set(
    name: Annotated[
        str,
        Query(
            min_length=1,
            max_length=operations.MAX_NAME_CHARACTERS,
            pattern=operations.NAME_PATTERN,
            description="Name of the set",
        ),
    ],
    content: Annotated[bytes, Depends(_read_body)],
    context: Context,
    submitter: Submitter,
    response: Response,
    content_type: Annotated[str, Header(include_in_schema=False)] = "",
    format: Annotated[  # noqa: A002 - the API's name
        Literal["prompts", "rows"], Query(description="Whether JSON lines are prompts or task rows")
    ] = "prompts",
) -> PromptSetView:
    """Upload a file of prompts or rows; the same file and name again return the same set."""

    def create() -> tuple[PromptSetView, bool]:
        with context.database.transaction() as session:
            prompt_set, is_new = operations.create_prompt_set(
                session,
                submitter.tenant_id,
                name,
                content_type,
                content,
                context.settings.quotas,
                is_rows=format == "rows",
            )
            return PromptSetView.model_validate(prompt_set, from_attributes=True), is_new

    lines = context.upload_lines
    async with lines.turn(submitter.tenant_id), lines.place():
        view, is_new = await lines.run(create)
    response.status_code = 201 if is_new else 200
    return view


@router.get("", responses={404: {"description": "No such `after`"}})
def list_prompt_sets(context: Context, reader: Reader, page_request: Paging) -> PromptSetList:
    """List one page of the tenant's prompt sets, newest first."""
    after, limit = page_request.after, page_request.limit
    with context.database.transaction() as session:
        page, has_more = operations.list_prompt_sets(session, reader.tenant_id, after, limit)
        views = [PromptSetView.model_validate(found, from_attributes=True) for found in page]
        return PromptSetList(data=views, has_more=has_more)


@router.get("/{prompt_set_id}")
def get_prompt_set(prompt_set_id: str, context: Context, reader: Reader) -> PromptSetView:
    """Get one prompt set."""
    with context.database.transaction() as session:
        found = operations.get_prompt_set(session, reader.tenant_id, prompt_set_id)
        return PromptSetView.model_validate(found, from_attributes=True)


@router.delete(
    "/{prompt_set_id}",
    status_code=204,
    response_class=Response,
    responses={409: {"description": "A job that has not ended needs it"}},
)
def delete_prompt_set(prompt_set_id: str, context: Context, submitter: Submitter) -> None:
    """Delete a prompt set that no open job needs."""
    with context.database.transaction() as session:
        operations.delete_prompt_set(session, submitter.tenant_id, prompt_set_id)
