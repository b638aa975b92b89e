"""Logging as one JSON object per line, without secrets; every entry point configures it once."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Literal, TextIO, cast

from excise.plain_text import clean
from excise.redaction import find_secrets, redact, redact_value, register_secrets

LogLevel = Literal["debug", "info", "warning", "error"]

_CHATTY = ("httpx", "httpcore", "alembic.runtime.migration")
"""They log every request, and every look at the schema: the service polls its servers constantly,
and each readiness check looks at the schema."""
_HALF = 16 * 1024
"""Characters kept at the beginning, and at the end, of a long message or traceback."""
_LONGEST_SECRET = 1024
_PLAIN_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "color_message",
}
_bound: ContextVar[Mapping[str, str]] = ContextVar(
    "excise_log_fields", default=MappingProxyType({})
)

logger = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message and further fields.

    `fields` are added to every line. Secrets are redacted, see `excise.redaction`.
    """

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._fields = dict(fields or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as ASCII JSON, which no terminal or locale can garble or refuse."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _shorten(_describe(record)),
        }
        extra = {key: value for key, value in vars(record).items() if key not in _PLAIN_FIELDS}
        for name, value in {**self._fields, **_bound.get(), **extra}.items():
            line.setdefault(name, redact_value(name, value))
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = _shorten(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = _shorten(record.stack_info)
        return json.dumps(line)


class PlainFormatter(logging.Formatter):
    """Formats a record as text for a person at a terminal, with secrets redacted.

    It holds nothing that a terminal, or a pipeline's log, would obey.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return `warning: message`, with the traceback if there is one."""
        text = f"{record.levelname.lower()}: {_describe(record)}"
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + self.formatException(record.exc_info)
        return clean(redact(text), keep_lines=True)


class RedactedStream(io.TextIOBase):
    """Standard output or error for text that does not go through logging, with secrets redacted.

    Examples are tracebacks and prints by libraries. Text is passed on line by line, so that a
    secret written in pieces is still recognised.
    """

    def __init__(self, target: TextIO) -> None:
        self.target = target
        self._held = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Pass on the whole lines of `text`; keep the rest until the next line break or a flush."""
        with self._lock:
            held = self._held + text
            end = max(held.rfind("\n"), held.rfind("\r")) + 1
            self._held = held[end:]
            if end:
                self.target.write(redact(held[:end]))
        return len(text)

    def flush(self) -> None:
        """Pass on all text that was kept."""
        with self._lock:
            held, self._held = self._held, ""
            if held:
                self.target.write(redact(held))
            self.target.flush()

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether the target is a terminal."""
        return self.target.isatty()

    def fileno(self) -> int:
        """Return the target's file descriptor."""
        return self.target.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The target's encoding."""
        return self.target.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The target's error handler."""
        return self.target.errors


def configure_logging(level: LogLevel = "info", secrets: Iterable[str] = (), **fields: str) -> None:
    """Send every log record to stderr as JSON; only for the entry points of servers and workers.

    Redacts `secrets` and the environment's secrets, in logs and in everything else that is
    printed. `fields` are added to every line. May be called again when more is known.
    """
    register_secrets([*secrets, *find_secrets(os.environ)])
    _adopt_library_loggers()
    handler = logging.StreamHandler(_protect_streams())
    handler.setFormatter(JsonFormatter(fields))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def configure_console_logging() -> None:
    """Send warnings to stderr as plain text, for commands, unless logging is configured already."""
    register_secrets(find_secrets(os.environ))
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def bind_log_fields(**fields: str) -> None:
    """Add these fields to every log line of the current task or thread from now on."""
    _bound.set({**_bound.get(), **fields})


def get_log_fields() -> Mapping[str, str]:
    """Return the fields in every log line of the current task or thread."""
    return _bound.get()


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Within the context, add these fields to every log line of the current task or thread."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def describe_line(line: str) -> str:
    """Return a log line for a person: JSON lines as text, and nothing a terminal would obey."""
    return clean(_describe_line(line), keep_lines=True)


def _describe_line(line: str) -> str:
    try:
        entry = json.loads(line)
        text = f"{entry['level']}: {entry['message']}"
    except (ValueError, KeyError, TypeError):
        return redact(line)
    return f"{text}\n{entry['exception']}" if entry.get("exception") else text


def _describe(record: logging.LogRecord) -> str:
    """Return the record's message; if the arguments do not fit it, both unformatted."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a bad log call must not cost the line, or the program
        return f"{record.msg} {record.args!r}"


def _shorten(text: str) -> str:
    """Return `text` without secrets; of a long text, only the beginning and the end.

    The cut may go through a secret, which is then not recognised, so text next to it is dropped.
    """
    if len(text) <= 2 * _HALF:
        return redact(text)
    start, end = redact(text[:_HALF]), redact(text[-_HALF:])
    return f"{start[:-_LONGEST_SECRET]} … {end[_LONGEST_SECRET:]}"


def _adopt_library_loggers() -> None:
    """Make loggers with their own handlers, such as uvicorn's, use the root logger's.

    A logger that was silenced (no handlers, no propagation) stays silent.
    """
    for found in list(logging.root.manager.loggerDict.values()):
        if isinstance(found, logging.Logger) and found.handlers:
            found.handlers.clear()
            found.propagate = True


def _protect_streams() -> TextIO:
    """Redact secrets in everything printed; return the bare stderr, for lines without secrets."""
    if not isinstance(sys.stderr, RedactedStream):
        sys.stdout = cast(TextIO, RedactedStream(sys.stdout))
        # Celery writes its banner there.
        sys.__stdout__ = sys.stdout  # type: ignore[assignment, misc]
        sys.stderr = cast(TextIO, RedactedStream(sys.stderr))
    return cast(RedactedStream, sys.stderr).target


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Log the exception that ends the process, except for Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logger.critical("uncaught %s", kind.__name__, exc_info=(kind, error, trace))


def _log_uncaught_in_thread(hook: threading.ExceptHookArgs) -> None:
    """Log the exception that ends a thread."""
    if hook.exc_value is None or issubclass(hook.exc_type, SystemExit):
        return
    name = hook.thread.name if hook.thread else "?"
    details = (hook.exc_type, hook.exc_value, hook.exc_traceback)
    logger.critical("thread %s: uncaught %s", name, hook.exc_type.__name__, exc_info=details)
