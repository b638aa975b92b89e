"""What is used of a tokenizer; transformers' own have all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, where there is one."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, where there is one."""

    @property
    def pad_token_id(self) -> int | None:
        """The token that fills batches up, where there is one."""

    @property
    def unk_token_id(self) -> int | None:
        """The token that stands for what the vocabulary lacks, where there is one."""

    @property
    def all_special_ids(self) -> Sequence[int]:
        """Tokens that stand for no text."""

    @property
    def all_special_tokens(self) -> Sequence[str]:
        """The same, as written."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Tokens that were added to the trained vocabulary, by id."""

    @property
    def chat_template(self) -> Any:
        """How a chat becomes text, where there is a way."""

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Any:
        """Return an encoding, whose `input_ids` are the text's tokens."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> Any:
        """Return the text of some tokens."""

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
        """Return a chat as the text the model was trained on, by its own template or another."""


def find_pad_id(tokenizer: Tokenizer, rows: int) -> int:
    """Return the token to fill batches up with: its own, else the end of a text, else 0.

    A token that was added without a row in the embedding, which has `rows`, cannot fill anything.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None and token_id < rows:
            return int(token_id)
    return 0
