"""Checking users' regular expressions and searching by them, with limits of memory and time.

The package regex expands counts while it compiles: `a{10000000}` takes 2.8 GiB, and each of twenty
nested `+` doubles what is inside it. A search may also take unlimited memory: `(?R)?a` fills 768
MiB in two seconds. Limiting counts does not cover all of this, and the package's own time limit
covers neither compiling nor memory. Therefore a child process with limited memory and time does
both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.patterns import child
from excise.specs.common import MAX_PATTERN_CHARACTERS

MAX_MEMORY_BYTES = 256 * 1024 * 1024
"""Limit of a child's address space. The interpreter takes 40 MiB, an ordinary expression 1 MiB."""

MAX_COMPILE_SECONDS = 1.0
"""Limit of processor time to compile an expression. Chosen by hand."""

MAX_SEARCH_SECONDS = 1.0
"""Limit of processor time to search one text. Chosen by hand."""

MAX_MATCHES = 16
"""Largest number of matches returned per text. Chosen by hand."""

_MAX_SECONDS = 60.0
"""A child is given up if it takes this much longer than its limits of processor time allow."""
_ENVIRONMENT = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE")
"""Variables that an interpreter needs to find its packages; none of them holds a secret."""


@dataclass(frozen=True)
class Expression:
    """A regular expression in the syntax of the package regex."""

    pattern: str
    ignore_case: bool = True


class PatternError(ValueError):
    """The expression cannot be used; the message continues after the name of its field."""


class SearchError(RuntimeError):
    """A search exceeded a limit; `position` is that of the text, `what` is "1 s" or "256 MiB"."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(f"a search takes more than {what} on text {position}")
        self.position = position
        self.what = what


class BusyError(RuntimeError):
    """The machine gave a child hardly any processor time. Try again when it has less to do."""


def check_expression(expression: Expression) -> None:
    """Raise `PatternError` unless `expression` compiles within bounds and needs a character."""
    try:
        (found,) = find_matches(expression, [""])
    except SearchError as error:
        raise PatternError(
            f"takes more than {error.what} to search an empty text. Remove recursive calls, such "
            "as (?R), and nested repetitions, such as (a+)+."
        ) from None
    if found:
        raise PatternError(
            "matches an empty text, so every response would show the behaviour. Require at least "
            "one character."
        )


def find_matches(
    expression: Expression, texts: Sequence[str], search_seconds: float = MAX_SEARCH_SECONDS
) -> list[list[str]]:
    """Return the matches in each of `texts`, with at most `search_seconds` processor time per text.

    Matches are in order, do not overlap, and are at most `MAX_MATCHES` per text. Raises
    `PatternError` if the expression is invalid or takes too much to compile, `SearchError` if a
    search takes too much, and `BusyError` if the machine is too busy.
    """
    if len(expression.pattern) > MAX_PATTERN_CHARACTERS:
        raise PatternError(f"is longer than {MAX_PATTERN_CHARACTERS} characters. Shorten it.")
    compiled, *found = _run_child(expression, texts, search_seconds)
    if isinstance(compiled, str):
        raise PatternError(f"is not a regular expression: {compiled}. Correct it.")
    if compiled is None:
        raise PatternError(
            f"takes more than {_MEMORY} or {MAX_COMPILE_SECONDS:g} s to compile. Lower the counts "
            "in braces, and remove nested repetitions, such as (a+)+."
        )
    answers = [answer for answer in found if isinstance(answer, list)]
    if len(answers) < len(texts):
        what = f"{search_seconds:g} s" if len(found) == len(answers) else _MEMORY
        raise SearchError(len(answers), what)
    return answers


_MEMORY = f"{MAX_MEMORY_BYTES / 2**20:g} MiB"


def _run_child(
    expression: Expression, texts: Sequence[str], search_seconds: float
) -> list[bool | str | list[str] | None]:
    """Return the lines that a child wrote, at least one; it may have ended before it was done."""
    request = {
        "pattern": expression.pattern,
        "ignore_case": expression.ignore_case,
        "texts": list(texts),
        "memory_bytes": MAX_MEMORY_BYTES,
        "compile_seconds": MAX_COMPILE_SECONDS,
        "search_seconds": search_seconds,
        "most": MAX_MATCHES,
    }
    command = [sys.executable, "-P", str(Path(child.__file__))]
    patience = _MAX_SECONDS + MAX_COMPILE_SECONDS + search_seconds * len(texts)
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            capture_output=True,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BusyError(f"a search did not finish within {patience:.0f} s") from None
    if done.returncode > 0:  # an exception in the child, never due to the expression
        raise RuntimeError(f"the child that searches failed: {done.stderr.decode()[-500:]}")
    return [json.loads(line) for line in done.stdout.splitlines()] or [None]
