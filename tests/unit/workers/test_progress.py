"""Finished units of work add up, and never to more than there is."""

from workers.progress import count_up


def test_units_add_up_and_stop_at_the_total():
    seen: list[tuple[int, int]] = []
    advance = count_up(lambda done, total: seen.append((done, total)), 5)
    for units in (2, 2, 2):
        advance(units)
    assert seen == [(2, 5), (4, 5), (5, 5)]
