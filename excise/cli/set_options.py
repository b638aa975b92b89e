"""Errors about a spec's prompt sets, with the option or command that provides what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from excise.client import ApiError

CORRECTION_OPTIONS = {
    r"behaviours\[0\]\.prompts": "--prompts FILE",
    r"reference": "--reference FILE",
    r"perplexity(\.prompts)?": "--perplexity FILE",
}
"""Pattern of a field → the option that uploads a file and fills in the field, for corrections."""

ALL_OPTIONS = CORRECTION_OPTIONS | {
    r"task": "--rows FILE",
    r"calibration(\.prompts)?": "--calibration FILE",
    r"tasks\[\d+\]\.rows": "--task NAME=FILE",
}
"""The same for jobs of all kinds."""


@contextmanager
def naming_options(options: Mapping[str, str]) -> Iterator[None]:
    """Add to each error about a prompt set of the spec what provides the set at a terminal.

    The service's own message speaks of requests, which this user does not write.
    """
    try:
        yield
    except ApiError as error:
        remedy = _find_remedy(error.param or "", options)
        if not remedy:
            raise
        message = f"{error.message} {remedy}"
        raise ApiError(error.code, message, error.param, error.status) from None


def _find_remedy(field: str, options: Mapping[str, str]) -> str:
    """Return what provides the set that `field` names; empty if it is no field of a set."""
    for pattern, option in options.items():
        if re.fullmatch(pattern, field):
            return f"Here, {option} uploads one and fills in its id."
    if field.endswith(".prompts"):
        return "Here, `excise prompts upload FILE` uploads one and prints its id."
    if field.endswith(".rows"):
        return "Here, `excise prompts upload FILE --rows` uploads one and prints its id."
    return ""
