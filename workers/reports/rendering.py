"""Rendering of all kinds of reports as JSON, Markdown and one self-contained HTML page.

Functions are pure: the same report gives the same bytes. Prompts, responses and names are
untrusted text; on a page they are escaped and control characters are made visible.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from excise.intake.json_documents import find_part, is_non_finite
from excise.names import Verdict
from excise.reports.model import ReportModel
from excise.reports.text import (
    code_span,
    escape_markdown,
    fenced,
    format_compact,
    format_number,
    format_percent,
    format_share,
    format_signed,
    sentence,
    shorten,
    title,
    visible_text,
)

_APPLY_COMMAND = """\
excise patch apply --base BASE_DIR --patch patch.safetensors --output CORRECTED_DIR"""
REVERT_COMMAND = """\
excise patch revert --corrected CORRECTED_DIR --patch patch.safetensors --output BASE_DIR"""

_TEMPLATES = Path(__file__).parent / "templates"


def write_apply_command(verdict: Verdict) -> str:
    """Return the command that applies the patch of a job with this verdict."""
    return _APPLY_COMMAND if verdict is Verdict.PASSED else f"{_APPLY_COMMAND} --rejected"


class NonFiniteReportError(ValueError):
    """A figure of the report is NaN or infinite; measure it again, or leave it out as None."""


def render_json(report: ReportModel) -> bytes:
    """Return the report as ASCII JSON: sorted, indented, with one trailing newline.

    Raises `NonFiniteReportError` for NaN or infinity.
    """
    content = report.model_dump()
    require_finite(content)
    return (json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def render_markdown_template(name: str, context: Mapping[str, object]) -> str:
    """Return the template rendered as GitHub-flavoured Markdown."""
    return _markdown_environment().get_template(name).render(context)


def render_html_template(name: str, context: Mapping[str, object]) -> str:
    """Return the template rendered as one HTML page without external resources and scripts."""
    css = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode("ascii")
    page = _html_environment().get_template(name)
    return page.render(context, css=Markup(css), css_sha256=digest)  # noqa: S704


def require_finite(value: object) -> None:
    """Raise `NonFiniteReportError`, naming the first figure that is NaN or infinite."""
    if place := find_part(value, is_non_finite, "report"):
        raise NonFiniteReportError(
            f"{place} is not finite; measure it again, or leave it out as None where that is "
            "allowed."
        )


_FILTERS = {
    "num": format_number,
    "signed": format_signed,
    "percent": format_percent,
    "share": format_share,
    "compact": format_compact,
    "shorten": shorten,
    "title": title,
    "sentence": sentence,
}


@cache
def _html_environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: visible_text(value) if type(value) is str else value,
    )
    environment.filters.update(_FILTERS)
    return environment


@cache
def _markdown_environment() -> jinja2.Environment:
    """Return an environment that escapes plain strings for Markdown but not `Markup`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,  # noqa: S701 - HTML escaping is the wrong one; `finalize` escapes
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: (
            value
            if isinstance(value, Markup) or not isinstance(value, str)
            else escape_markdown(value)
        ),
    )
    environment.filters.update(_FILTERS)
    environment.filters["code"] = lambda text: Markup(code_span(text))  # noqa: S704
    environment.filters["fenced"] = lambda text, language="text": Markup(  # noqa: S704
        fenced(text, language)
    )
    return environment
