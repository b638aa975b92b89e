"""Checking, in limited child processes, that workers can search by the patterns of a job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import Depends

from excise.patterns.searching import BusyError, Expression, PatternError, check_expression
from excise.specs import CorrectionSpec, JobSpec
from excise.specs.behaviours import PhraseSpec
from service.errors import InvalidRequestError, UnavailableError
from service.keys.authentication import Submitter

MAX_CHILDREN = 2
"""Child processes at once per process, which limits their processors and memory. Chosen by hand."""

_THREADS = ThreadPoolExecutor(MAX_CHILDREN, "patterns")  # its own: requests need the others


def check_patterns(spec: JobSpec) -> None:
    """Raise `InvalidRequestError` for the first pattern that cannot be used."""
    for param, expression in _list_patterns(spec):
        try:
            check_expression(expression)
        except PatternError as error:
            raise InvalidRequestError(f"{param} {error}", param=param) from error
        except BusyError:
            raise UnavailableError(
                f"{param} could not be checked: the machine is too busy. Try again later."
            ) from None


def _list_patterns(spec: JobSpec) -> Iterator[tuple[str, Expression]]:
    """The fields with patterns, and the patterns."""
    if not isinstance(spec, CorrectionSpec):
        return
    for index, behaviour in enumerate(spec.behaviours):
        if isinstance(behaviour, PhraseSpec) and behaviour.pattern is not None:
            expression = Expression(behaviour.pattern, behaviour.ignore_case)
            yield f"behaviours[{index}].pattern", expression


async def _check_spec(spec: JobSpec, _: Submitter) -> JobSpec:
    """The spec of a caller who may submit it, its patterns checked beside the event loop."""
    if any(_list_patterns(spec)):
        await asyncio.get_running_loop().run_in_executor(_THREADS, check_patterns, spec)
    return spec


CheckedSpec = Annotated[JobSpec, Depends(_check_spec)]
