"""One run of `excise gate`, from its arguments to its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from excise.cli.output import keep_secrets
from excise.reports.junit import render_junit
from workers.commands.gate.errors import GateConfigError
from workers.commands.gate.output import (
    JSON_NAME,
    JUNIT_NAME,
    MARKDOWN_NAME,
    NAMES,
    check_output,
    clear_output,
    write_output,
)

if TYPE_CHECKING:
    from excise.reports.gate_run import GateReport


@dataclass(frozen=True)
class GateRun:
    """What `excise gate` was asked to compare, as on its command line."""

    model: str
    """The checkpoint to judge."""
    against: str
    """The checkpoint it is compared with."""
    config: Path
    output: Path
    device: str = "auto"
    cache: Path | None = None
    """Folder that keeps the figures of the checkpoint compared with."""
    baseline: Path | None = None
    """An earlier run to compare with: its folder or gate.json."""
    fails_if_worse: bool = False
    """Whether a figure that is clearly worse than the earlier run's is a gate not met."""


def run_gate(run: GateRun, say: Callable[[str], None]) -> GateReport:
    """Measure both checkpoints, write gate.json, gate.md and gate.xml, and return the report.

    Files of an earlier run are removed before anything else, unless the run was given one of them.
    Raises `GateConfigError`, `OSError` and what `compare_checkpoints` raises; then no file is
    written, and with `OutputNotClearedError` those of an earlier run may remain.
    """
    _spare_inputs(run)
    clear_output(run.output)
    if run.fails_if_worse and run.baseline is None:
        raise GateConfigError("--fail-if-worse needs an earlier run; name one by --baseline")
    # Imported late: even where one of these is missing, no earlier result may be left to lie. The
    # configuration is read before torch is loaded, so that a typing error is told at once.
    from workers.commands.gate.config import load_config

    config = load_config(run.config)
    check_output(run.output)
    from workers.commands.gate.baseline import add_comparison, load_baseline
    from workers.commands.gate.cache import FigureCache
    from workers.commands.gate.compare import build_files, compare_checkpoints
    from workers.reports.gate_run import (
        render_gate_json,
        render_gate_markdown,
    )

    files = build_files(run.config)
    earlier = None if run.baseline is None else load_baseline(run.baseline)
    cache = None if run.cache is None else FigureCache(run.cache)
    report = compare_checkpoints(run.model, run.against, config, files, run.device, say, cache)
    if earlier is not None:
        report = add_comparison(report, earlier, is_gate=run.fails_if_worse)
    rendered = {
        JSON_NAME: render_gate_json(report),
        MARKDOWN_NAME: render_gate_markdown(report),
        JUNIT_NAME: render_junit(report.gates, "excise gate", report.notes, keep_secrets()),
    }
    write_output(run.output, rendered)
    return report


def _spare_inputs(run: GateRun) -> None:
    """Refuse to overwrite what the run is given."""
    outputs = {(run.output / name).resolve() for name in NAMES}
    if run.config.resolve() in outputs:
        raise GateConfigError(f"{run.config} is one of the output's files; rename it")
    if run.baseline is None:
        return
    if {run.baseline.resolve(), (run.baseline / JSON_NAME).resolve()} & outputs:
        raise GateConfigError(
            f"the baseline {run.baseline} lies in the output folder, which is emptied first; "
            "give another --output"
        )
