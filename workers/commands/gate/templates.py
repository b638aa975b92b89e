"""How two checkpoints read prompts: chat templates, of which one may be lent, tokens, context."""

from __future__ import annotations

from dataclasses import replace

from workers.measuring.encodings import is_encoded_otherwise, is_written_otherwise
from workers.measuring.measurement import CheckPlan
from workers.models.encoding import encode_part
from workers.models.loaded import LoadedModel
from workers.models.prompts import get_text
from workers.models.tokenizer import Tokenizer, copy_with_template

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
OTHER_TOKENS = (
    "the checkpoints' tokenizers give some of the prompts other tokens: each was asked in its own, "
    "so that part of a difference may come from them. If the judged checkpoint was trained with "
    "the base's tokenizer, save it with that one's files"
)
OTHER_TEXT = (
    "the checkpoints' tokenizers write the same tokens as different text: users of the judged one "
    "read something else than the base's. If it was trained with the base's tokenizer, save it "
    "with that one's files"
)
SHORTER_CONTEXT = (
    "the judged checkpoint's context is {judged} tokens, the base's {base}: what is longer than "
    "that it cannot read, and nothing here is. If that is not meant, correct its config.json"
)


def describe_context(base: int, judged: int) -> list[str]:
    """Return a sentence on the judged checkpoint's context length, if it is less than the base's.

    Both are in tokens.
    """
    return [SHORTER_CONTEXT.format(judged=judged, base=base)] if judged < base else []


def describe_tokens(plan: CheckPlan, base: Tokenizer, judged: Tokenizer) -> list[str]:
    """Return a sentence on prompts that the tokenizers read or write differently, if they do."""
    texts = [get_text(prompt) for own in plan.prompt_sets.values() for prompt in own.prompts]
    if is_encoded_otherwise(texts, base, judged):
        return [OTHER_TOKENS]
    ids = (encode_part(base, text) for text in texts)
    return [OTHER_TEXT] if is_written_otherwise(ids, base, judged) else []


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
    return replace(judged, tokenizer=copy_with_template(judged.tokenizer, base.chat_template))
