"""Responses in batches, greedy and sampled: the same tokens as one prompt at a time."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedModel

from tests.tiny import as_loaded, build_tiny_model, build_tiny_tokenizer, draw_samples
from tests.tiny_families import SETTINGS as FAMILIES
from tests.tiny_families import build_family_model
from workers.domain import TokenSequence
from workers.families import LLAMA
from workers.models.generation import (
    CPU_ROWS,
    LOGIT_BYTES,
    MOST_ROWS,
    Decoding,
    fit_rows,
    generate_responses,
    generate_samples,
)
from workers.models.loaded import LoadedModel
from workers.models.sampling import compute_row_seed, draw_from_nuclei

LENGTHS = (5, 1, 12, 3, 3, 20, 7, 2)
PROMPTS = [sample.prompt_ids for sample in draw_samples([(length, 0) for length in LENGTHS], 4)]
NEW = 15


def generate_alone(model: PreTrainedModel, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """Greedy without `generate`, cache or padding: the whole sequence again for each token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(NEW):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_give_what_each_prompt_gives_alone(seed: int, batch_size: int) -> None:
    model = build_tiny_model(seed)
    found = generate_responses(as_loaded(model), PROMPTS, NEW, batch_size=batch_size)
    expected = [TokenSequence(prompt, generate_alone(model, prompt)) for prompt in PROMPTS]
    assert found == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_reads_from_its_cache_what_it_reads_anew(name: str) -> None:
    # Windows of four tokens are shorter than most prompts, and rows end one after the other.
    model = build_family_model(name)
    alone = {prompt: generate_alone(model, prompt) for prompt in PROMPTS}
    end = alone[PROMPTS[0]][6]
    model.generation_config.eos_token_id = end
    found = generate_responses(as_loaded(model), PROMPTS, NEW)
    for prompt, sequence in zip(PROMPTS, found, strict=True):
        ids = alone[prompt]
        assert sequence.response_ids == (ids[: ids.index(end)] if end in ids else ids)


def test_the_library_s_own_greedy_search_agrees(model: LlamaForCausalLM) -> None:
    found = generate_responses(as_loaded(model), PROMPTS, NEW)
    for prompt, sequence in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False
        )
        assert sequence.token_ids == tuple(output[0].tolist())


def test_the_pad_token_may_be_any_token(model: LlamaForCausalLM) -> None:
    expected = generate_responses(as_loaded(model), PROMPTS, NEW)
    for pad_id in (1, 50, expected[0].response_ids[0]):
        assert generate_responses(as_loaded(model, pad_id=pad_id), PROMPTS, NEW) == expected


def test_the_end_token_stops_a_response_and_is_no_part_of_it(model: LlamaForCausalLM) -> None:
    free = generate_responses(as_loaded(model), PROMPTS, NEW)
    end = free[0].response_ids[4]
    model.generation_config.eos_token_id = end
    stopped = generate_responses(as_loaded(model, pad_id=end), PROMPTS, NEW)
    assert stopped[0].response_ids == free[0].response_ids[: free[0].response_ids.index(end)]
    for before, after in zip(free, stopped, strict=True):
        ids = before.response_ids
        expected = ids[: ids.index(end)] if end in ids else ids
        assert after.response_ids == expected
    assert any(len(sequence.response_ids) == NEW for sequence in stopped)


def test_any_of_several_end_tokens_stops(model: LlamaForCausalLM) -> None:
    ids = generate_responses(as_loaded(model), PROMPTS[:1], NEW)[0].response_ids
    ends = [ids[6], ids[2]]
    model.generation_config.eos_token_id = ends
    (stopped,) = generate_responses(as_loaded(model), PROMPTS[:1], NEW)
    assert stopped.response_ids == ids[: min(map(ids.index, ends))]


def test_an_end_at_once_is_an_empty_response(model: LlamaForCausalLM) -> None:
    ids = generate_responses(as_loaded(model), PROMPTS[:1], NEW)[0].response_ids
    model.generation_config.eos_token_id = ids[0]
    (stopped,) = generate_responses(as_loaded(model), PROMPTS[:1], NEW)
    assert stopped == TokenSequence(PROMPTS[0], ())


def test_without_an_end_of_its_own_a_checkpoint_ends_by_its_tokenizers(
    model: LlamaForCausalLM,
) -> None:
    tokenizer = build_tiny_tokenizer()
    ids = generate_responses(as_loaded(model), PROMPTS[:1], NEW)[0].response_ids
    tokenizer.eos_token = f"w{ids[4]}"
    (stopped,) = generate_responses(as_loaded(model, tokenizer=tokenizer), PROMPTS[:1], NEW)
    assert stopped.response_ids == ids[: ids.index(ids[4])]


