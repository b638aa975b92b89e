"""Text that a terminal, or a pipeline's log, shows and does not obey."""

from __future__ import annotations

import re
import unicodedata

_LOG_COMMAND = re.compile(r"(^[^\S\n]*+:(?=:)|##(?=\w*\[))", re.MULTILINE)
"""Begins a command of GitHub (the second anywhere in a line), Azure Pipelines or TeamCity."""


def clean(text: str, *, keep_lines: bool = False) -> str:
    """Return `text` without terminal control characters, which model output may contain.

    Nor does it hold commands of a pipeline's log, such as `::error::` or `##[error]`.
    """
    kept = {"\n"} if keep_lines else set()
    visible = "".join(" " if one not in kept and is_hidden(one) else one for one in text)
    return _LOG_COMMAND.sub(r"\1 ", visible)


def is_hidden(character: str) -> bool:
    """Return whether it is a control character, formats text, or is half a surrogate pair."""
    return unicodedata.category(character) in {"Cc", "Cf", "Cs"}
