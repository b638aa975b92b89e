"""Strict JSON request bodies: no key occurs twice, and fields are limited in number."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import TooManyFieldsError, load_json
from service.errors import InvalidRequestError

MAX_FIELDS = 20_000
"""Largest number of fields of all objects of a body. Validation reports each unknown one, which
costs a hundred times what reading it does. Chosen by hand: 2,048 messages with calls of tools have
about as many."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictJsonRoute(APIRoute):
    """A route that reads JSON bodies strictly; give it to a router as `route_class`."""

    def get_route_handler(self) -> Handler:
        """Return the route's handler, wrapped so that requests read their JSON strictly."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            try:
                return await handle(_StrictRequest(request.scope, request.receive))
            except HTTPException as error:  # what FastAPI makes of an error while it reads JSON
                if isinstance(error.__cause__, DuplicateKeyError):
                    raise _build_error(error.__cause__) from error
                if isinstance(error.__cause__, TooManyFieldsError):
                    message = f"In the body, {error.__cause__}"
                    raise InvalidRequestError(message, param="body") from error
                raise

        return handle_strictly


class _StrictRequest(Request):
    """A request in whose JSON no key may occur twice, and whose fields are limited in number."""

    async def json(self) -> Any:
        """Return the body's value. Raises what `load_json` does."""
        if not hasattr(self, "_json"):
            self._json = load_json(await self.body(), MAX_FIELDS)
        return self._json


def _build_error(error: DuplicateKeyError) -> InvalidRequestError:
    return InvalidRequestError(f"In the body, {error}", param=error.key)
