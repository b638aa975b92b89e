"""How two checkpoints read prompts: their chat templates, of which one may be lent, and tokens."""

from __future__ import annotations

from dataclasses import replace

from workers.measuring.encodings import is_encoded_otherwise
from workers.measuring.measurement import CheckPlan
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


def describe_tokens(plan: CheckPlan, base: Tokenizer, judged: Tokenizer) -> list[str]:
    """Return a sentence on prompts that the two tokenizers encode differently, if they do any."""
    prompts = (get_text(prompt) for own in plan.prompt_sets.values() for prompt in own.prompts)
    return [OTHER_TOKENS] if is_encoded_otherwise(prompts, base, judged) else []


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
