"""What a loaded model says about itself."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from excise.names import Granularity
from tests.tiny import CONTEXT, HIDDEN, NEURONS, VOCABULARY, build_tiny_model, build_tiny_tokenizer
from tests.tiny_families import SETTINGS, build_family_model
from workers.families import UnsupportedArchitectureError, find_family
from workers.models.loaded import LoadedModel


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tiny_tokenizer()


def test_a_model_is_described(tokenizer: PreTrainedTokenizerFast) -> None:
    loaded = LoadedModel.of(build_tiny_model(), tokenizer)
    assert loaded.device == torch.device("cpu")
    assert (loaded.context_length, loaded.layers, loaded.heads) == (CONTEXT, 2, 4)
    assert loaded.head.shape == (VOCABULARY, HIDDEN)
    assert set(loaded.count_components(Granularity.NEURON).values()) == {NEURONS}
    assert loaded.find_components(Granularity.HEAD).keys() == {
        f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 1)
    }


def test_batches_are_filled_up_with_the_pad_else_the_end_else_the_first_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = build_tiny_model()
    assert LoadedModel.of(model, tokenizer).pad_id == 0
    tokenizer.eos_token = "w7"
    assert LoadedModel.of(model, tokenizer).pad_id == 7
    tokenizer.pad_token = "w3"
    assert LoadedModel.of(model, tokenizer).pad_id == 3


def test_a_pad_that_was_added_without_a_row_in_the_embedding_fills_nothing(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.eos_token = "w7"
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert len(tokenizer) > VOCABULARY
    assert LoadedModel.of(build_tiny_model(), tokenizer).pad_id == 7


@pytest.mark.parametrize("name", SETTINGS)
def test_states_times_the_head_are_the_logits(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = build_family_model(name)
    loaded = LoadedModel.of(model, tokenizer)
    assert loaded.family is find_family(model)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        found = loaded.run(ids) @ loaded.head.T
        expected = model(input_ids=ids).logits
    torch.testing.assert_close(found, expected)


def test_another_architecture_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_tiny_model(architectures=["MambaForCausalLM"])
    with pytest.raises(UnsupportedArchitectureError, match="MambaForCausalLM"):
        LoadedModel.of(model, tokenizer)
