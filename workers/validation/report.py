"""The report of a correction, rendered as JSON, Markdown and one self-contained HTML page.

Everything here is pure: the same report gives the same bytes. Prompts and responses are
untrusted text; they reach a page escaped and with control characters made visible.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from workers.domain import GateResult, Report
from workers.validation.report_charts import (
    build_dose_chart,
    build_effect_axis,
    build_layer_map,
    order_modules,
)
from workers.validation.report_samples import build_sample_groups
from workers.validation.report_text import (
    code_span,
    escape_markdown,
    fenced,
    format_compact,
    format_number,
    format_percent,
    format_signed,
    sentence,
    title,
    visible_text,
)

_TEMPLATES = Path(__file__).parent / "templates"
_APPLY_COMMAND = """\
excise patch apply --base BASE_DIR --patch patch.safetensors --output CORRECTED_DIR"""
_REVERT_COMMAND = """\
excise patch revert --corrected CORRECTED_DIR --patch patch.safetensors --output BASE_DIR"""


class NonFiniteReportError(ValueError):
    """A figure of the report is NaN or infinite; measure it again, or leave it out as None."""


def render_json(report: Report) -> bytes:
    """The report as ASCII JSON: sorted, indented, one trailing newline; refuses NaN."""
    content = report.model_dump()
    _require_finite(content)
    return (json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def render_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown, without timings."""
    return _markdown_environment().get_template("report.md.j2").render(_context(report))


def render_html(report: Report) -> str:
    """The report as one HTML page that loads nothing and runs no script, without timings."""
    css = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode("ascii")
    page = _html_environment().get_template("report.html.j2")
    return page.render(_context(report), css=Markup(css), css_sha256=digest)  # noqa: S704


def _require_finite(value: object, path: str = "report") -> None:
    """Raise NonFiniteReportError naming the first figure that is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteReportError(
            f"{path} is {value}; measure it again, or leave it out as None where that is allowed."
        )
    if isinstance(value, dict):
        for key, child in value.items():
            _require_finite(child, f"{path}.{key}")
    elif isinstance(value, list):
        for position, child in enumerate(value):
            _require_finite(child, f"{path}[{position}]")


def _is_met(gate: GateResult) -> bool:
    """Whether a gate was measured and met; what was not measured is not met."""
    return gate.passed and gate.value is not None


def _context(report: Report) -> dict[str, object]:
    _require_finite(report.model_dump())
    return {
        "report": report,
        "dose": build_dose_chart(report),
        "layer_map": build_layer_map(report),
        "modules": order_modules(report),
        "sample_groups": build_sample_groups(report),
        "effect_axis": build_effect_axis,
        "apply_command": _APPLY_COMMAND,
        "revert_command": _REVERT_COMMAND,
    }


_FILTERS = {
    "num": format_number,
    "signed": format_signed,
    "percent": format_percent,
    "compact": format_compact,
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
    environment.tests["met"] = _is_met
    return environment


@cache
def _markdown_environment() -> jinja2.Environment:
    """Every plain string is escaped for Markdown; what is Markdown already is Markup."""
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
    environment.tests["met"] = _is_met
    environment.filters["code"] = lambda text: Markup(code_span(text))  # noqa: S704
    environment.filters["fenced"] = lambda text, language="text": Markup(  # noqa: S704
        fenced(text, language)
    )
    return environment
