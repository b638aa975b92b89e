"""How the commands show what a job will need."""

from __future__ import annotations

from typing import NoReturn

from excise.cli.output import ExitCode, clean, end_with, print_json
from excise.resources.estimates import EstimateView


def end_with_estimate(found: EstimateView, *, as_json: bool) -> NoReturn:
    """Print the estimate for each machine; exit with 0 if the job fits on all of them."""
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        parts = [*map(str, found.data), *filter(None, [found.note])]
        print(clean("\n\n".join(parts), keep_lines=True))
    end_with(ExitCode.PASSED if found.fits else ExitCode.ERROR)
