"""Finished units of work add up by their cost, and tell how long the rest will take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.progress import (
    BACKWARD,
    FORWARD,
    GENERATED,
    TRUSTED_SHARE,
    Counter,
    Part,
    Standing,
    answer_prompts,
    count_alike,
    pass_over,
    read_texts,
)


class Clock:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A counter that keeps what it says, on a clock of its own."""

    def __init__(self, *parts: Part) -> None:
        self.clock = Clock()
        self.told: list[Standing] = []
        self.counter = Counter(self.told.append, parts, self.clock)

    def do(self, units: float, seconds: float) -> Standing:
        """Spend so long on so many units."""
        self.clock.now += seconds
        self.counter(units)
        return self.told[-1]

    @property
    def last(self) -> Standing:
        return self.told[-1]


def test_what_there_is_to_do_is_said_before_anything_is_done() -> None:
    watched = Watched(count_alike("rows", 3, 10.0, "first"), count_alike("texts", 2))
    assert watched.told == [Standing(0, 32, "first: 0 of 3 rows", None)]


def test_units_fill_the_parts_in_order_and_never_more() -> None:
    watched = Watched(count_alike("rows", 3, 10.0, "first"), count_alike("texts", 2, 4.0))
    assert watched.do(2, 1.0).message == "first: 2 of 3 rows"
    assert watched.do(2, 1.0).message == "1 of 2 texts"
    ended = watched.do(7, 1.0)
    assert (ended.done, ended.total, ended.message) == (38, 38, "2 of 2 texts")
    assert ended.remaining_seconds == 0


def test_shares_of_units_add_up() -> None:
    watched = Watched(count_alike("responses", 3, 100.0))
    told = [watched.do(0.1, 1.0) for _ in range(30)]
    assert [standing.message for standing in told[8:11]] == [
        "0 of 3 responses",
        "1 of 3 responses",
        "1 of 3 responses",
    ]
    assert (told[-1].done, told[-1].message) == (300, "3 of 3 responses")


def test_the_longest_texts_come_first_and_the_shortest_prompts() -> None:
    assert read_texts("texts", [3, 9, 5], passes=FORWARD + BACKWARD).costs == (27, 15, 9)
    own = answer_prompts([7, 2], new_tokens=10, samples=2)
    assert own.costs == tuple(length + GENERATED * 10 for length in (2, 2, 7, 7))


def test_equal_work_goes_on_at_the_pace_so_far() -> None:
    watched = Watched(count_alike("rows", 10, 5.0))
    assert watched.do(4, 8.0).remaining_seconds == pytest.approx(12)


def test_costs_tell_of_kinds_that_were_not_met_yet() -> None:
    watched = Watched(count_alike("rows", 10, 2.0), count_alike("texts", 5, 8.0))
    assert watched.do(10, 10.0).remaining_seconds == pytest.approx(20)


def test_each_kind_goes_on_at_its_own_pace() -> None:
    step = [count_alike("rows", 4), count_alike("texts", 4)]
    watched = Watched(*step, *step)
    watched.do(4, 1.0)
    found = watched.do(4, 9.0).remaining_seconds
    # Costs were wrong by 9: what is left is told by the kinds' own paces, a little drawn together.
    trusted, usual = TRUSTED_SHARE * 16, 10 / 8
    rows = (1.0 + trusted * usual) / (4 + trusted)
    texts = (9.0 + trusted * usual) / (4 + trusted)
    assert found == pytest.approx(4 * rows + 4 * texts)
    assert found == pytest.approx(10, rel=0.01)
    assert watched.do(4, 1.0).remaining_seconds == pytest.approx(9, rel=0.05)


def test_time_without_units_counts_with_the_next() -> None:
    watched = Watched(count_alike("rows", 4))
    assert watched.do(0, 3.0).remaining_seconds is None
    assert watched.do(1, 1.0).remaining_seconds == pytest.approx(12)


def test_what_was_done_before_tells_nothing_of_pace() -> None:
    watched = Watched(count_alike("rows", 10))
    watched.clock.now += 5
    watched.counter.skip(6)
    assert (watched.last.done, watched.last.remaining_seconds) == (6, None)
    assert watched.do(1, 2.0).remaining_seconds == pytest.approx(6)


def test_a_step_that_begins_ends_those_before_it() -> None:
    rounds = [count_alike("responses", 5, step=f"round {number}") for number in (1, 2, 3)]
    watched = Watched(*rounds)
    watched.do(2, 2.0)
    watched.counter.begin("round 3")
    assert watched.last.message == "round 3: 0 of 5 responses"
    assert (watched.last.done, watched.last.total) == (10, 15)
    assert watched.last.remaining_seconds == pytest.approx(5)
    watched.counter.begin("round 2")  # over
    watched.counter.begin("round 9")  # never heard of
    assert watched.last.message == "round 3: 0 of 5 responses"
    watched.counter.finish()
    assert (watched.last.done, watched.last.total, watched.last.remaining_seconds) == (15, 15, 0)
    assert watched.last.message == "round 1: 5 of 5 responses"  # nothing of the others was done


def test_what_becomes_known_takes_the_place_of_what_was_expected() -> None:
    first, expected = count_alike("responses", 4), count_alike("responses", 2, step="again")
    watched = Watched(first, expected, count_alike("texts", 1))
    watched.do(4, 4.0)
    watched.counter.expect(count_alike("responses", 9, step="again"))
    assert (watched.last.done, watched.last.total) == (4, 14)
    assert watched.last.remaining_seconds == pytest.approx(10)
    watched.counter.expect(count_alike("responses", 0, step="again"))
    assert watched.last.message == "0 of 1 texts"


def test_what_nobody_expected_comes_next() -> None:
    watched = Watched(count_alike("rows", 2), count_alike("texts", 3))
    watched.do(2, 1.0)
    watched.counter.expect(count_alike("probes", 5, step="again"))
    assert watched.last.message == "again: 0 of 5 probes"
    assert watched.do(6, 1.0).message == "1 of 3 texts"


def test_whoever_listens_may_stop_the_work() -> None:
    def stop(standing: Standing) -> None:
        if standing.done:
            raise InterruptedError

    counter = Counter(stop, [count_alike("rows", 2)])
    with pytest.raises(InterruptedError):
        counter(1)


def test_no_work_is_done_at_once() -> None:
    watched = Watched()
    assert watched.told == [Standing(0, 0)]
    assert watched.do(1, 1.0) == Standing(0, 0)
    Counter(pass_over, ())(3)


@given(
    st.lists(st.lists(st.floats(0, 1e4), max_size=6), min_size=1, max_size=6),
    st.lists(st.floats(0, 9), max_size=30),
)
def test_work_done_never_falls_and_never_passes_the_total(
    costs: list[list[float]], steps: list[float]
) -> None:
    watched = Watched(*(Part(f"kind {number}", own) for number, own in enumerate(costs)))
    for units in steps:
        watched.do(units, 1.0)
    done = [standing.done for standing in watched.told]
    assert done == sorted(done)
    assert all(standing.done <= standing.total for standing in watched.told)
    assert {standing.total for standing in watched.told} == {watched.told[0].total}