SETTINGS: dict[str, dict[str, Any]] = {
    "penalties": {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2},
    "one penalty": {"repetition_penalty": 5.0},
    "no repeats": {"no_repeat_ngram_size": 2},
    "lengths": {"min_length": 40, "max_length": 7},
    "new lengths": {"min_new_tokens": 3, "max_new_tokens": 4},
    "suppressed": {"suppress_tokens": list(range(50)), "begin_suppress_tokens": list(range(90))},
    "bad words": {"bad_words_ids": [[index] for index in range(60)]},
    "forced": {"forced_bos_token_id": 7, "forced_eos_token_id": 8},
    "beams": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    "several": {"num_beams": 4, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "temperature": 3.0, "top_k": 3, "top_p": 0.2},
    "sampling settings unused": {"do_sample": False, "temperature": 0.5, "top_p": 0.2},
    "guidance": {"guidance_scale": 4.0},
    "bias": {"sequence_bias": [[[3], 100.0]]},
    "decay": {"exponential_decay_length_penalty": (1, 4.0)},
    "look-up": {"prompt_lookup_num_tokens": 3},
    "stop strings": {"stop_strings": ["w"]},
    "cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "a dictionary": {"return_dict_in_generate": True, "output_scores": True},
    "time": {"max_time": 0.0},
    "own": {"own_setting": 5},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_it_is_greedy_whatever_the_checkpoint_asks_for(
    model: LlamaForCausalLM, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    end = generate_alone(model, PROMPTS[0])[6]
    model.generation_config.eos_token_id = end
    expected = generate_responses(as_loaded(model), PROMPTS, NEW)
    for prompt, sequence in zip(PROMPTS, expected, strict=True):
        ids = generate_alone(model, prompt)
        assert sequence.response_ids == (ids[: ids.index(end)] if end in ids else ids)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=3, **settings)
    own, before = model.generation_config, model.generation_config.to_dict()
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    try:
        caplog.clear()
        assert generate_responses(as_loaded(model), PROMPTS, NEW) == expected
        assert caplog.messages == []
    finally:
        library.removeHandler(caplog.handler)
    assert model.generation_config is own
    assert own.to_dict() == before


def test_every_token_of_a_batch_is_a_step(model: LlamaForCausalLM) -> None:
    counts: list[float] = []
    generate_responses(as_loaded(model), PROMPTS, 2, batch_size=3, on_batch=counts.append)
    assert counts == pytest.approx([1.5, 1.5, 1.5, 1.5, 1, 1])


def test_a_callback_that_raises_stops_the_generation(model: LlamaForCausalLM) -> None:
    counts: list[int] = []

    def stop(answered: int) -> None:
        counts.append(answered)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        generate_responses(as_loaded(model), PROMPTS, 2, batch_size=3, on_batch=stop)
    assert counts == [1.5]


def test_a_prompt_is_read_once_and_what_has_ended_no_further(model: LlamaForCausalLM) -> None:
    end = sample(model)[0][0].response_ids[2]
    model.generation_config.eos_token_id = end
    shapes: list[tuple[int, ...]] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    found = [len(own.response_ids) for samples in sample(model) for own in samples]
    handle.remove()
    assert shapes[0] == (len(set(PROMPTS)), max(LENGTHS))
    # The last token of a response is written, but not read.
    left = [sum(length >= step for length in found) for step in range(1, NEW)]
    assert shapes[1:] == [(rows, 1) for rows in left if rows]


SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "vocab_size": 1000,
}


