"""A two-layer Llama with random weights, its word tokeniser and its folder on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from excise.names import Granularity
from workers.domain import Selection, TokenSequence
from workers.families import find_family
from workers.models.loaded import LoadedModel

VOCABULARY = 101
HIDDEN = 32
NEURONS = 48
CONTEXT = 256
MODULES = ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj")


def build_tiny_model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Two layers with grouped-query attention; weights large enough to give clear winners."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": NEURONS,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
        # Norm weights are ones when new, which would hide a rule that forgets them.
        for name, parameter in model.named_parameters():
            if "norm" in name:
                nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def build_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words `w0` … `w100`, each its own id; anything else is `w0`."""
    vocabulary = {f"w{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0")


def as_loaded(model: PreTrainedModel, pad_id: int = 0, tokenizer: Any = None) -> LoadedModel:
    """Any model as what the engines take, with the tiny tokeniser unless told."""
    return LoadedModel(model, tokenizer or build_tiny_tokenizer(), find_family(model), pad_id)


def save_tiny_checkpoint(
    folder: Path, model: LlamaForCausalLM | None = None, shard_size: str = "50GB"
) -> Path:
    """Write model and tokeniser as a checkpoint folder."""
    (model or build_tiny_model()).save_pretrained(folder, max_shard_size=shard_size)
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


def draw_samples(
    lengths: Sequence[tuple[int, int]], seed: int = 0, vocabulary: int = VOCABULARY
) -> list[TokenSequence]:
    """Random samples of the given (prompt, response) lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())

    return [TokenSequence(draw(prompt), draw(response)) for prompt, response in lengths]


def weight_bytes(model: nn.Module) -> dict[str, bytes]:
    """Every parameter's raw bytes."""
    return {
        name: parameter.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, parameter in model.named_parameters()
    }


def select_components(indices: Mapping[str, Sequence[int]], granularity: Granularity) -> Selection:
    """A selection from plain lists."""
    return Selection(
        granularity,
        {name: torch.tensor(chosen, dtype=torch.int64) for name, chosen in indices.items()},
    )


def select_neurons(indices: Mapping[str, Sequence[int]]) -> Selection:
    """A selection of neurons from plain lists."""
    return select_components(indices, Granularity.NEURON)
