"""Behaviours to correct, as Python programs and notebooks give them: with their own prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

Prompts = Sequence[str | Sequence[Mapping[str, str]]]
"""Texts, or chats: lists of messages with role and content."""


class LocalBehaviour:
    """What must go, with prompts that bring it out.

    `settings` are the fields of the kind's spec (`excise.specs.behaviours`): decoding, threshold,
    min_effect, max_remaining and the kind's own. They are checked when work begins. Raises
    `TypeError` on a single text in place of a list.
    """

    kind: ClassVar[str]

    def __init__(self, prompts: Prompts, *, name: str | None = None, **settings: Any) -> None:
        if isinstance(prompts, str):
            raise TypeError(f"{type(self).__name__}: prompts is one text; give a list of texts")
        self.fields: dict[str, Any] = {
            "kind": self.kind,
            "name": name or self.kind,
            "prompts": list(prompts),
            **settings,
        }

    def __repr__(self) -> str:
        count = len(self.fields["prompts"])
        return f"<{type(self).__name__} {self.fields['name']!r}, {count} prompts>"


class Repetition(LocalBehaviour):
    """Responses that go round in circles."""

    kind = "repetition"


class Toxicity(LocalBehaviour):
    """Toxic responses, by one or more `evaluators`."""

    kind = "toxicity"


class Phrase(LocalBehaviour):
    """Responses with one of some `phrases`, or that match a `pattern`."""

    kind = "phrase"


class Custom(LocalBehaviour):
    """Whatever a scorer measures: an `entry_point`, built in or in `excise.scorers`, or a `url`."""

    kind = "custom"
