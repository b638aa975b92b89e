"""Behaviours to correct, for Python programs and notebooks: they carry their own prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from excise.plurals import count_noun

Prompts = Sequence[str | Sequence[Mapping[str, str]]]
"""Texts, or chats: lists of messages with role and content."""


def list_entries(value: Any, name: str) -> list[Any]:
    """Return the entries of a list, or of anything else that yields one text or chat at a time.

    Raises `TypeError`, with the `name` of what was given, for a single text and for what has no
    texts for its entries.
    """
    if isinstance(value, str):
        raise TypeError(f"{name} is one text; give a list of texts")
    if isinstance(value, Mapping | bytes | bytearray) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is a {type(value).__name__}; give a list of texts or chats")
    return list(value)


class LocalBehaviour:
    """A behaviour to remove, with prompts that bring it out.

    `settings` are the other fields of the kind's spec (`excise.specs.behaviours`): decoding,
    threshold, min_effect, max_remaining and the kind's own. They are validated when the work
    begins. Raises `TypeError` for a single text, or anything else, instead of a list.
    """

    kind: ClassVar[str]

    def __init__(self, prompts: Prompts, *, name: str | None = None, **settings: Any) -> None:
        listed = list_entries(prompts, f"{type(self).__name__}: prompts")
        self.fields: dict[str, Any] = {
            "kind": self.kind,
            "name": name or self.kind,
            "prompts": listed,
            **settings,
        }

    def __repr__(self) -> str:
        count = len(self.fields["prompts"])
        return f"<{type(self).__name__} {self.fields['name']!r}, {count_noun(count, 'prompt')}>"


class Repetition(LocalBehaviour):
    """Responses that repeat themselves."""

    kind = "repetition"


class Toxicity(LocalBehaviour):
    """Toxic responses, as judged by one or more `evaluators`."""

    kind = "toxicity"


class Phrase(LocalBehaviour):
    """Responses that contain one of `phrases`, or match a `pattern`."""

    kind = "phrase"


class Custom(LocalBehaviour):
    """Whatever a scorer measures: an `entry_point` (built in or in `excise.scorers`) or a `url`."""

    kind = "custom"
