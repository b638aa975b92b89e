"""A process of its own, with little memory and time, that searches texts by one expression.

It reads one JSON object from its input: `pattern`, `ignore_case`, `texts`, `memory_bytes`,
`compile_seconds`, `search_seconds` and `most`. It writes one JSON value a line: true once the
expression is compiled, or what is wrong with it; then for each text what matches in it, `most`
matches at most, or null where memory did not suffice. Processor time is the kernel's to watch:
past its limit the process ends by SIGPROF, and how many lines it wrote says what it was at. This
file is run by its path, so that the child imports nothing else of Excise.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from contextlib import suppress
from itertools import islice

import regex

INPUT_COPIES = 16
"""Bytes a byte of input may take: the input, the JSON in it and texts of four bytes a character."""


def main() -> None:
    """Answer the request on standard input."""
    raw = sys.stdin.buffer.read()
    request = json.loads(raw)
    _restrain(request["memory_bytes"] + INPUT_COPIES * len(raw))
    flags = regex.IGNORECASE if request["ignore_case"] else 0
    _allow(request["compile_seconds"])
    try:
        compiled = regex.compile(request["pattern"], flags)
    except MemoryError:
        _say(None)
        return
    except (regex.error, ValueError, RecursionError) as error:
        _say(str(error))
        return
    _say(True)
    for text in request["texts"]:
        _allow(request["search_seconds"])
        try:
            found = islice(compiled.finditer(text), request["most"])
            _say([match[0] for match in found])
        except MemoryError:
            _say(None)
            return


def _restrain(memory_bytes: int) -> None:
    """Bound the address space, leave no core file, and let SIGPROF end this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS knows no such limit; time is bounded there, too
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})


def _allow(seconds: float) -> None:
    """End this process once it has used that much more processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _say(value: bool | str | list[str] | None) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
