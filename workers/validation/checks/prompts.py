"""Prompts as a model's users would send them: through its chat template where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.encoding import encode_chat, encode_text


def encode_prompt(tokenizer: Any, prompt: str, *, chat: bool = True) -> tuple[int, ...]:
    """Return the token ids of a user's message up to where the answer starts.

    Without a chat template, or with `chat` False, those of the raw text.
    """
    if not chat or not getattr(tokenizer, "chat_template", None):
        return encode_text(tokenizer, prompt)
    return encode_chat(tokenizer, [{"role": "user", "content": prompt}])


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
