"""Rows of the Fisher information: against every token that could be drawn, and the true KL."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from excise.names import Granularity
from tests.tiny import as_loaded, draw_samples, select_components
from tests.tiny_families import build_family_model
from workers.attribution import fisher
from workers.attribution.fisher import (
    LEAD_SCALE,
    PIECE_TOKENS,
    MarginRows,
    compute_fisher_rows,
    compute_leads,
    compute_margin_rows,
    weigh_leads,
)
from workers.attribution.memory import SampleTooLargeError
from workers.domain import Selection, TokenSequence
from workers.families import Family, count_heads, find_components, find_family, linear_weight
from workers.measuring.text_damage import ReferenceText
from workers.pruning.components import pruned

WEIGHT, NEURON, HEAD = Granularity.WEIGHT, Granularity.NEURON, Granularity.HEAD


def choose_weights(model: nn.Module, family: Family, count: int) -> Selection:
    """The same few weights of every module, the last module's first."""
    names = list(reversed(find_components(model, family, WEIGHT)))
    return select_components({name: [3 + 5 * n for n in range(count)] for name in names}, WEIGHT)


def choose(model: nn.Module, family: Family, granularity: Granularity, count: int) -> Selection:
    """The same few components of every module, the last module's first."""
    if granularity is WEIGHT:
        return choose_weights(model, family, count)
    names = list(reversed(find_components(model, family, granularity)))
    step = 1 if granularity is HEAD else 5
    return select_components({name: [1 + step * n for n in range(count)] for name in names},
                             granularity)  # fmt: skip


Relate = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def read(
    model: nn.Module, family: Family, components: Selection, ids: tuple[int, ...]
) -> Iterator[tuple[torch.Tensor, Relate]]:
    """The logits `(token, vocabulary)` of a text, and from a scalar of them to each component's
    value times the scalar's gradient, by plain autograd."""
    modules = find_components(model, family, components.granularity)
    inputs: dict[str, torch.Tensor] = {}
    handles = [
        modules[name].register_forward_pre_hook(
            lambda _, args, name=name: inputs.__setitem__(name, args[0])
        )
        for name in components.indices
    ]
    try:
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    kind = components.granularity
    values = {
        name: linear_weight(modules[name]) if kind is WEIGHT else inputs[name]
        for name in components.indices
    }

    def relate(scalar: torch.Tensor) -> torch.Tensor:
        gradients = torch.autograd.grad(scalar, list(values.values()), retain_graph=True)
        parts = []
        for (name, value), gradient in zip(values.items(), gradients, strict=True):
            products = (value * gradient).detach()
            if kind is not WEIGHT:
                products = products[0].sum(dim=0)
            if kind is HEAD:
                products = products.view(count_heads(model), -1).sum(dim=1)
            parts.append(products.flatten()[components.indices[name]])
        return torch.cat(parts).double()

    yield logits, relate


