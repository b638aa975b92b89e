"""Check, in limited child processes, that workers can search with a job's patterns."""

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
"""Child processes at once per process; limits their processors and memory. Chosen by hand."""

# a pool of its own, because requests need the threads of the others
_THREADS = ThreadPoolExecutor(MAX_CHILDREN, "patterns")


def check_patterns(spec: JobSpec) -> None:
    """Raise `InvalidRequestError` for the first unusable pattern."""
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
    """Yield the fields that hold patterns, with their patterns."""
    if not isinstance(spec, CorrectionSpec):
        return
    for index, behaviour in enumerate(spec.behaviours):
        if isinstance(behaviour, PhraseSpec) and behaviour.pattern is not None:
            expression = Expression(behaviour.pattern, behaviour.ignore_case)
            yield f"behaviours[{index}].pattern", expression


async def _check_spec(spec: JobSpec, _: Submitter) -> JobSpec:
    """Return the spec of a permitted caller; its patterns are checked outside the event loop."""
    if any(_list_patterns(spec)):
        await asyncio.get_running_loop().run_in_executor(_THREADS, check_patterns, spec)
    return spec


CheckedSpec = Annotated[JobSpec, Depends(_check_spec)]
