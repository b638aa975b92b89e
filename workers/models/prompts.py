"""Prompts as a model's users would send them: through its chat template, if it has one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from excise.intake.prompt_sets import Prompt as ParsedPrompt
from workers.models.encoding import Chat, ChatTemplateError, encode_chat, encode_text
from workers.models.tokenizer import Tokenizer

Prompt = str | Chat
"""A text, or a chat that the model is to continue."""


def convert_prompts(prompts: Iterable[ParsedPrompt]) -> list[Prompt]:
    """Return the prompts of a parsed set: chats as `Chat`, all others as text."""
    return [
        Chat(tuple((message.role, message.content) for message in prompt.messages))
        if prompt.messages
        else prompt.text
        for prompt in prompts
    ]


def get_text(prompt: Prompt) -> str:
    """Return the prompt as text; for a chat, the contents of its messages."""
    return prompt.text if isinstance(prompt, Chat) else prompt


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, *, chat: bool = True) -> tuple[int, ...]:
    """Return the token ids of a prompt up to the start of the answer.

    A text becomes a user's message; if the tokenizer has no chat template or `chat` is False, it
    is encoded raw. A chat always goes through the template. Raises `ChatTemplateError` if that
    fails.
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
    """Return the token ids of every prompt.

    Raises `ValueError` with the number of the first prompt that has no tokens, has more than
    `longest`, or is refused by the chat template.
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
    """Return the token ids of every prompt, of any length.

    Raises `ChatTemplateError` with the number of the prompt that the template refuses.
    """
    encoded = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            encoded.append(encode_prompt(tokenizer, prompt, chat=chat))
        except ChatTemplateError as error:
            raise ChatTemplateError(f"prompt {number}: {error}") from error
    return encoded
