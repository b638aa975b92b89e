"""`/v1/chat/completions`, `/v1/completions`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from excise.names import KeyScope
from service.context import get_context
from service.departures import wait_until_left
from service.gateway.requests import ChatRequest, CompletionOptions, CompletionRequest
from service.gateway.upstream import Path
from service.keys.authentication import Caller
from service.keys.operations import Identity
from service.strict_bodies import StrictJsonRoute

LIMITS_HEADER = "X-Excise-Rate-Limits"
"""`shared`: counted for all API processes together. `process`: for each alone, as the broker is
down."""
router = APIRouter(tags=["gateway"], route_class=StrictJsonRoute)

_ANSWER: dict[int | str, dict[str, object]] = {
    200: {
        "description": "OpenAI's completion object, or a stream of its chunks",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    },
    404: {"description": "No such model"},
    429: {"description": "The key sends more requests than it may, or has too many under way"},
}


async def get_inferrer(request: Request, identity: Caller) -> Identity:
    """Return the caller of a model, after counting the request.

    Raises `ForbiddenError` and `RateLimitedError`.
    """
    identity.require(KeyScope.INFER)
    await get_context(request).gateway.limiter.take(identity.key_id)
    return identity


Inferrer = Annotated[Identity, Depends(get_inferrer)]


@router.post("/v1/chat/completions", response_class=Response, responses=_ANSWER)
async def create_chat_completion(
    body: ChatRequest, request: Request, inferrer: Inferrer
) -> Response:
    """Answer a conversation; `model` is an alias, a version or a base model."""
    return await _forward("/v1/chat/completions", body, request, inferrer)


@router.post("/v1/completions", response_class=Response, responses=_ANSWER)
async def create_completion(
    body: CompletionRequest, request: Request, inferrer: Inferrer
) -> Response:
    """Continue a prompt; `model` is an alias, a version or a base model."""
    return await _forward("/v1/completions", body, request, inferrer)


async def _forward(
    path: Path, body: CompletionOptions, request: Request, inferrer: Identity
) -> Response:
    """Return the answer of the model that the request names."""
    gateway = get_context(request).gateway
    answer = await gateway.forwarder.forward(
        inferrer, path, body, partial(wait_until_left, request)
    )
    answer.headers[LIMITS_HEADER] = "shared" if gateway.limiter.is_shared else "process"
    return answer
