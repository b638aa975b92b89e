"""What several workers do is counted once, by the one whose job it is."""

from __future__ import annotations

from workers.progress import Counter, Standing, count_alike
from workers.running.sharding import _SharedCount


def test_own_units_and_those_of_others_add_up_once() -> None:
    told: list[Standing] = []
    counter = Counter(told.append, [count_alike("samples", 10)])
    counter.skip(2)
    shared = _SharedCount(counter, 2, 10)
    advance = shared.count_from(2)
    advance(3)
    advance(1)
    shared.reach(6)  # the shard was filed
    shared.reach(9)  # another worker's, too
    shared.count_from(6)(1)  # computed anew, after another worker gave it up
    shared.count_from(9)(5)  # of another part
    assert [standing.done for standing in told] == [0, 2, 5, 6, 6, 9, 9, 10]
