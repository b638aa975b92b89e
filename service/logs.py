"""Logs as one JSON object a line."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime

_SECRETS = re.compile(r"exc_[A-Za-z0-9_-]{8,}|(?<=://)[^/@\s]*:[^/@\s]*(?=@)")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON, with API keys and passwords in URLs blanked out."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False)


def redact(text: str) -> str:
    """`text` without API keys and without user:password in URLs."""
    return _SECRETS.sub("***", text)


def configure_logging(level: int = logging.INFO) -> None:
    """Send every log record to stderr as JSON; for entry points only."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
