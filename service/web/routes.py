"""The home page."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_HOME = files("service.web").joinpath("home.html").read_text("utf-8")


@router.get("/", response_class=HTMLResponse)
def get_home() -> str:
    """What this is, and where to go."""
    return _HOME
