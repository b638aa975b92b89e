"""Prompts as a model's users would send them: through its chat template where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def encode_prompt(tokenizer: Any, prompt: str, *, chat: bool = True) -> tuple[int, ...]:
    """Return the token ids of a user's message up to where the answer starts.

    Without a chat template, or with `chat` False, the raw text without special tokens.
    """
    if not chat or not getattr(tokenizer, "chat_template", None):
        return tuple(tokenizer(prompt, add_special_tokens=False).input_ids)
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def encode_prompts(
    tokenizer: Any, prompts: Sequence[str], *, chat: bool, longest: int
) -> list[tuple[int, ...]]:
    """Return every prompt's token ids.

    Raises `ValueError` naming the first prompt without tokens or with more than `longest`.
    """
    encoded = [encode_prompt(tokenizer, prompt, chat=chat) for prompt in prompts]
    for number, ids in enumerate(encoded, start=1):
        if not ids:
            raise ValueError(f"prompt {number} has no tokens; remove it")
        if len(ids) > longest:
            raise ValueError(
                f"prompt {number} has {len(ids)} tokens, {longest} fit into the model's context "
                "beside the response; shorten the prompt or lower max_new_tokens"
            )
    return encoded
