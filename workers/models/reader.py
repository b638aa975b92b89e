"""Incremental decoding with a cache: a model's predictions after the last token of each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from workers.models.loaded import LoadedModel


class Reader:
    """Rows of tokens that a model reads one step at a time.

    Keys and values of the tokens read so far are kept in the model's own kind of cache. Prompts
    are padded on the left, so that all rows write their next token at the same place.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._cache = DynamicCache(config=loaded.model.config)
        self._is_token = torch.empty(0)

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits after each prompt, `(row, vocabulary)`. Equal prompts are read once."""
        numbers: dict[tuple[int, ...], int] = {}
        rows = torch.tensor([numbers.setdefault(tuple(own), len(numbers)) for own in prompts])
        longest = max(map(len, numbers))
        token_ids = torch.full((len(numbers), longest), self._loaded.pad_id, dtype=torch.long)
        is_token = torch.zeros_like(token_ids)
        for row, prompt in enumerate(numbers):
            token_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            is_token[row, longest - len(prompt) :] = 1
        device = self._loaded.device
        self._is_token = is_token.to(device)
        logits = self._predict(token_ids.to(device))
        if len(numbers) < len(prompts):
            self.keep(rows)
        return logits[rows]

    def read(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the logits after one more token of each row, `(row,)` → `(row, vocabulary)`."""
        self._is_token = torch.cat([self._is_token, torch.ones_like(self._is_token[:, :1])], dim=1)
        return self._predict(token_ids[:, None])

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only these rows; a row that is given more than once is repeated.

        `rows` is `(row,)` int64 on the CPU, because layers may lie on several devices.
        """
        self._is_token = self._is_token[rows]
        self._cache.batch_select_indices(rows)

    def _predict(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the logits after the last of the tokens, `(row, token)` → `(row, vocabulary)`."""
        positions = (self._is_token.cumsum(dim=1) - 1).clamp(min=0)[:, -token_ids.shape[1] :]
        output = self._loaded.model(
            input_ids=token_ids,
            attention_mask=self._is_token,
            position_ids=positions,
            cache=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits.to(self._loaded.device)
