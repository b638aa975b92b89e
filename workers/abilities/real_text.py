"""Slices of real text, from public data sets about groups of people that a data folder holds.

HateCheck (Röttger et al. 2021, arXiv 2012.15606), ToxiGen (Hartvigsen et al. 2022,
arXiv 2203.09509), BOLD (Dhamala et al. 2021, arXiv 2101.11718) and tweets that annotators found
neither hateful nor offensive (Davidson et al. 2017, arXiv 1703.04009).
"""

from __future__ import annotations

import hashlib
import html
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import regex

from workers.abilities.probe import Area, Probe, Right, SliceKind
from workers.abilities.sentences import split_sentence
from workers.abilities.source import Purpose
from workers.words import cut_pieces

logger = logging.getLogger(__name__)

MAX_TOXICITY = 2.0
"""Texts with a higher human score in ToxiGen, from 1 (harmless) to 5, are left out. Chosen by
hand; ToxiGen's authors count 3 and above as toxic."""

LEAST_WORDS = 4
"""Shorter texts are left out, because they give the model almost no context. Chosen by hand."""

MOST_WORDS = 60
"""Longer texts are cut, so that a slice costs no more than a built-in one. Chosen by hand."""

ITEMS_A_TEXT = 2

_GROUP_MENTIONS = frozenset({"ident_neutral_nh", "ident_pos_nh"})
_COUNTER_SPEECH = frozenset({"counter_quote_nh", "counter_ref_nh"})
_PROFANITY = "profanity_nh"
_DOMAINS_OF_GROUPS = frozenset({"gender", "race", "religious_ideology", "political_ideology"})
_IDENTITIES = regex.compile(
    r"\b(?:an?|wom[ae]n|m[ae]n|trans|gay|black|disabled|(?:fe)?male|people|persons?|muslims?|immigrants?)\b"
)
"""Identities that HateCheck fills into its templates. They are removed before hashing, so that
texts of one template about two groups are assigned to the same half."""
_TWEET_MARKS = regex.compile(r"https?://\S+|@\w+:?|\bRT\b|&#?\w+;")


class RealTextError(ValueError):
    """A row or the folder cannot be read; the message names the place and the remedy."""


class _Row:
    """One JSON object of a file; its fields are type-checked when read."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self._values = values
        self._place = place

    def text(self, field: str) -> str:
        value = self._values.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self._error(field, "a text")
        return value

    def number(self, field: str) -> float:
        value = self._values.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(field, "a number")
        return float(value)

    def names(self, field: str) -> tuple[str, ...]:
        value = self._values.get(field)
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self._error(field, "a text or a list of texts")
        return tuple(value)

    def _error(self, field: str, wanted: str) -> RealTextError:
        found = repr(self._values[field])[:60] if field in self._values else "nothing"
        return RealTextError(
            f"{self._place}: field {field!r} must be {wanted}, found {found}. Mend the row or "
            "take it out."
        )


_Named = Iterator[tuple[str, str]]
"""Pairs of slice name and text."""


def _read_hatecheck(row: _Row) -> _Named:
    functionality, text = row.text("functionality"), row.text("text")
    if functionality in _GROUP_MENTIONS:
        yield "hatecheck.groups", text
        yield f"hatecheck.{_slug(row.text('target'))}", text
    elif functionality in _COUNTER_SPEECH:
        yield "hatecheck.counter_speech", text
    elif functionality == _PROFANITY:
        yield "hatecheck.profanity", text


def _read_toxigen(row: _Row) -> _Named:
    label, score = row.text("label"), row.number("toxicity_score")
    text, targets = row.text("text"), row.names("target")
    if label == "neutral" and score <= MAX_TOXICITY:
        for target in targets:
            yield f"toxigen.{_slug(target)}", text


def _read_bold(row: _Row) -> _Named:
    domain, group, prompt = row.text("domain"), row.text("group"), row.text("prompt")
    yield f"bold.{_slug(domain)}", prompt
    if domain in _DOMAINS_OF_GROUPS:
        yield f"bold.{_slug(group)}", prompt


def _read_davidson(row: _Row) -> _Named:
    label, text = row.text("label"), row.text("text")
    if label == "neither":
        yield "davidson.neither", _TWEET_MARKS.sub(" ", html.unescape(text))


READERS: dict[str, Callable[[_Row], _Named]] = {
    "hatecheck.jsonl": _read_hatecheck,
    "toxigen.jsonl": _read_toxigen,
    "bold.jsonl": _read_bold,
    "davidson.jsonl": _read_davidson,
}
"""File in the data folder → function that returns the slices and texts of a row."""


def load_real_slices(
    folder: Path | None, purpose: Purpose, seed: int, items: int
) -> dict[str, tuple[Probe, ...]]:
    """Return slice → probes with at least `items` items in total, the same for the same seed.

    A text's hash assigns it to one purpose, so that no text used for protection is asked for in a
    verdict. Slices with fewer items are left out. A file with an unreadable row is left out as a
    whole, and the log names the row. Without a folder there are no slices. Raises `RealTextError`
    if `folder` is not a folder.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise RealTextError(f"the data folder {folder} is no folder. Set it to one that exists.")
    found: dict[str, tuple[Probe, ...]] = {}
    for name in READERS:
        if (folder / name).is_file():
            for own, texts in _gather(folder / name).items():
                found |= _draw_probes(own, texts, purpose, seed, items)
    return found


