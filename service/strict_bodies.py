"""Strict JSON request bodies: a key that occurs twice is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import load_json
from service.errors import InvalidRequestError

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
                raise

        return handle_strictly


class _StrictRequest(Request):
    """A request in whose JSON no key may occur twice."""

    async def json(self) -> Any:
        """Return the body's value. Raises `DuplicateKeyError`, and what `json.loads` raises."""
        if not hasattr(self, "_json"):
            self._json = load_json(await self.body())
        return self._json


def _build_error(error: DuplicateKeyError) -> InvalidRequestError:
    return InvalidRequestError(f"In the body, {error}", param=error.key)