def compute_exactly(
    model: nn.Module, family: Family, components: Selection, sample: TokenSequence
) -> torch.Tensor:
    """Mean over positions of Σ p(y) g gᵀ, a backward pass for every token y that could come."""
    total = torch.zeros(len(components), len(components), dtype=torch.float64)
    with read(model, family, components, sample.token_ids) as (logits, relate):
        log_probabilities = logits[:-1].log_softmax(dim=-1)
        for position, token in itertools.product(*map(range, log_probabilities.shape)):
            chosen = log_probabilities[position, token]
            row = relate(chosen)
            total += float(chosen.detach().exp()) * torch.outer(row, row)
    return total / len(log_probabilities)


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep rows in float32, so that they can be compared with slow ones digit by digit."""
    monkeypatch.setattr(fisher, "ROW_DTYPE", torch.float32)


def test_rows_are_kept_in_half_of_the_memory_and_rounded(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = choose_weights(model, find_family(model), 6)
    text, samples = draw_samples([(12, 0)] * 6, seed=3), mark_samples()

    def read() -> tuple[torch.Tensor, torch.Tensor]:
        rows = compute_fisher_rows(as_loaded(model), weights, text, most_rows=8)
        return rows, compute_margin_rows(as_loaded(model), weights, samples).rows

    rounded = read()
    monkeypatch.setattr(fisher, "ROW_DTYPE", torch.float32)
    for kept, exact in zip(rounded, read(), strict=True):
        assert (kept.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(kept.float(), exact, rtol=2**-7, atol=0)
        assert not torch.equal(kept.float(), exact)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_rows_are_the_root_of_the_fisher_information(name: str, granularity: Granularity) -> None:
    model = build_family_model(name)
    family = find_family(model)
    components = choose(model, family, granularity, 1 if granularity is WEIGHT else 3)
    (sample,) = draw_samples([(4, 0)])
    rows = compute_fisher_rows(as_loaded(model), components, [sample], most_rows=1000)
    assert rows.shape == (1000, len(components))
    assert rows.dtype == torch.float32
    expected = compute_exactly(model, family, components, sample)
    found = (rows.T @ rows).double()
    assert float((found - expected).norm() / expected.norm()) < 0.2
    assert float(expected.norm()) > 0


@pytest.mark.usefixtures("unrounded")
def test_the_cost_of_many_removals_together_is_foretold(model: nn.Module) -> None:
    family = find_family(model)
    text = draw_samples([(12, 0)] * 6, seed=3)
    weights = choose_weights(model, family, 6)
    rows = compute_fisher_rows(as_loaded(model), weights, text, most_rows=1500)
    scale = 0.02  # small changes, where the second order is all there is
    foretold = scale**2 * 0.5 * float(rows.sum(dim=1).square().sum())
    apart = scale**2 * 0.5 * float(rows.square().sum())
    reference = ReferenceText(as_loaded(model), text)
    modules = find_components(model, family, WEIGHT)
    with torch.no_grad():
        for name, indices in weights.indices.items():
            flat = linear_weight(modules[name]).view(-1)
            flat[indices] -= scale * flat[indices]
    found = reference.measure(as_loaded(model)).kl_mean
    assert found == pytest.approx(foretold, rel=0.15)
    assert abs(found - apart) > 3 * abs(found - foretold)


def test_pieces_are_drawn_for_as_often_as_rows_are_left(model: nn.Module, monkeypatch) -> None:
    weights = choose_weights(model, find_family(model), 2)
    text = draw_samples([(PIECE_TOKENS + 7, 0), (PIECE_TOKENS + 1, 0), (5, 0)])

    def count(most_rows: int) -> tuple[int, list[int]]:
        batches: list[int] = []
        rows = compute_fisher_rows(
            as_loaded(model), weights, text, most_rows=most_rows, advance=batches.append
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
    weights = choose_weights(model, find_family(model), 2)
    text = draw_samples([(9, 0), (30, 0), (14, 0), (2, 0)])

    def rows(**options: int) -> torch.Tensor:
        return compute_fisher_rows(as_loaded(model), weights, text, most_rows=8, **options)

    torch.testing.assert_close(rows(), rows(batch_tokens=32))
    assert not torch.allclose(rows(), rows(seed=1))
    first, second = rows().split(4)
    assert not torch.allclose(first, second)


def test_a_batch_that_does_not_fit_is_halved(model: nn.Module) -> None:
    weights = choose_weights(model, find_family(model), 2)
    text = draw_samples([(20, 0)] * 4)
    expected = compute_fisher_rows(as_loaded(model), weights, text, most_rows=8)

    def fail(module, args) -> None:
        if args[0].shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.layers[-1].register_forward_pre_hook(fail)
    told: list[tuple[int, int]] = []
    found = compute_fisher_rows(
        as_loaded(model), weights, text, most_rows=8, on_halved=lambda *sizes: told.append(sizes)
    )
    torch.testing.assert_close(found, expected)
    assert told == [(4, 80)]


def test_no_trace_is_left(model: nn.Module) -> None:
    weights = choose_weights(model, find_family(model), 2)
    ids = torch.tensor([[1, 2, 3]])
    before = model(input_ids=ids).logits
    compute_fisher_rows(as_loaded(model), weights, draw_samples([(9, 0)]), most_rows=2)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pruned(model, weights):
        assert not torch.equal(model(input_ids=ids).logits, before)


def test_text_that_predicts_nothing_is_refused(model: nn.Module) -> None:
    family = find_family(model)
    with pytest.raises(ValueError, match="two tokens"):
        compute_fisher_rows(
            as_loaded(model), choose_weights(model, family, 1), [TokenSequence((3,))]
        )


# --- leads of the right tokens --------------------------------------------------------------

FAMILIES = ("llama", "gpt2", "gemma3_text", "gpt_neox")


def mark_samples() -> list[TokenSequence]:
    """Texts of several lengths: a whole response, some of its tokens, a text without marks."""
    whole, some, text, longest = draw_samples([(3, 4), (5, 6), (7, 0), (4, 9)], seed=8)
    every_other = tuple(place % 2 == 0 for place in range(6))
    last = (False,) * 8 + (True,)
    return [
        whole,
        TokenSequence(some.prompt_ids, some.response_ids, every_other),
        text,
        TokenSequence(longest.prompt_ids, longest.response_ids, last),
    ]


def list_explained(sample: TokenSequence) -> list[int]:
    """Positions of the tokens whose leads count: the marked ones, or all that are predicted."""
    begin = len(sample.prompt_ids)
    if not sample.response_ids:
        return list(range(1, begin))
    marks = sample.is_explained or (True,) * len(sample.response_ids)
    return [begin + place for place, mark in enumerate(marks) if mark]


def slow_leads(logits: torch.Tensor, sample: TokenSequence) -> torch.Tensor:
    """Each explained token's logit minus the best other one."""
    leads = []
    for place in list_explained(sample):
        token = sample.token_ids[place]
        row = logits[place - 1]
        others = torch.cat([row[:token], row[token + 1 :]])
        leads.append(row[token] - others.max())
    return torch.stack(leads)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("name", FAMILIES)
