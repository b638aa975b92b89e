"""A child process, with limited memory and time, that searches texts by one expression.

It reads one JSON object from standard input: `pattern`, `ignore_case`, `texts`, `memory_bytes`,
`compile_seconds`, `search_seconds` and `most`. It writes one JSON value per line: first true once
the expression is compiled, or what is wrong with it; then, for each text, its matches, at most
`most`, or null if memory did not suffice. The kernel watches the processor time: beyond the limit
it ends the process with SIGPROF, and the number of lines written shows at which text. This file is
run by its path, so that the child imports nothing else from Excise.
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
"""Bytes of memory allowed per byte of input: for the input, its JSON, and texts with four bytes per
character."""


def main() -> None:
    """Read the request from standard input and write the answer."""
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
    """Limit the address space, disable core files, and let SIGPROF end this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS has no such limit, but time is limited there, too
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})


def _allow(seconds: float) -> None:
    """Let the kernel end this process after it has used `seconds` more processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _say(value: bool | str | list[str] | None) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
