"""The home page, and the page of the REST API with its files."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from service.errors import NotFoundError

router = APIRouter(include_in_schema=False)

_OWN = files("service.web")
# A package that contains Swagger UI's files as published, and is updated with them.
_SWAGGER_UI = files("fastapi_offline").joinpath("static")
_HOME = _OWN.joinpath("home.html").read_text("utf-8")
_DOCS = _OWN.joinpath("docs.html").read_text("utf-8")
_DOCS_FILES: dict[str, tuple[Traversable, str]] = {
    "start.js": (_OWN.joinpath("docs.js"), "text/javascript"),
    "swagger-ui-bundle.js": (_SWAGGER_UI.joinpath("swagger-ui-bundle.js"), "text/javascript"),
    "swagger-ui.css": (_SWAGGER_UI.joinpath("swagger-ui.css"), "text/css"),
}
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)
"""Scripts and requests from this host only; Swagger UI sets styles on elements."""


@router.get("/", response_class=HTMLResponse)
def get_home() -> str:
    """Get the home page."""
    return _HOME


@router.get("/docs")
def get_docs() -> HTMLResponse:
    """Get the REST API's page, Swagger UI, which uses no other host."""
    return HTMLResponse(_DOCS, headers={"Content-Security-Policy": _DOCS_POLICY})


@router.get("/docs/{name}")
def get_docs_file(name: str) -> Response:
    """Get one of the files that the page of the REST API loads. Raises `NotFoundError`."""
    if name not in _DOCS_FILES:
        raise NotFoundError("There is no such file. See /docs.")
    file, media_type = _DOCS_FILES[name]
    return Response(
        file.read_bytes(), media_type=media_type, headers={"Cache-Control": "max-age=3600"}
    )
