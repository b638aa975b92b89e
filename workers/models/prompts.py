"""Prompts as a model's users would send them: through its chat template where it has one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from excise.intake.prompt_sets import Prompt as ParsedPrompt
from workers.models.encoding import Chat, ChatTemplateError, encode_chat, encode_text
from workers.models.tokenizer import Tokenizer

Prompt = str | Chat
"""A text, or a chat that the model is to go on with."""


def convert_prompts(prompts: Iterable[ParsedPrompt]) -> list[Prompt]:
    """Return each prompt of a set: a chat as such, anything else as its text."""
    return [
        Chat(tuple((message.role, message.content) for message in prompt.messages))
        if prompt.messages
        else prompt.text
        for prompt in prompts
    ]


def get_text(prompt: Prompt) -> str:
    """Return the prompt as text; of a chat the contents of its messages."""
    return prompt.text if isinstance(prompt, Chat) else prompt


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, *, chat: bool = True) -> tuple[int, ...]:
    """Return the token ids of a prompt up to where the answer starts.

    A text is a user's message, or, without a chat template or with `chat` False, raw. A chat
    always goes through the template. Raises `ChatTemplateError` where that cannot be.
    """
    if isinstance(prompt, Chat):
        messages = [{"role": role, "content": content} for role, content in prompt.messages]
        return encode_chat(tokenizer, messages)
    if not chat or not getattr(tokenizer, "chat_template", None):
        return encode_text(tokenizer, prompt)
    return encode_chat(tokenizer, [{"role": "user", "content": prompt}])


def encode_prompts(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], *, chat: bool, longest: int
) -> list[tuple[int, ...]]:
    """Return every prompt's token ids.

    Raises `ValueError` naming the first prompt without tokens, with more than `longest`, or that
    the chat template does not take.
    """
    encoded = encode_all(tokenizer, prompts, chat=chat)
    for number, ids in enumerate(encoded, start=1):
        if not ids:
            raise ValueError(f"prompt {number} has no tokens; remove it")
        if len(ids) > longest:
            raise ValueError(
                f"prompt {number} has {len(ids)} tokens, {longest} fit into the model's context "
                "beside the response; shorten the prompt or lower max_new_tokens"
            )
    return encoded


def encode_all(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], *, chat: bool
) -> list[tuple[int, ...]]:
    """Return every prompt's token ids, however many. Raises `ChatTemplateError` with its number."""
    encoded = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            encoded.append(encode_prompt(tokenizer, prompt, chat=chat))
        except ChatTemplateError as error:
            raise ChatTemplateError(f"prompt {number}: {error}") from error
    return encoded
