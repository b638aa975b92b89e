"""Guards of protected slices: their items' edges, and rows learned half-way to a selection."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from excise.names import Granularity
from tests.tiny import as_loaded
from tests.tiny_families import build_family_model
from tests.unit.workers.attribution.test_fisher import choose, choose_weights
from workers.attribution.fisher import compute_margin_rows, weigh_leads
from workers.correction.results import ProtectedSample, ProtectedSlice, SliceDamage
from workers.correction.slice_guards import (
    ENDS,
    NEAR_ENDS,
    find_edges,
    guard_ends,
    guard_slices,
    learn_half_way,
)
from workers.families import find_family
from workers.progress import ignore
from workers.pruning.components import pruned

LIMIT = SliceDamage(nats_rise=0.1, accuracy_fall=0.05)


def sample(
    response: tuple[int, ...], spans: tuple[int, ...], marks: tuple[int, ...]
) -> ProtectedSample:
    return ProtectedSample(
        prompt_ids=(5, 9, 3), response_ids=response, spans=spans, marks=tuple(map(bool, marks))
    )


def build_slice(*samples: ProtectedSample, name: str = "words") -> ProtectedSlice:
    return ProtectedSlice(name=name, limit=LIMIT, learn=samples, tune=samples[:1])


def test_an_item_s_edge_is_the_smallest_lead_of_all_of_its_tokens() -> None:
    """The first probe has items of two and three tokens, told apart by kind into two samples."""
    probe = (11, 12, 13, 14, 15)
    words = sample(probe, (2, 3), (1, 0, 1, 0, 1))
    marks = sample(probe, (2, 3), (0, 1, 0, 1, 0))
    other = sample((21, 22), (0, 1), (0, 1))  # its first item has no token that is asked for
    leads = [torch.tensor([4.0, 3.0, 2.0]), torch.tensor([-1.0, 2.5]), torch.tensor([7.0])]
    edges = find_edges(build_slice(words, marks, other), leads)
    assert edges.tolist() == [-1.0, 2.0, 7.0]


def build_probes() -> ProtectedSlice:
    return build_slice(
        *(sample((7 + n, 30 - n, 4 + 2 * n, 17), (4,), (1, 1, 1, 1)) for n in range(4))
    )


@pytest.mark.parametrize("granularity", list(Granularity))
def test_rows_are_the_slopes_of_the_leads_half_way(granularity: Granularity) -> None:
    model = build_family_model("llama")
    base, own, step = as_loaded(model), build_probes(), 0.001
    components = choose(model, find_family(model), granularity, 1)
    (guard,) = guard_slices(base, components, (own,), {"words": LIMIT}, ignore)
    learned = learn_half_way(base, components, own, guard, components, ignore)
    samples = [one.to_sequence() for one in own.learn]

    def find_leads(scale: float) -> tuple[torch.Tensor, ...]:
        with pruned(model, components, scale=scale):
            return compute_margin_rows(base, components, samples).leads

    more, half, less = find_leads(0.5 + step), find_leads(0.5), find_leads(0.5 - step)
    slopes = [
        float((weigh_leads(at) * (high - low)).sum()) / (2 * step)
        for high, at, low in zip(more, half, less, strict=True)
    ]
    assert learned.rows.sum(dim=1).tolist() == pytest.approx(slopes, rel=0.02, abs=2e-3)
    assert max(map(abs, slopes)) > 0.01
    assert learned.leads is guard.leads
    assert (learned.name, learned.limit, learned.fall_limit) == ("words", 0.1, 0.05)


def test_half_way_the_falls_of_a_selection_are_foretold_better() -> None:
    model = build_family_model("llama")
    base, own = as_loaded(model), build_probes()
    components = choose_weights(model, find_family(model), 6)
    (guard,) = guard_slices(base, components, (own,), {"words": LIMIT}, ignore)
    learned = learn_half_way(base, components, own, guard, components, ignore)
    with pruned(model, components):
        samples = [one.to_sequence() for one in own.learn]
        after = compute_margin_rows(base, components, samples).leads
    falls = [
        float((weigh_leads(old) * (old - new)).sum())
        for old, new in zip(guard.leads, after, strict=True)
    ]
    before, half_way = (math.dist(one.rows.sum(dim=1).tolist(), falls) for one in (guard, learned))
    assert half_way < 0.5 * before


def test_the_model_is_left_as_it_was() -> None:
    model = build_family_model("llama")
    base, components = as_loaded(model), choose_weights(model, find_family(model), 6)
    own = build_slice(sample((7, 30, 4), (3,), (1, 1, 1)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (guard,) = guard_slices(base, components, (own,), {"words": LIMIT}, ignore)
    learn_half_way(base, components, own, guard, components, ignore)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_ends_are_guarded_where_they_are_nearest_in_what_the_model_wrote() -> None:
    model = build_family_model("llama")
    base, end = as_loaded(model), 2
    written = [own.to_sequence() for own in build_probes().learn]
    components = choose(model, find_family(model), Granularity.NEURON, 1)
    longer = replace(written[0], response_ids=tuple(range(20, 30)), is_explained=(True,) * 10)
    guard = guard_ends(base, components, [longer, *written], end, ignore)
    assert guard.name == ENDS
    assert [len(leads) for leads in guard.leads] == [NEAR_ENDS] * 5
    with torch.inference_mode():
        logits = model(torch.tensor([longer.token_ids])).logits[0, len(longer.prompt_ids) - 1 : -1]
    over = logits.gather(1, torch.tensor(longer.response_ids)[:, None])[:, 0] - logits[:, end]
    assert guard.leads[0].sort().values.tolist() == pytest.approx(
        over.sort().values[:NEAR_ENDS].tolist(), abs=1e-4
    )
    assert guard.edges.tolist() == pytest.approx([float(own.min()) for own in guard.leads])
    assert guard.rows.shape == (5, len(components))
    assert guard.rows.abs().max() > 0
