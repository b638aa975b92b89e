"""Perplexity and divergence on text, against the model's own loss and plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from tests.tiny import (
    MODULES,
    VOCABULARY,
    as_loaded,
    build_tiny_model,
    draw_samples,
    select_neurons,
)
from workers.domain import TokenSequence
from workers.measuring.text_damage import ReferenceText, compute_perplexity
from workers.models import positions
from workers.pruning.components import pruned

LENGTHS = ((9, 0), (30, 0), (2, 0), (14, 6), (14, 0), (5, 0))
TOKENS = sum(prompt + response - 1 for prompt, response in LENGTHS)
INDICES = list(range(0, 40, 3))
CHOSEN = select_neurons({MODULES[0]: INDICES})


def reference(model: LlamaForCausalLM, batch_tokens: int = 64, pad_id: int = 0) -> ReferenceText:
    return ReferenceText(as_loaded(model, pad_id=pad_id), draw_samples(LENGTHS), batch_tokens)


@torch.no_grad()
def log_probabilities(model: LlamaForCausalLM) -> list[torch.Tensor]:
    """Per sample `(position, vocabulary)`, one sample at a time through the whole model."""
    return [
        torch.log_softmax(model(torch.tensor([sample.token_ids])).logits[0, :-1], dim=-1)
        for sample in draw_samples(LENGTHS)
    ]


def perplexity_by_loss(model: LlamaForCausalLM) -> float:
    total = 0.0
    for sample in draw_samples(LENGTHS):
        ids = torch.tensor([sample.token_ids])
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (len(sample.token_ids) - 1)
    return math.exp(total / TOKENS)


def test_base_perplexity_is_the_exponential_of_the_model_s_loss(model: LlamaForCausalLM) -> None:
    text = reference(model)
    assert text.tokens == TOKENS
    assert text.base_perplexity == pytest.approx(perplexity_by_loss(model), rel=1e-5)


def test_a_changed_model_s_perplexity_is_its_own_loss(model: LlamaForCausalLM) -> None:
    text = reference(model)
    with pruned(model, CHOSEN):
        damage = text.measure(as_loaded(model))
        expected = perplexity_by_loss(model)
    assert damage.perplexity == pytest.approx(expected, rel=1e-5)
    assert damage.perplexity != pytest.approx(text.base_perplexity, rel=1e-3)
    assert damage.tokens == TOKENS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_unchanged_model_diverges_by_nothing(
    model: LlamaForCausalLM, dtype: torch.dtype
) -> None:
    model.to(dtype)
    text = reference(model)
    damage = text.measure(as_loaded(model))
    assert damage.kl_mean == 0.0
    assert damage.kl_p95 == 0.0
    assert damage.perplexity == pytest.approx(text.base_perplexity, rel=1e-6)


def test_divergence_is_the_formula_from_base_to_changed(model: LlamaForCausalLM) -> None:
    text, base = reference(model), log_probabilities(model)
    with pruned(model, CHOSEN):
        damage, changed = text.measure(as_loaded(model)), log_probabilities(model)
    expected = torch.cat(
        [
            functional.kl_div(after, before, reduction="none", log_target=True).sum(-1)
            for before, after in zip(base, changed, strict=True)
        ]
    )
    assert len(expected) == TOKENS
    assert damage.kl_mean == pytest.approx(float(expected.mean()), rel=1e-4)
    assert damage.kl_p95 == pytest.approx(float(torch.quantile(expected, 0.95)), rel=1e-4)
    backwards = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(changed, base, strict=True)])
    assert damage.kl_mean != pytest.approx(float(backwards.mean()), rel=1e-3)


@pytest.mark.parametrize(("batch_tokens", "pad_id"), [(1, 0), (40, 3), (10_000, 0), (10_000, 77)])
def test_neither_batch_size_nor_pad_matters(
    model: LlamaForCausalLM, batch_tokens: int, pad_id: int
) -> None:
    one, other = reference(model), reference(model, batch_tokens, pad_id)
    assert one.base_perplexity == pytest.approx(other.base_perplexity, rel=1e-5)
    with pruned(model, CHOSEN):
        left, right = one.measure(as_loaded(model)), other.measure(as_loaded(model))
    assert left.perplexity == pytest.approx(right.perplexity, rel=1e-5)
    assert left.kl_mean == pytest.approx(right.kl_mean, rel=1e-4)
    assert left.kl_p95 == pytest.approx(right.kl_p95, rel=1e-4)


def test_neither_do_the_positions_held_at_once(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reference(model)
    with pruned(model, CHOSEN):
        expected = whole.measure(as_loaded(model))
    monkeypatch.setattr(positions, "LOGITS_AT_ONCE", 7 * VOCABULARY)
    monkeypatch.setattr(positions, "LEAST_POSITIONS", 1)
    parts = reference(model)
    assert parts.base_perplexity == pytest.approx(whole.base_perplexity, rel=1e-5)
    with pruned(model, CHOSEN):
        found = parts.measure(as_loaded(model))
    assert found.kl_mean == pytest.approx(expected.kl_mean, rel=1e-4)
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-5)


def test_batches_are_counted_for_base_and_changed_model(model: LlamaForCausalLM) -> None:
    base_counts: list[int] = []
    samples = draw_samples(LENGTHS)
    text = ReferenceText(as_loaded(model), samples, 40, on_batch=base_counts.append)
    counts: list[int] = []
    text.measure(as_loaded(model), counts.append)
    assert counts == base_counts
    assert sum(counts) == len(LENGTHS)
    assert len(counts) > 1


def test_samples_of_one_token_are_left_out(model: LlamaForCausalLM) -> None:
    short = [TokenSequence((5,)), TokenSequence(())]
    text = ReferenceText(as_loaded(model), [*short, *draw_samples(LENGTHS)])
    assert text.tokens == TOKENS
    assert text.base_perplexity == pytest.approx(reference(model).base_perplexity, rel=1e-5)


@pytest.mark.parametrize("samples", [[], [TokenSequence((5,))], [TokenSequence(())]])
def test_text_without_a_prediction_is_refused(model: LlamaForCausalLM, samples) -> None:
    with pytest.raises(ValueError, match="no sample of two tokens"):
        ReferenceText(as_loaded(model), samples)


def test_measuring_changes_nothing(model: LlamaForCausalLM) -> None:
    text = reference(model)
    with pruned(model, CHOSEN):
        first, second = text.measure(as_loaded(model)), text.measure(as_loaded(model))
    assert first == second
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.lm_head.weight, build_tiny_model().lm_head.weight)


def test_more_damage_is_more_divergence(model: LlamaForCausalLM) -> None:
    text, found = reference(model), [0.0]
    for count in (1, 5, 14):
        with pruned(model, select_neurons({MODULES[0]: INDICES[:count]})):
            found.append(text.measure(as_loaded(model)).kl_mean)
    assert found == sorted(found)
    assert len(set(found)) == 4


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_perplexity_alone_is_that_of_the_reference_text(
    model: LlamaForCausalLM, batch_tokens: int
) -> None:
    counts: list[int] = []
    with pruned(model, CHOSEN):
        found = compute_perplexity(
            as_loaded(model),
            [TokenSequence((5,)), *draw_samples(LENGTHS)],
            batch_tokens=batch_tokens,
            on_batch=counts.append,
        )
        expected = perplexity_by_loss(model)
    assert (found.value, found.tokens) == (pytest.approx(expected, rel=1e-5), TOKENS)
    assert sum(found.losses) == pytest.approx(math.log(expected) * TOKENS, rel=1e-5)
    assert found.lengths == tuple(prompt + response - 1 for prompt, response in LENGTHS)
    assert sum(counts) == len(LENGTHS)


def test_perplexity_of_nothing_is_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="no sample of two tokens"):
        compute_perplexity(as_loaded(model), [TokenSequence((5,))])


def cut_head(model: LlamaForCausalLM, rows: int) -> LlamaForCausalLM:
    """The same model without the rows of its embedding and head beyond `rows`."""
    cut = build_tiny_model(vocab_size=rows)
    weights = model.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:rows].clone()
    cut.load_state_dict(weights)
    return cut


def test_rows_that_only_pad_the_base_s_head_may_be_missing(model: LlamaForCausalLM) -> None:
    padded = build_tiny_model(vocab_size=VOCABULARY + 8)
    with torch.no_grad():
        padded.lm_head.weight[VOCABULARY:] = 0.0  # as often trained: never a target
    text = reference(padded)
    cut = cut_head(padded, VOCABULARY)
    divergence = text.measure(as_loaded(cut)).kl_mean
    assert divergence == pytest.approx(0.0, abs=1e-6)  # of the tokens both have, they say the same


def test_a_model_that_lacks_a_token_of_the_base_is_refused(model: LlamaForCausalLM) -> None:
    text = reference(model)
    with pytest.raises(ValueError, match="compare checkpoints of one vocabulary"):
        text.measure(as_loaded(cut_head(model, VOCABULARY - 1)))