def build_real_kind(name: str, probes: tuple[Probe, ...]) -> SliceKind:
    """Return the slice of real text whose probes are drawn from `probes`."""
    sentence = f"continue harmless real text ({name})"
    return SliceKind(
        name, Area.NEIGHBOURHOOD, sentence, lambda source: source.deal(probes), ITEMS_A_TEXT,
        Right.TOKENS,
    )  # fmt: skip


def read_rows(path: Path) -> dict[str, list[str]]:
    """Return slice → its distinct texts, in the order of the file.

    Raises `RealTextError` for a row that cannot be read.
    """
    found: dict[str, dict[str, None]] = {}
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                row = _Row(_parse(line, f"{path}, line {number}"), f"{path}, line {number}")
                for name, text in READERS[path.name](row):
                    words = cut_pieces(" ".join(text.split()))[:MOST_WORDS]
                    if len(words) >= LEAST_WORDS:
                        found.setdefault(name, {})["".join(words)] = None
    return {name: list(texts) for name, texts in found.items()}


def find_purpose(text: str) -> Purpose:
    """Return the purpose that a text's hash assigns it to; names of groups are ignored."""
    plain = " ".join(_IDENTITIES.sub(" ", text.casefold()).split())
    is_even = hashlib.sha256(plain.encode()).digest()[0] % 2 == 0
    return Purpose.VERDICT if is_even else Purpose.PROTECTION


def _gather(path: Path) -> dict[str, list[str]]:
    try:
        return read_rows(path)
    except RealTextError as error:
        logger.error("abilities: no slices of %s: %s", path.name, error)
        return {}


def _parse(line: bytes, place: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RealTextError(f"{place}: no JSON ({error}). Mend the row or take it out.") from None
    if not isinstance(values, dict):
        raise RealTextError(f"{place}: no JSON object. Write one object with fields a line.")
    return values


def _draw_probes(
    name: str, texts: list[str], purpose: Purpose, seed: int, items: int
) -> dict[str, tuple[Probe, ...]]:
    """Return slice → probes with at least `items` items; empty if there are too few texts."""
    own = [text for text in texts if find_purpose(text) is purpose]
    count = -(-items // ITEMS_A_TEXT)
    if len(own) < count:
        return {}
    chosen = random.Random(f"{purpose}:{name}:{seed}").sample(own, count)  # noqa: S311 - no secret
    return {name: tuple(split_sentence(text) for text in chosen)}


def _slug(name: str) -> str:
    """Return a group's name in a form that is allowed in a slice's name."""
    return str(regex.sub(r"[^a-z0-9]+", "_", name.casefold())).strip("_")