def test_margin_rows_are_the_gradient_of_the_mean_lead_times_the_values(
    name: str, granularity: Granularity
) -> None:
    model = build_family_model(name)
    family, samples = find_family(model), mark_samples()
    components = choose(model, family, granularity, 3)
    counts: list[int] = []
    found = compute_margin_rows(
        as_loaded(model), components, samples, batch_tokens=30, advance=counts.append
    )
    assert found.rows.shape == (4, len(components))
    assert found.rows.dtype == torch.float32
    assert sum(counts) == 4
    assert len(counts) > 1
    for sample, row, leads in zip(samples, found.rows, found.leads, strict=True):
        with read(model, family, components, sample.token_ids) as (logits, relate):
            expected = slow_leads(logits, sample)
            torch.testing.assert_close(leads, expected.detach(), rtol=1e-3, atol=1e-4)
            edge = [math.exp(-max(lead, 0.0) / LEAD_SCALE) for lead in expected.tolist()]
            mean = torch.stack([w * lead for w, lead in zip(edge, expected, strict=True)]).sum()
            mean = mean / sum(edge)
            torch.testing.assert_close(row.double(), relate(mean), rtol=1e-3, atol=1e-5)
        assert bool(row.any())


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("granularity", list(Granularity))
def test_samples_of_one_text_share_its_forward_pass(
    model: nn.Module, granularity: Granularity
) -> None:
    one, two = draw_samples([(3, 4), (5, 6)], seed=8)

    def mark(sample: TokenSequence, *places: int) -> TokenSequence:
        marks = tuple(place in places for place in range(len(sample.response_ids)))
        return replace(sample, is_explained=marks)

    samples = [mark(one, 0), mark(two, 1, 2), one, mark(one, 1, 3), mark(two, 0), mark(one, 2, 3)]
    components = choose(model, find_family(model), granularity, 3)
    read_texts: list[int] = []
    handle = model.model.layers[0].register_forward_pre_hook(
        lambda module, args: read_texts.append(args[0].shape[0])
    )
    found = compute_margin_rows(as_loaded(model), components, samples)
    handle.remove()
    assert sum(read_texts) == 3  # a text that marks nothing is read for itself
    leads_alone = compute_leads(as_loaded(model), samples)
    assert all(map(torch.equal, leads_alone, found.leads))
    assert not any(leads.requires_grad for leads in leads_alone)
    for sample, row, leads in zip(samples, found.rows, found.leads, strict=True):
        alone = compute_margin_rows(as_loaded(model), components, [sample])
        torch.testing.assert_close(row, alone.rows[0])
        torch.testing.assert_close(leads, alone.leads[0])
        assert bool(row.any())


