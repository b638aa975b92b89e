"""Encoding text as token ids: beginning-of-text tokens, windows of a text, chats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile

from jinja2 import TemplateError

from workers.models.memory_limit import memory_limit
from workers.models.time_limit import TimeLimitError, time_limit
from workers.models.tokenizer import Tokenizer

TEMPLATE_DATE = datetime(2024, 7, 26, tzinfo=UTC)
"""The date given to chat templates that ask for today's, so that a job's prompts are the same on
every day. Llama 3.2's template uses this date where it cannot ask."""

_DATE_CODES = tuple(f"%{code}" for code in "aAbBdeHIjmMpSyYZ")

TEMPLATE_SECONDS = 10.0
"""Time limit for rendering one chat. Chosen by hand; templates of published models take
milliseconds."""

TEMPLATE_BYTES = 512 * 1024**2
"""How much a chat template may make the process grow; those of published models take kilobytes."""

_DEFAULT_TEMPLATE = "default"

_PROBE = "a"

_ALWAYS_RENDERED = ("system", "user")
"""Roles whose messages every template renders unchanged. From earlier answers some templates drop
parts, such as the reasoning."""


class ChatTemplateError(ValueError):
    """The tokenizer has no chat template, or its template refuses the chat."""


@dataclass(frozen=True)
class Chat:
    """A conversation that ends with the message the model is to answer."""

    messages: tuple[tuple[str, str], ...]
    """Role and content of each message."""

    @property
    def text(self) -> str:
        """The contents of the messages, joined by line breaks."""
        return "\n".join(content for _, content in self.messages)


def find_beginning(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the tokens that the tokenizer puts before every text: its `<bos>`, or none.

    A model that was trained with such a token needs it before everything it reads; without it,
    Gemma 3's perplexity is in the thousands. That a tokenizer has the token does not mean that it
    adds it: SmolLM2's does not.
    """
    whole = tokenizer(_PROBE).input_ids
    is_put = len(whole) > len(encode_part(tokenizer, _PROBE)) and (
        whole[0] == tokenizer.bos_token_id
    )
    return (whole[0],) if is_put else ()


def encode_text(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Return the token ids of a raw text after the tokenizer's beginning, without a template.

    If the text already starts with the beginning, as rendered chats do, it is not added again.
    """
    beginning, own = find_beginning(tokenizer), encode_part(tokenizer, text)
    return own if own[: len(beginning)] == beginning else (*beginning, *own)


def encode_part(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Return the token ids of a text that continues another; no special tokens are added."""
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def encode_parts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Return what `encode_part` returns for each text, in a fraction of the time."""
    found = tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
    return [tuple(ids) for ids in found]


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
    """Return the token ids of a chat up to the start of the answer.

    The template writes the beginning where there is one, and `TEMPLATE_DATE` where it asks for
    today's. Raises `ChatTemplateError` where the tokenizer has no template, and where its template
    refuses a message, leaves it out, fails, or takes more than `TEMPLATE_SECONDS` or
    `TEMPLATE_BYTES`.
    """
    template = _fix_date(_find_template(tokenizer))
    try:
        with time_limit(TEMPLATE_SECONDS), memory_limit(TEMPLATE_BYTES):
            text = tokenizer.apply_chat_template(
                list(messages),
                add_generation_prompt=True,
                tokenize=False,
                chat_template=template,
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
    except Exception as error:  # a template's own code: any type
        raise ChatTemplateError(
            f"the tokenizer's chat template fails on the roles {_list_roles(messages)} "
            f"({type(error).__name__}: {error}); correct the template, or write the prompt as text"
        ) from error
    _check_rendered(text, messages)
    return encode_part(tokenizer, text)


def find_answer_end(tokenizer: Tokenizer) -> int | None:
    """Return the token that ends an answer: what the chat template writes after one, else `<eos>`.

    None for a tokenizer without either.
    """
    asked = {"role": "user", "content": _PROBE}
    try:
        before = encode_chat(tokenizer, [asked])
        whole = encode_chat(tokenizer, [asked, {"role": "assistant", "content": _PROBE}])
    except ChatTemplateError:
        return tokenizer.eos_token_id
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    header = takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))
    ends = (token_id for token_id in whole[len(list(header)) :] if token_id in special)
    return next(ends, tokenizer.eos_token_id)


def _find_template(tokenizer: Tokenizer) -> str:
    """Return the template for chats; of several by name, as of Command R, the one called default.

    Raises `ChatTemplateError` where there is none.
    """
    found = getattr(tokenizer, "chat_template", None)
    if not found:
        raise ChatTemplateError(
            "it is a chat, and the checkpoint's tokenizer has no chat template; write the prompt "
            "as text, or save the checkpoint with a template"
        )
    template = found.get(_DEFAULT_TEMPLATE) if isinstance(found, Mapping) else found
    if not isinstance(template, str):
        names = ", ".join(sorted(found)) if isinstance(found, Mapping) else type(found).__name__
        raise ChatTemplateError(
            f"of the tokenizer's chat templates ({names}) none is called {_DEFAULT_TEMPLATE}; save "
            "the checkpoint with one of that name, in chat_template.jinja"
        )
    return template


def _fix_date(template: str) -> str:
    """Return the template, changed to use `TEMPLATE_DATE` if it asks for the date.

    transformers gives templates a function `strftime_now` that callers cannot replace, but a macro
    of that name takes precedence over it.
    """
    if "strftime_now" not in template:
        return template
    filled = "".join(f"|replace('{code}', '{TEMPLATE_DATE:{code}}')" for code in _DATE_CODES)
    return (
        f"{{%- macro strftime_now(format) -%}}{{{{ format{filled} }}}}{{%- endmacro -%}}{template}"
    )


def _check_rendered(text: str, messages: Sequence[Mapping[str, str]]) -> None:
    """Raise `ChatTemplateError` if the template silently dropped a message."""
    for number, message in enumerate(messages, start=1):
        if message["role"] in _ALWAYS_RENDERED and message["content"].strip() not in text:
            raise ChatTemplateError(
                f"the tokenizer's chat template leaves out message {number}, of the role "
                f"{message['role']}; put its content into a message of another role"
            )


def _list_roles(messages: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(message["role"] for message in messages)


def cut_windows(tokenizer: Tokenizer, text: str, length: int) -> Iterator[tuple[int, ...]]:
    """Yield consecutive windows of `length` tokens of a text; the last may be shorter.

    Every window starts with the tokenizer's beginning, because a model reads each by itself.
    """
    beginning = find_beginning(tokenizer)
    own = encode_part(tokenizer, text)
    step = length - len(beginning)
    for start in range(0, len(own), step):
        yield (*beginning, *own[start : start + step])


def cut_corpus(
    tokenizer: Tokenizer, lines: Sequence[str], context: int, sequences: int, *, name: str
) -> tuple[tuple[int, ...], ...]:
    """Return the first `sequences` windows of `context` tokens of the joined lines.

    They do not overlap. Raises `ValueError`, with the corpus's `name`, if it does not fill one.
    """
    windows = tuple(cut_windows(tokenizer, "\n".join(lines), context))
    full = tuple(window for window in windows if len(window) == context)
    if not full:
        raise ValueError(
            f"{name} has {sum(map(len, windows))} tokens, one window needs "
            f"{context}; give a longer text or shorter windows"
        )
    return full[:sequences]