@pytest.mark.parametrize(("dtype", "bytes_each"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_rows_fill_half_of_what_is_free(dtype: torch.dtype, bytes_each: int) -> None:
    # 3 layers of keys and values, 2 heads of 16 each, and logits.
    row = 3 * 2 * 2 * 16 * 50 * bytes_each + 1000 * LOGIT_BYTES
    assert fit_rows(SMALL, dtype, 50, 2 * 300 * row) == 300
    assert fit_rows(SMALL, dtype, 50, 2 * 300 * row - 2) == 299
    assert fit_rows(SMALL, dtype, 50, 10 * row) == CPU_ROWS
    assert fit_rows(SMALL, dtype, 50, 10**6 * row) == MOST_ROWS


def test_an_empty_prompt_is_refused_before_anything_runs() -> None:
    nothing = LoadedModel(None, None, LLAMA, 0)
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        generate_responses(nothing, [(1, 2), ()], 2)


def test_no_prompts_give_no_responses(model: LlamaForCausalLM) -> None:
    assert generate_responses(as_loaded(model), [], 2) == []


# --- sampled -------------------------------------------------------------------------------

SAMPLED = Decoding(NEW, samples=3, temperature=0.8, top_p=0.9)


def sample(
    model: LlamaForCausalLM,
    prompts: list[tuple[int, ...]] = PROMPTS,
    decoding: Decoding = SAMPLED,
    *,
    seed: int = 5,
    batch_size: int = 128,
) -> list[tuple[TokenSequence, ...]]:
    return generate_samples(as_loaded(model), prompts, decoding, seed=seed, batch_size=batch_size)


def sample_alone(
    model: LlamaForCausalLM, prompt: tuple[int, ...], number: int, seed: int
) -> tuple[int, ...]:
    """One sample without `generate`, cache or padding."""
    ids, weyl = list(prompt), -0x61C8864680B583EB
    row = torch.tensor([compute_row_seed(seed, prompt, number)])
    with torch.no_grad():
        for step in range(NEW):
            logits = model(torch.tensor([ids]), use_cache=False).logits[:, -1]
            rows = (logits / SAMPLED.temperature).log_softmax(-1)
            ids.append(int(draw_from_nuclei(rows, row + weyl * torch.tensor(step), SAMPLED.top_p)))
    return tuple(ids[len(prompt) :])


def test_samples_are_those_of_each_prompt_alone(model: LlamaForCausalLM) -> None:
    for prompt, samples in zip(PROMPTS, sample(model), strict=True):
        expected = [sample_alone(model, prompt, number, 5) for number in range(3)]
        assert [sequence.response_ids for sequence in samples] == expected
        assert {sequence.prompt_ids for sequence in samples} == {prompt}


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_neither_batches_nor_neighbours_change_a_sample(
    model: LlamaForCausalLM, batch_size: int
) -> None:
    expected = sample(model)
    assert sample(model, batch_size=batch_size) == expected
    assert sample(model, PROMPTS[::-1], batch_size=batch_size) == expected[::-1]
    assert sample(model, PROMPTS[2:4], batch_size=batch_size) == expected[2:4]


def test_more_samples_leave_the_first_as_they_were(model: LlamaForCausalLM) -> None:
    first = sample(model, decoding=replace(SAMPLED, samples=1))
    assert [samples[:1] for samples in sample(model)] == first


def test_seeds_samples_and_prompts_differ(model: LlamaForCausalLM) -> None:
    found = [sequence.response_ids for samples in sample(model) for sequence in samples]
    assert len(set(found)) == len(found)
    others = [sequence.response_ids for samples in sample(model, seed=6) for sequence in samples]
    assert not set(found) & set(others)


def test_models_that_predict_alike_draw_alike(model: LlamaForCausalLM) -> None:
    assert sample(build_tiny_model()) == sample(model)
    expected = sample(model)
    model.model.layers[0].mlp.down_proj.weight.data[:, :2] *= 0.9
    changed = sample(model)
    pairs = [
        (one.response_ids[0], other.response_ids[0])
        for before, after in zip(expected, changed, strict=True)
        for one, other in zip(before, after, strict=True)
    ]
    assert changed != expected
    assert sum(one == other for one, other in pairs) > 0.8 * len(pairs)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_samples_are_drawn_as_asked_whatever_the_checkpoint_asks_for(
    model: LlamaForCausalLM, settings: dict[str, Any]
) -> None:
    expected = sample(model, PROMPTS[:2])
    model.generation_config = GenerationConfig(pad_token_id=3, **settings)
    assert sample(model, PROMPTS[:2]) == expected


def test_the_end_token_stops_a_sample(model: LlamaForCausalLM) -> None:
    free = sample(model)
    end = free[0][0].response_ids[4]
    model.generation_config.eos_token_id = end
    for before, after in zip(free, sample(model), strict=True):
        for one, other in zip(before, after, strict=True):
            ids = one.response_ids
            assert other.response_ids == (ids[: ids.index(end)] if end in ids else ids)


def test_every_response_is_counted(model: LlamaForCausalLM) -> None:
    counts: list[int] = []
    generate_samples(
        as_loaded(model), PROMPTS[:3], SAMPLED, seed=1, batch_size=4, on_batch=counts.append
    )
    assert sum(counts) == pytest.approx(9)
    assert max(counts) < 4


def test_several_greedy_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"all the same; one sample, or a temperature > 0"):
        Decoding(NEW, samples=2)
