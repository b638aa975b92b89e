"""Chat templates of two checkpoints: one that lost its own is asked through the other's."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

from workers.models.loaded import LoadedModel
from workers.models.tokenizer import Tokenizer

LOST = (
    "the judged checkpoint has no chat template, though the base has one: it was asked through the "
    "base's, so that both read the same prompts. Servers refuse chats without one: save the "
    "checkpoint with the base's tokenizer_config.json or chat_template.jinja"
)
GAINED = (
    "the base has no chat template, the judged checkpoint has one: the base was asked with raw "
    "text, the other through its template"
)
CHANGED = (
    "the checkpoints' chat templates differ: each was asked through its own, so that part of a "
    "difference may come from the prompts"
)


def describe_templates(base: Tokenizer, judged: Tokenizer) -> list[str]:
    """Return a sentence on how a checkpoint's chat template differs from the base's, if it does."""
    if base.chat_template == judged.chat_template:
        return []
    if not judged.chat_template:
        return [LOST]
    return [CHANGED if base.chat_template else GAINED]


def lend_template(judged: LoadedModel, base: Tokenizer) -> LoadedModel:
    """Return the model with the base's chat template where it has none of its own."""
    if judged.tokenizer.chat_template or not base.chat_template:
        return judged
    tokenizer = copy(judged.tokenizer)
    setattr(tokenizer, "chat_template", base.chat_template)  # noqa: B010 - what we use is read-only
    return replace(judged, tokenizer=tokenizer)
