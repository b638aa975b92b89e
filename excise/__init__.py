"""Excise: specify, submit, watch and read corrections of language models.

    from excise import Client, CorrectionSpec, read_report

    with Client("http://127.0.0.1:8100", api_key) as client:
        job = client.create_job(CorrectionSpec.model_validate(document))
        for event in client.iter_events(job.id):
            print(event.message)
        report = read_report(client.fetch_report(job.id))

`correct`, `estimate`, `find_circuit`, `compress` and `apply` do the work in this process (see
docs/guides/library.md); they need `pip install 'excise[worker]'`.
Every name below is imported on first use, so that `import excise` is fast and imports nothing
else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from excise.behaviours import Custom, Phrase, Repetition, Toxicity
    from excise.client import (
        ApiError,
        AsyncClient,
        Client,
        ClientError,
        ConnectionLostError,
        DownloadError,
    )
    from excise.engine import EngineMissingError
    from excise.errors import UserError
    from excise.installation import __version__
    from excise.reports import (
        CircuitReport,
        CompressionReport,
        CorrectionReport,
        GateReport,
        JobReport,
        Report,
        ReportError,
        read_report,
    )
    from excise.specs import CircuitSpec, CompressionSpec, CorrectionSpec, JobSpec, parse_spec

__all__ = [
    "ApiError",
    "AsyncClient",
    "CircuitReport",
    "CircuitSpec",
    "Client",
    "ClientError",
    "CompressionReport",
    "CompressionSpec",
    "ConnectionLostError",
    "CorrectionReport",
    "CorrectionSpec",
    "Custom",
    "DownloadError",
    "EngineMissingError",
    "GateReport",
    "JobReport",
    "JobSpec",
    "Phrase",
    "Repetition",
    "Report",
    "ReportError",
    "Toxicity",
    "UserError",
    "__version__",
    "apply",
    "compress",
    "correct",
    "estimate",
    "find_circuit",
    "parse_spec",
    "read_report",
]

_HOMES = {
    "excise.behaviours": ("Custom", "Phrase", "Repetition", "Toxicity"),
    "excise.client": (
        "ApiError",
        "AsyncClient",
        "Client",
        "ClientError",
        "ConnectionLostError",
        "DownloadError",
    ),
    "excise.engine": (
        "EngineMissingError",
        "apply",
        "compress",
        "correct",
        "estimate",
        "find_circuit",
    ),
    "excise.errors": ("UserError",),
    "excise.installation": ("__version__",),
    "excise.reports": (
        "CircuitReport",
        "CompressionReport",
        "CorrectionReport",
        "GateReport",
        "JobReport",
        "Report",
        "ReportError",
        "read_report",
    ),
    "excise.specs": ("CircuitSpec", "CompressionSpec", "CorrectionSpec", "JobSpec", "parse_spec"),
}
"""Module → the names that this package exports from it."""

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use. Raises `AttributeError` for any other name."""
    if (home := _HOME_OF.get(name)) is None:
        raise AttributeError(f"module 'excise' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
