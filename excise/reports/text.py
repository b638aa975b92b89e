"""Text of a report: untrusted text made visible and escaped, numbers and names for readers."""

from __future__ import annotations

import re
import unicodedata

_TITLES = {"response_uniqueness": "Response uniqueness (RUR)"}
_MINUS = "\N{MINUS SIGN}"


def visible_text(text: str) -> str:
    """`text` with control, bidirectional, surrogate and private characters spelled out.

    Newlines, tabs and the two joiners that scripts and emoji need stay as they are.
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
    """`text` as one line of literal Markdown, also inside a table cell."""
    line = " ".join(visible_text(text).split())
    escaped = re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", line)
    return escaped.replace("://", r":\/\/").replace("www.", r"www\.")


def code_span(text: str) -> str:
    """`text` as a Markdown code span that also holds inside a table cell."""
    line = " ".join(visible_text(text).split()) or " "
    fence = "`" * (_longest_backtick_run(line) + 1)
    padding = " " if "`" in line else ""
    return f"{fence}{padding}{line}{padding}{fence}".replace("|", r"\|")


def fenced(text: str, language: str = "text") -> str:
    """`text` as a fenced block that nothing inside can close."""
    content = visible_text(text)
    fence = "`" * max(3, _longest_backtick_run(content) + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def _longest_backtick_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


def format_number(value: float, digits: int = 3) -> str:
    """A number with a fixed count of decimals, thousands separated, a true minus sign."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", _MINUS)


def format_signed(value: float, digits: int = 3) -> str:
    """A change, with its sign; a change that rounds to zero has none."""
    text = format_number(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.,") else text


def format_percent(fraction: float, digits: int = 2) -> str:
    """A relative change in percent, with its sign."""
    return f"{format_signed(100 * fraction, digits)}\u00a0%"


def format_share(fraction: float, digits: int = 1) -> str:
    """A share in percent."""
    return f"{format_number(100 * fraction, digits)}\u00a0%"


def format_compact(value: float) -> str:
    """A number of unknown size in at most four significant digits."""
    return f"{value:,.4g}".replace("-", _MINUS)


def shorten(text: str, characters: int) -> str:
    """`text` cut to so many characters, the last of them an ellipsis where it was cut."""
    return text if len(text) <= characters else f"{text[: characters - 1].rstrip()}…"


def title(identifier: str) -> str:
    """A metric's or behaviour's identifier as a reader would write it."""
    words = identifier.replace("_", " ").replace("held out", "held-out").strip()
    words = re.sub(r"\b(?:kl|rur)\b", lambda found: found[0].upper(), words)
    return _TITLES.get(identifier, words[:1].upper() + words[1:])


def sentence(text: str) -> str:
    """`text` with a capital letter and a full stop."""
    stripped = text.strip()
    ending = "" if stripped.endswith((".", "!", "?")) else "."
    return stripped[:1].upper() + stripped[1:] + ending
