"""Completion requests: only fields defined here reach a model server; all others are refused.

vLLM accepts additional fields that fetch URLs, replace the chat template or unpickle tensors; none
of these is defined here.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from excise.specs.common import read_whole
from service.errors import InvalidRequestError

_NOT_UPSTREAM = frozenset({"refusal", "annotations", "audio", "function_call"})
MAX_TOKENS = 32_768
MAX_PROMPT_TOKENS = 2**18
"""Longest prompt given as token ids; about as many fit into a body of the default size limit.
Chosen by hand."""
MAX_STOP_TOKENS = 100
"""Largest number of stop tokens. With `min_tokens` and more than 128 of them, some of which are the
model's own, vLLM's engine dies, and with it every request under way."""
MAX_TOKEN_ID = 2**31 - 1
"""Largest token id, and largest `top_k`: vLLM keeps both in 32 bits; no vocabulary is as large."""
MAX_SEED = 9 * 10**18
"""Slightly below the 64-bit limit, and exact as a double, as JSON numbers may be."""


def check_model_name(name: str) -> str:
    """Return `name` unless it is a URL, for which it raises `ValueError`."""
    if "://" in name or name.startswith("//"):
        raise ValueError(
            "is a URL. Name an alias, a version or a base model; GET /v1/models lists them."
        )
    if not name.isascii() or not name.isprintable() or " " in name:
        raise ValueError(
            "has characters that no model's name can have. GET /v1/models lists the names."
        )
    return name


ModelName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        json_schema_extra={"pattern": "^(?!//)(?!.*://)[!-~]+$"},  # what is checked, in a word
    ),
    AfterValidator(check_model_name),
]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
TokenIds = Annotated[
    list[TokenId], Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True)
]
JsonObject = dict[str, Any]
"""Whatever JSON has; that its numbers are finite is found when it is encoded for the server."""
Stop = str | Annotated[list[str], Field(max_length=16, fail_fast=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    _read_whole = field_validator("*", mode="before")(read_whole)


class StreamOptions(_Part):
    """What else a stream carries."""

    include_usage: bool = False


class CompletionOptions(_Part):
    """What both kinds of completion understand."""

    model: ModelName
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    n: int = Field(default=1, ge=1, le=16)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=MAX_TOKEN_ID)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=2)
    logit_bias: dict[str, float] | None = Field(default=None, max_length=1024)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    stop: Stop | None = None
    stop_token_ids: (
        Annotated[list[TokenId], Field(min_length=1, max_length=MAX_STOP_TOKENS, fail_fast=True)]
        | None
    ) = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    return_token_ids: bool | None = None
    response_format: JsonObject | None = None
    user: str | None = Field(default=None, max_length=512)
    """Accepted for compatibility with OpenAI and not forwarded."""

    def build_upstream(self) -> dict[str, Any]:
        """Return the fields sent by the client that are forwarded."""
        return self.model_dump(exclude_unset=True, exclude={"user"})

    def encode_upstream(self, served_name: str) -> bytes:
        """Return the body for the server: the forwarded fields, with the server's model name.

        Raises `InvalidRequestError` for text that is not valid Unicode.
        """
        body = self.build_upstream() | {"model": served_name}
        try:
            text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return text.encode()
        except ValueError:
            raise InvalidRequestError(
                "The body has text that is not valid Unicode, or a number that is not finite. "
                "Remove half surrogate pairs, NaN and infinity.",
                param="body",
            ) from None


class TextPart(_Part):
    """One piece of a message; images and files would make a server fetch them."""

    type: Literal["text"]
    text: str


class Message(_Part):
    """One message of a conversation; an answer's message may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        str | Annotated[list[TextPart], Field(min_length=1, max_length=256, fail_fast=True)] | None
    ) = None
    name: str | None = Field(default=None, max_length=64)
    tool_calls: list[JsonObject] | None = Field(default=None, max_length=64, fail_fast=True)
    tool_call_id: str | None = Field(default=None, max_length=128)
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[JsonObject] | None = Field(default=None, max_length=64, fail_fast=True)
    audio: None = None
    function_call: None = None
    """These four occur in answers, for compatibility with OpenAI, and are not forwarded."""

    def build_upstream(self) -> dict[str, Any]:
        """Return the message for the server, without empty fields except the content."""
        fields = self.model_dump(exclude_unset=True, exclude=set(_NOT_UPSTREAM))
        return {
            name: value
            for name, value in fields.items()
            if name == "content" or value not in (None, [])
        }


class ChatRequest(CompletionOptions):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=2048, fail_fast=True)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[JsonObject] | None = Field(default=None, max_length=128, fail_fast=True)
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None

    def build_upstream(self) -> dict[str, Any]:
        """Return the forwarded fields, with messages reduced to what the server accepts."""
        messages = [message.build_upstream() for message in self.messages]
        return super().build_upstream() | {"messages": messages}


class CompletionRequest(CompletionOptions):
    """`POST /v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=128, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=128, fail_fast=True)]
    )
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)
