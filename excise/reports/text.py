"""Text in reports: untrusted text made visible and escaped; numbers and names formatted."""

from __future__ import annotations

import re
import unicodedata

_TITLES = {"response_uniqueness": "Response uniqueness (RUR)"}
_JOINER = "\N{WORD JOINER}"
"""Invisible character; after it, a name is not a mention and a line is not a GitLab command."""
_MINUS = "\N{MINUS SIGN}"


def visible_text(text: str) -> str:
    """Return `text` with control, bidirectional, surrogate and private-use characters spelled out.

    Line breaks, tabs and the two joiners that scripts and emoji need are kept.
    """
    return "".join(_visible_character(c) for c in text.replace("\r\n", "\n"))


def _visible_character(character: str) -> str:
    code = ord(character)
    if character in "\n\t\u200c\u200d":
        return character
    hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return f"⟨U+{code:04X}⟩" if hidden or noncharacter else character


def escape_markdown(text: str) -> str:
    """Return `text` as one line of literal Markdown, valid also in a table cell.

    It holds no markup, links, mentions, references to issues, or commands of a comment: GitHub and
    GitLab find the last three after escapes are resolved, so that a joiner stands in them.
    """
    line = " ".join(visible_text(text).split())
    escaped = re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", line)
    escaped = re.sub(r"[@#]|[!~$&%](?=\w)", rf"\g<0>{_JOINER}", escaped)
    literal = escaped.replace("://", r":\/\/").replace("www.", r"www\.")
    return f"{_JOINER}{literal}" if literal.startswith("/") else literal


def code_span(text: str) -> str:
    """Return `text` as a Markdown code span, valid also in a table cell."""
    line = " ".join(visible_text(text).split()) or " "
    fence = "`" * (_longest_backtick_run(line) + 1)
    padding = " " if "`" in line else ""
    return f"{fence}{padding}{line}{padding}{fence}".replace("|", r"\|")


def fenced(text: str, language: str = "text") -> str:
    """Return `text` as a fenced code block that its content cannot close."""
    content = visible_text(text)
    fence = "`" * max(3, _longest_backtick_run(content) + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def _longest_backtick_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


def format_number(value: float, digits: int = 3) -> str:
    """Return a number with fixed decimals, thousands separators and a true minus sign."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", _MINUS)


def format_signed(value: float, digits: int = 3) -> str:
    """Return a change with its sign; a change that rounds to zero has no sign."""
    text = format_number(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.,") else text


def format_percent(fraction: float, digits: int = 2) -> str:
    """Return a relative change in percent, with its sign."""
    return f"{format_signed(100 * fraction, digits)}\u00a0%"


def format_share(fraction: float, digits: int = 1) -> str:
    """Return a share in percent."""
    return f"{format_number(100 * fraction, digits)}\u00a0%"


def format_compact(value: float) -> str:
    """Return a number of any magnitude with at most four significant digits."""
    return f"{value:,.4g}".replace("-", _MINUS)


def shorten(text: str, characters: int) -> str:
    """Return `text` cut to at most `characters`, with an ellipsis at the end if it was cut."""
    return text if len(text) <= characters else f"{text[: characters - 1].rstrip()}…"


def title(identifier: str) -> str:
    """Return the identifier of a metric or behaviour, formatted for readers."""
    words = identifier.replace("_", " ").replace("held out", "held-out").strip()
    words = re.sub(r"\b(?:kl|rur)\b", lambda found: found[0].upper(), words)
    return _TITLES.get(identifier, words[:1].upper() + words[1:])


def sentence(text: str) -> str:
    """Return `text` with an initial capital and a full stop."""
    stripped = text.strip()
    ending = "" if stripped.endswith((".", "!", "?")) else "."
    return stripped[:1].upper() + stripped[1:] + ending
