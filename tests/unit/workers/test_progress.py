"""Finished units of work add up, and never to more than there is."""

from workers.progress import Counter


def test_units_add_up_and_stop_at_the_total():
    seen: list[tuple[int, int]] = []
    advance = Counter(lambda done, total: seen.append((done, total)), 5)
    for units in (2, 2, 2):
        advance(units)
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_work_that_turned_up_on_the_way_raises_the_total():
    seen: list[tuple[int, int]] = []
    advance = Counter(lambda done, total: seen.append((done, total)), 2)
    advance(2)
    advance.expect(3)
    advance(2)
    assert seen == [(2, 2), (4, 5)]
