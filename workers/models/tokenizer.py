"""The part of a tokenizer's interface that Excise uses; those of transformers have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Protocol


class Tokenizer(Protocol):
    """Converts text to token ids and back."""

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token that begins a text, if there is one."""

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a text, if there is one."""

    @property
    def pad_token_id(self) -> int | None:
        """Id of the token that pads batches, if there is one."""

    @property
    def unk_token_id(self) -> int | None:
        """Id of the token for unknown text, if there is one."""

    @property
    def all_special_ids(self) -> Sequence[int]:
        """Ids of the tokens that do not represent text."""

    @property
    def all_special_tokens(self) -> Sequence[str]:
        """The same tokens, as strings."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Token id → token, for tokens added to the trained vocabulary."""

    @property
    def chat_template(self) -> Any:
        """The template that renders a chat as text, if there is one."""

    def __call__(self, text: str | list[str], *, add_special_tokens: bool = True) -> Any:
        """Return an encoding whose `input_ids` are the text's token ids, or each text's."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> Any:
        """Return the text of the token ids."""

    def get_vocab(self) -> dict[str, int]:
        """Return token → id."""

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool,
        tokenize: bool,
        chat_template: str | None,
    ) -> Any:
        """Return a chat rendered as text, by the tokenizer's template or by `chat_template`."""


def copy_with_template(tokenizer: Tokenizer, template: Any) -> Tokenizer:
    """Return a copy of the tokenizer that renders chats by `template`."""
    copied = copy(tokenizer)
    setattr(copied, "chat_template", template)  # noqa: B010 - what we use is read-only
    return copied


def find_pad_id(tokenizer: Tokenizer, rows: int) -> int:
    """Return the id to pad batches with: the pad token's, else the end-of-text token's, else 0.

    A token without a row in the embedding, which has `rows` rows, cannot be used.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None and token_id < rows:
            return int(token_id)
    return 0
