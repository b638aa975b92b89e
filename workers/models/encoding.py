"""From text to token ids: what every text begins with, windows of it, chats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from jinja2 import TemplateError

from workers.models.memory_limit import memory_limit
from workers.models.time_limit import TimeLimitError, time_limit
from workers.models.tokenizer import Tokenizer

TEMPLATE_DATE = datetime(2024, 7, 26, tzinfo=UTC)
"""What a chat template that asks for today's date gets, so that a job gives the same prompts on
every day: the date that Llama 3.2's template itself writes where it cannot ask."""

_DATE_CODES = tuple(f"%{code}" for code in "aAbBdeHIjmMpSyYZ")

TEMPLATE_SECONDS = 10.0
"""How long a chat template may take for one chat; those of published models take milliseconds."""

TEMPLATE_BYTES = 512 * 1024**2
"""How much a chat template may make the process grow; those of published models take kilobytes."""

_PROBE = "a"

_ALWAYS_RENDERED = ("system", "user")
"""Roles whose messages stand in the rendered chat as they are; of earlier answers some templates
leave out parts, such as the reasoning."""


class ChatTemplateError(ValueError):
    """A chat that a tokenizer has no template for, or that its template refuses."""


@dataclass(frozen=True)
class Chat:
    """A conversation up to the message that the model is to answer."""

    messages: tuple[tuple[str, str], ...]
    """Role and content of each."""

    @property
    def text(self) -> str:
        """The contents, joined by line ends."""
        return "\n".join(content for _, content in self.messages)


def find_beginning(tokenizer: Tokenizer) -> tuple[int, ...]:
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


def encode_text(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Return the token ids of a raw text with the tokenizer's beginning, and no template.

    A text that brings the beginning along, as one rendered by a chat template does, gets no
    second one.
    """
    beginning, own = find_beginning(tokenizer), encode_part(tokenizer, text)
    return own if own[: len(beginning)] == beginning else (*beginning, *own)


def encode_part(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Return the token ids of a text that is not a beginning: no special tokens but its own."""
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
    """Return the token ids of a chat up to where the answer starts.

    The template writes the beginning where there is one, and `TEMPLATE_DATE` where it asks for
    today's. Raises `ChatTemplateError` where the tokenizer has no template, and where its template
    refuses a message, leaves it out, or takes more than `TEMPLATE_SECONDS` or `TEMPLATE_BYTES`.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ChatTemplateError(
            "it is a chat, and the checkpoint's tokenizer has no chat template; write the prompt "
            "as text, or save the checkpoint with a template"
        )
    try:
        with time_limit(TEMPLATE_SECONDS), memory_limit(TEMPLATE_BYTES):
            text = tokenizer.apply_chat_template(
                list(messages),
                add_generation_prompt=True,
                tokenize=False,
                chat_template=_fix_date(tokenizer.chat_template),
            )
    except (MemoryError, TimeLimitError) as error:
        raise ChatTemplateError(
            "the tokenizer's chat template does not end within "
            f"{TEMPLATE_SECONDS:g} seconds, or within memory; write the prompt as text, or save "
            "the checkpoint with another template"
        ) from error
    except TemplateError as error:
        raise ChatTemplateError(
            f"the tokenizer's chat template refuses the roles {_list_roles(messages)}: {error}; "
            "write the chat with roles, in an order, that the template takes"
        ) from error
    _check_rendered(text, messages)
    return encode_part(tokenizer, text)


def _fix_date(template: object) -> str | None:
    """Return a template that asks for the date with `TEMPLATE_DATE` in its place, else None.

    transformers gives templates a function `strftime_now` and takes none from its callers; a
    macro of that name comes before it.
    """
    if not isinstance(template, str) or "strftime_now" not in template:
        return None
    filled = "".join(f"|replace('{code}', '{TEMPLATE_DATE:{code}}')" for code in _DATE_CODES)
    return (
        f"{{%- macro strftime_now(format) -%}}{{{{ format{filled} }}}}{{%- endmacro -%}}{template}"
    )


def _check_rendered(text: str, messages: Sequence[Mapping[str, str]]) -> None:
    """Refuse a chat of which the template dropped a message without a word."""
    for number, message in enumerate(messages, start=1):
        if message["role"] in _ALWAYS_RENDERED and message["content"].strip() not in text:
            raise ChatTemplateError(
                f"the tokenizer's chat template leaves out message {number}, of the role "
                f"{message['role']}; put its content into a message of another role"
            )


def _list_roles(messages: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(message["role"] for message in messages)


def cut_windows(tokenizer: Tokenizer, text: str, length: int) -> Iterator[tuple[int, ...]]:
    """Yield a text in windows of `length` tokens one after another, the last maybe shorter.

    Every window has the beginning that a text has, for a model reads each by itself.
    """
    beginning = find_beginning(tokenizer)
    own = encode_part(tokenizer, text)
    step = length - len(beginning)
    for start in range(0, len(own), step):
        yield (*beginning, *own[start : start + step])


def cut_corpus(
    tokenizer: Tokenizer, lines: Sequence[str], context: int, sequences: int, *, name: str
) -> tuple[tuple[int, ...], ...]:
    """Return the first windows of `context` tokens of the joined lines, none overlapping.

    Raises `ValueError` calling the corpus by its `name` when it does not fill one window.
    """
    windows = tuple(cut_windows(tokenizer, "\n".join(lines), context))
    full = tuple(window for window in windows if len(window) == context)
    if not full:
        raise ValueError(
            f"{name} has {sum(map(len, windows))} tokens, one window needs "
            f"{context}; give a longer text or shorter windows"
        )
    return full[:sequences]
