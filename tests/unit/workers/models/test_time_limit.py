"""Foreign code that does not end is interrupted; timers and handlers are as before afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from workers.models.time_limit import TimeLimitError, time_limit


@pytest.fixture(autouse=True)
def no_timer() -> Iterator[None]:
    """The suite's own limit uses the same timer: put it aside."""
    running, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.setitimer(signal.ITIMER_REAL, running, interval)


def spin(seconds: float) -> None:
    with time_limit(seconds):
        while True:
            pass


def test_code_that_does_not_end_is_interrupted() -> None:
    earlier = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeLimitError):
        spin(0.05)
    assert signal.getsignal(signal.SIGALRM) is earlier
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_code_that_ends_is_left_alone() -> None:
    with time_limit(60):
        result = sum(range(10))
    assert result == 45
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_timer_that_runs_already_goes_on() -> None:
    signal.setitimer(signal.ITIMER_REAL, 1000)
    with pytest.raises(TimeLimitError):
        spin(0.05)
    assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] < 1000


def test_a_timer_that_ends_sooner_stays() -> None:
    signal.setitimer(signal.ITIMER_REAL, 50)
    with time_limit(60):
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50


def test_other_threads_have_no_limit() -> None:
    seen: list[tuple[float, float]] = []

    def work() -> None:
        with time_limit(60):
            seen.append(signal.getitimer(signal.ITIMER_REAL))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0.0, 0.0)]
