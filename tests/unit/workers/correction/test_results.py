"""Selections as documents: whole again after JSON, and small where there are many weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise.names import Granularity
from tests.tiny import select_components
from workers.correction.results import StoredSelection
from workers.pruning.selection import list_indices

INDICES = st.dictionaries(
    st.sampled_from(["a", "b.c", "z"]),
    st.lists(st.integers(0, 300) | st.integers(0, 2**40), min_size=1, unique=True).map(sorted),
)


@given(INDICES, st.sampled_from(list(Granularity)))
def test_a_selection_survives_json(indices: dict[str, list[int]], granularity: Granularity) -> None:
    stored = StoredSelection.from_selection(select_components(indices, granularity))
    parsed = StoredSelection.model_validate_json(stored.to_bytes())
    assert parsed == stored
    back = parsed.to_selection()
    assert back.granularity is granularity
    assert list_indices(back) == indices
    assert all(chosen.dtype == torch.int64 for chosen in back.indices.values())


@pytest.mark.parametrize("granularity", [Granularity.NEURON, Granularity.HEAD])
def test_neurons_and_heads_stay_readable(granularity: Granularity) -> None:
    stored = StoredSelection.from_selection(select_components({"a": [3, 700]}, granularity))
    assert stored.indices == {"a": [3, 700]}
    assert stored.packed == {}


def test_a_hundred_thousand_weights_take_three_characters_each() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(10**7, generator=generator)[:100_000].sort().values.tolist()
    selection = select_components({"a": chosen}, Granularity.WEIGHT)
    assert len(StoredSelection.from_selection(selection).to_bytes()) < 300_000
