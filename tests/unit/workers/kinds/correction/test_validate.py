"""What the last stage measures beside the correction."""

from __future__ import annotations

from workers.abilities.encoding import EncodedProbe
from workers.domain import TokenSequence
from workers.kinds.correction.validate import take_items


def probe(items: int) -> EncodedProbe:
    return EncodedProbe(TokenSequence((1,), (2,) * items), (1,) * items)


def test_the_control_takes_the_first_probes_with_enough_items() -> None:
    threes = [probe(3) for _ in range(20)]
    assert take_items(threes, 12) == tuple(threes[:4])
    assert take_items(threes, 10) == tuple(threes[:4])
    assert take_items([probe(1)] * 60, 12) == (probe(1),) * 12


def test_a_slice_with_fewer_items_is_taken_whole() -> None:
    assert take_items([probe(3)] * 2, 12) == (probe(3),) * 2
    assert take_items([], 12) == ()
