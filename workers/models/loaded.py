"""A loaded language model: the model, and everything needed to use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from transformers import PreTrainedModel

from excise.names import Granularity
from workers.families import (
    Family,
    count_components,
    count_heads,
    count_layers,
    find_components,
    find_context_length,
    find_family,
    find_linear_modules,
    head_weight,
)
from workers.models.tokenizer import Tokenizer, find_pad_id


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in its current state (the base, or the base modified), with its tokenizer."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    family: Family
    pad_id: int
    """Id of the token that pads batches; no real token ever attends to it."""

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: Tokenizer) -> Self:
        """Return the model together with its family and pad token.

        Raises `UnsupportedArchitectureError`.
        """
        pad_id = find_pad_id(tokenizer, len(_get_embedding(model)))
        return cls(model, tokenizer, find_family(model), pad_id)

    @property
    def device(self) -> torch.device:
        """The device for token ids: the embedding's, even if the model is spread over several."""
        return _get_embedding(self.model).device

    @property
    def context_length(self) -> int:
        """The model's context length in tokens."""
        return find_context_length(self.model)

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return count_layers(self.model, self.family)

    @property
    def heads(self) -> int:
        """Number of query heads per layer."""
        return count_heads(self.model)

    @property
    def head(self) -> torch.Tensor:
        """The unembedding matrix, `(vocabulary, hidden)`."""
        return head_weight(self.model, self.family)

    def run(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the hidden states after the final norm, `(sample, token, hidden)`.

        `token_ids` are `(sample, token)`, on `device`. No logits are computed.
        """
        backbone = self.model.get_submodule(self.family.backbone)
        states: torch.Tensor = backbone(input_ids=token_ids, use_cache=False).last_hidden_state
        return states

    def find_components(self, granularity: Granularity) -> dict[str, nn.Module]:
        """Return module name → module that holds components of `granularity`, in layer order.

        Raises `UnsupportedGranularityError`.
        """
        return find_components(self.model, self.family, granularity)

    def count_components(self, granularity: Granularity) -> dict[str, int]:
        """Return module name → number of components. Raises `UnsupportedGranularityError`."""
        return count_components(self.model, self.family, granularity)

    def find_linear_modules(self) -> dict[str, nn.Module]:
        """Return module name → linear module in the decoder layers, without fused experts."""
        return find_linear_modules(self.model, self.family)


def _get_embedding(model: PreTrainedModel) -> torch.Tensor:
    """Return the embedding matrix, `(vocabulary, hidden)`."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight
