from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from excise.names import CircuitOrder, Granularity, Scope
from workers.circuits.projections import Projection
from workers.circuits.ranking import count_circuit, keep_largest, order_scores, select_outside

SITES = {
    "a": Projection(nn.Linear(4, 3), Granularity.WEIGHT, 12, 1),
    "b": Projection(nn.Linear(2, 5), Granularity.WEIGHT, 10, 1),
}


@given(st.floats(0, 1), st.sampled_from(Scope), st.integers(0, 5))
def test_a_circuit_has_the_announced_size_and_holds_the_largest(share, scope, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {
        "a": torch.randint(4, (3, 4), generator=generator).float(),
        "b": torch.randint(4, (5, 2), generator=generator).float(),
    }
    kept = keep_largest(scores, share, scope, SITES)

    assert {name: mask.shape for name, mask in kept.items()} == {
        name: values.shape for name, values in scores.items()
    }
    assert sum(int(mask.sum()) for mask in kept.values()) == count_circuit(
        scores, share, scope, SITES
    )
    if scope is Scope.GLOBAL:
        inside = torch.cat([values[kept[name]] for name, values in scores.items()])
        outside = torch.cat([values[~kept[name]] for name, values in scores.items()])
        assert not len(inside) or not len(outside) or inside.min() >= outside.max()


def test_rows_each_keep_their_share():
    scores = {"a": torch.arange(12.0).view(3, 4)}
    kept = keep_largest(scores, 0.5, Scope.ROW, SITES)
    assert kept["a"].tolist() == [[False, False, True, True]] * 3


def test_rows_of_nodes_are_refused():
    with pytest.raises(ValueError, match="2-D"):
        keep_largest({"a": torch.arange(3.0)}, 0.5, Scope.ROW, SITES)


def test_ties_go_to_the_first_component():
    kept = keep_largest({"a": torch.ones(3), "b": torch.ones(3)}, 0.5, Scope.GLOBAL, SITES)
    assert kept["a"].all()
    assert not kept["b"].any()


def test_orders():
    scores = {"a": torch.tensor([-3.0, 2.0])}
    assert order_scores(scores, CircuitOrder.SIGNED)["a"].tolist() == [-3.0, 2.0]
    assert order_scores(scores, CircuitOrder.ABSOLUTE)["a"].tolist() == [3.0, 2.0]


def test_a_global_share_counts_whole_components_despite_rounding():
    scores = {"a": torch.arange(100.0)}
    for share, count in ((0.29, 29), (0.0099, 0), (0.999, 99), (1.0, 100)):
        assert count_circuit(scores, share, Scope.GLOBAL, SITES) == count
        assert int(keep_largest(scores, share, Scope.GLOBAL, SITES)["a"].sum()) == count


def test_what_is_outside_by_granularity():
    projections = {
        "mlp": Projection(nn.Linear(4, 3), Granularity.NEURON, 4, 1),
        "attention": Projection(nn.Linear(4, 3), Granularity.HEAD, 2, 2),
        "all": Projection(nn.Linear(2, 3), Granularity.NEURON, 2, 1),
    }
    outside = select_outside(
        {
            "mlp": torch.tensor([True, False, True, False]),
            "attention": torch.tensor([False, True]),
            "all": torch.tensor([True, True]),
        },
        projections,
    )
    neurons, heads = outside[Granularity.NEURON], outside[Granularity.HEAD]
    assert {name: indices.tolist() for name, indices in neurons.indices.items()} == {"mlp": [1, 3]}
    assert heads.indices["attention"].tolist() == [0]
    assert heads.granularity is Granularity.HEAD