@pytest.mark.usefixtures("unrounded")
def test_what_a_small_removal_takes_from_the_leads_is_foretold(model: nn.Module) -> None:
    family, samples = find_family(model), mark_samples()
    weights = choose_weights(model, family, 6)
    before = compute_margin_rows(as_loaded(model), weights, samples)
    scale = 0.01
    modules = find_components(model, family, WEIGHT)
    with torch.no_grad():
        for name, indices in weights.indices.items():
            flat = linear_weight(modules[name]).view(-1)
            flat[indices] -= scale * flat[indices]
    after = compute_margin_rows(as_loaded(model), weights, samples)
    falls = [
        float((weigh_leads(old) * (old - new)).sum())
        for old, new in zip(before.leads, after.leads, strict=True)
    ]
    assert (before.rows.sum(dim=1) * scale).tolist() == pytest.approx(falls, rel=0.1, abs=1e-3)
    assert max(map(abs, falls)) > 0.005


def margins(model: nn.Module, granularity: Granularity, **options) -> MarginRows:
    family = find_family(model)
    components = choose(model, family, granularity, 2)
    return compute_margin_rows(
        as_loaded(model), components, draw_samples([(4, 6)] * 4, seed=2), **options
    )


def refuse_more_than(model: nn.Module, samples: int) -> None:
    def fail(module, args) -> None:
        if args[0].shape[0] > samples:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.layers[-1].register_forward_pre_hook(fail)


@pytest.mark.parametrize("granularity", list(Granularity))
def test_a_batch_of_margins_that_does_not_fit_is_halved(
    model: nn.Module, granularity: Granularity
) -> None:
    expected = margins(model, granularity)
    refuse_more_than(model, 2)
    told: list[tuple[int, int]] = []
    found = margins(model, granularity, on_halved=lambda *sizes: told.append(sizes))
    torch.testing.assert_close(found.rows, expected.rows)
    for mine, theirs in zip(found.leads, expected.leads, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert told == [(4, 40)]


def test_a_sample_that_does_not_fit_by_itself_is_refused(model: nn.Module) -> None:
    refuse_more_than(model, 0)
    with pytest.raises(SampleTooLargeError):
        margins(model, NEURON)


@pytest.mark.parametrize("granularity", [NEURON, HEAD])
def test_rows_of_neurons_and_heads_are_halved_too(
    model: nn.Module, granularity: Granularity
) -> None:
    family = find_family(model)
    components = choose(model, family, granularity, 2)
    text = draw_samples([(20, 0)] * 4)
    expected = compute_fisher_rows(as_loaded(model), components, text, most_rows=8)
    refuse_more_than(model, 1)
    found = compute_fisher_rows(
        as_loaded(model), components, text, most_rows=8, on_halved=lambda *sizes: None
    )
    torch.testing.assert_close(found, expected)
