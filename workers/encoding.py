"""From text to token ids: what every text begins with, windows of it, chats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PROBE = "a"


def find_beginning(tokenizer: Any) -> tuple[int, ...]:
    """Return what the tokenizer itself puts before any text: its `<bos>`, or nothing.

    A model that was trained with such a token needs it before everything it reads: Gemma 3's
    perplexity is in the thousands without. To have the token is not enough (SmolLM2 has one and
    does not put it there).
    """
    whole = tokenizer(_PROBE).input_ids
    is_put = len(whole) > len(encode_part(tokenizer, _PROBE)) and (
        whole[0] == tokenizer.bos_token_id
    )
    return (whole[0],) if is_put else ()


def encode_text(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the token ids of a raw text with the tokenizer's beginning, and no template."""
    return (*find_beginning(tokenizer), *encode_part(tokenizer, text))


def encode_part(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the token ids of a text that is not a beginning: no special tokens but its own."""
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def encode_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
    """Return the token ids of a chat up to where the answer starts.

    The template writes the beginning where there is one.
    """
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return encode_part(tokenizer, text)


def cut_windows(tokenizer: Any, text: str, length: int) -> Iterator[tuple[int, ...]]:
    """Yield a text in windows of `length` tokens one after another, the last maybe shorter.

    Every window has the beginning that a text has, for a model reads each by itself.
    """
    beginning = find_beginning(tokenizer)
    own = encode_part(tokenizer, text)
    step = length - len(beginning)
    for start in range(0, len(own), step):
        yield (*beginning, *own[start : start + step])
