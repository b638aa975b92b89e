"""How the commands show what a job will need."""

from __future__ import annotations

from typing import NoReturn

from excise.cli.output import ExitCode, clean, end_with, print_json
from excise.estimates.estimate import (
    Estimate,
    JobEstimate,
    describe_bytes,
    describe_change,
    describe_minutes,
)
from excise.names import Stage
from excise.resources.estimates import EstimateView


def describe_estimate(found: Estimate) -> list[str]:
    """Return the lines that describe an estimate to a user."""
    machine = found.machine
    on_device = f" ({describe_bytes(machine.device_bytes)})" if machine.device_bytes else ""
    lines = [
        f"machine      {machine.device}{on_device}, {describe_bytes(machine.host_bytes)} of main "
        f"memory, {machine.flops / 1e9:.0f} GFLOP/s{_count_workers(found)}",
        f"memory       {describe_bytes(found.host_bytes)}"
        + (f", on the device {describe_bytes(found.device_bytes)}" if on_device else ""),
        f"disk         {describe_bytes(found.disk_bytes)} in the artifact store",
        f"time         {describe_minutes(found.minutes)}: "
        + ", ".join(f"{own} {found.stages[own]:.0f} s" for own in Stage if own in found.stages),
        f"fits         {'yes' if found.fits else f'no: it {found.problem}'}",
    ]
    for setting in found.cheaper:
        fits = "" if setting.fits else ", does not fit either"
        lines.append(
            f"cheaper      {describe_change(setting)}: {describe_bytes(setting.host_bytes)}, "
            + (f"device {describe_bytes(setting.device_bytes)}, " if on_device else "")
            + f"{describe_minutes(setting.minutes)}{fits}"
        )
    return [*lines, "Estimates are right within a factor of two, not better."]


def end_with_estimate(found: EstimateView, *, as_json: bool) -> NoReturn:
    """Print the estimate for each machine; exit with 0 if the job fits on all of them."""
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        parts = ["\n".join(describe_estimate(own)) for own in found.data]
        print(clean("\n\n".join([*parts, *filter(None, [found.note])]), keep_lines=True))
    end_with(ExitCode.PASSED if found.fits else ExitCode.ERROR)


def _count_workers(found: Estimate) -> str:
    """Return how many workers have such a machine, or "" if that is not known."""
    if not isinstance(found, JobEstimate) or not found.workers:
        return ""
    return f" ({found.workers} worker{'s' * (found.workers > 1)})"
