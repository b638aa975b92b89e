"""Rows of the Fisher information: against every token that could be drawn, and the true KL."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from tests.tiny import draw_samples, select_components
from tests.tiny_families import build_family_model
from workers.attribution import fisher
from workers.attribution.fisher import PIECE_TOKENS, compute_fisher_rows
from workers.domain import Granularity, Selection, TokenSequence
from workers.families import (
    Family,
    find_components,
    find_family,
    linear_weight,
)
from workers.pruning.components import pruned
from workers.validation.text_damage import ReferenceText

WEIGHT = Granularity.WEIGHT


def choose_weights(model: nn.Module, family: Family, count: int) -> Selection:
    """The same few weights of every module, the last module's first."""
    names = list(reversed(find_components(model, family, WEIGHT)))
    return select_components({name: [3 + 5 * n for n in range(count)] for name in names}, WEIGHT)


def compute_exactly(
    model: nn.Module, family: Family, weights: Selection, sample: TokenSequence
) -> torch.Tensor:
    """Mean over positions of Σ p(y) g gᵀ, a backward pass for every token y that could come."""
    modules = find_components(model, family, WEIGHT)
    ids = torch.tensor([sample.token_ids])
    logits = model(input_ids=ids).logits[0, :-1]
    log_probabilities = logits.log_softmax(dim=-1)
    total = torch.zeros(len(weights), len(weights), dtype=torch.float64)
    parameters = [linear_weight(modules[name]) for name in weights.indices]
    for position, token in itertools.product(*map(range, logits.shape)):
        chosen = log_probabilities[position, token]
        gradients = torch.autograd.grad(chosen, parameters, retain_graph=True)
        parts = [
            (parameter * gradient).flatten()[indices]
            for parameter, gradient, indices in zip(
                parameters, gradients, weights.indices.values(), strict=True
            )
        ]
        row = torch.cat(parts).detach().double()
        total += float(chosen.detach().exp()) * torch.outer(row, row)
    return total / len(logits)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_rows_are_the_root_of_the_fisher_information(name: str) -> None:
    model = build_family_model(name)
    family = find_family(model)
    weights = choose_weights(model, family, 1)
    (sample,) = draw_samples([(4, 0)])
    rows = compute_fisher_rows(model, family, weights, [sample], 0, most_rows=1000)
    assert rows.shape == (1000, len(weights))
    assert rows.dtype == torch.float32
    expected = compute_exactly(model, family, weights, sample)
    found = (rows.T @ rows).double()
    assert float((found - expected).norm() / expected.norm()) < 0.2
    assert float(expected.norm()) > 0


def test_the_cost_of_many_removals_together_is_foretold(model: nn.Module) -> None:
    family = find_family(model)
    text = draw_samples([(12, 0)] * 6, seed=3)
    weights = choose_weights(model, family, 6)
    rows = compute_fisher_rows(model, family, weights, text, 0, most_rows=1500)
    scale = 0.02  # small changes, where the second order is all there is
    foretold = scale**2 * 0.5 * float(rows.sum(dim=1).square().sum())
    apart = scale**2 * 0.5 * float(rows.square().sum())
    reference = ReferenceText(model, family, text, 0)
    modules = find_components(model, family, WEIGHT)
    with torch.no_grad():
        for name, indices in weights.indices.items():
            flat = linear_weight(modules[name]).view(-1)
            flat[indices] -= scale * flat[indices]
    found = reference.measure(model).kl_mean
    assert found == pytest.approx(foretold, rel=0.15)
    assert abs(found - apart) > 3 * abs(found - foretold)


def test_pieces_are_drawn_for_as_often_as_rows_are_left(model: nn.Module, monkeypatch) -> None:
    family, weights = find_family(model), choose_weights(model, find_family(model), 2)
    text = draw_samples([(PIECE_TOKENS + 7, 0), (PIECE_TOKENS + 1, 0), (5, 0)])

    def count(most_rows: int) -> tuple[int, list[int]]:
        batches: list[int] = []
        rows = compute_fisher_rows(
            model, family, weights, text, 0, most_rows=most_rows, advance=batches.append
        )
        assert bool((rows != 0).any(dim=1).all())
        return len(rows), batches

    # Four pieces: a whole one and 7 tokens, a whole one (the token left over predicts nothing), 5.
    assert count(4) == (4, [4])
    assert count(11) == (8, [8])
    assert count(2) == (2, [2])
    monkeypatch.setattr(fisher, "MOST_ENTRIES", 5 * len(weights))
    assert count(11) == (4, [4])


def test_rows_depend_on_the_seed_and_on_no_batch(model: nn.Module) -> None:
    family, weights = find_family(model), choose_weights(model, find_family(model), 2)
    text = draw_samples([(9, 0), (30, 0), (14, 0), (2, 0)])

    def rows(**options: int) -> torch.Tensor:
        return compute_fisher_rows(model, family, weights, text, 0, most_rows=8, **options)

    torch.testing.assert_close(rows(), rows(batch_tokens=32))
    assert not torch.allclose(rows(), rows(seed=1))
    first, second = rows().split(4)
    assert not torch.allclose(first, second)


def test_a_batch_that_does_not_fit_is_halved(model: nn.Module) -> None:
    family, weights = find_family(model), choose_weights(model, find_family(model), 2)
    text = draw_samples([(20, 0)] * 4)
    expected = compute_fisher_rows(model, family, weights, text, 0, most_rows=8)

    def fail(module, args) -> None:
        if args[0].shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.layers[-1].register_forward_pre_hook(fail)
    told: list[tuple[int, int]] = []
    found = compute_fisher_rows(
        model, family, weights, text, 0, most_rows=8, on_halved=lambda *sizes: told.append(sizes)
    )
    torch.testing.assert_close(found, expected)
    assert told == [(4, 80)]


def test_no_trace_is_left(model: nn.Module) -> None:
    family, weights = find_family(model), choose_weights(model, find_family(model), 2)
    ids = torch.tensor([[1, 2, 3]])
    before = model(input_ids=ids).logits
    compute_fisher_rows(model, family, weights, draw_samples([(9, 0)]), 0, most_rows=2)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pruned(model, weights):
        assert not torch.equal(model(input_ids=ids).logits, before)


def test_text_that_predicts_nothing_is_refused(model: nn.Module) -> None:
    family = find_family(model)
    with pytest.raises(ValueError, match="two tokens"):
        compute_fisher_rows(
            model, family, choose_weights(model, family, 1), [TokenSequence((3,))], 0
        )
