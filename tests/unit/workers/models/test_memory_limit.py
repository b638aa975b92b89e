"""How much foreign code may take."""

from __future__ import annotations

import resource
import sys
import threading

import pytest

from workers.models.memory_limit import memory_limit

MIB = 1024**2

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says a process's size")


def test_more_than_that_is_a_memory_error_and_the_limit_ends_with_the_context() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with memory_limit(64 * MIB):
        assert len(bytearray(8 * MIB)) == 8 * MIB
        with pytest.raises(MemoryError):
            bytearray(256 * MIB)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(256 * MIB)) == 256 * MIB


def test_an_earlier_limit_that_is_lower_stays() -> None:
    with memory_limit(64 * MIB):
        low = resource.getrlimit(resource.RLIMIT_AS)
        with memory_limit(1024 * MIB):
            assert resource.getrlimit(resource.RLIMIT_AS) == low
        assert resource.getrlimit(resource.RLIMIT_AS) == low


def test_another_thread_sets_none() -> None:
    before, seen = resource.getrlimit(resource.RLIMIT_AS), []

    def look() -> None:
        with memory_limit(MIB):
            seen.append(resource.getrlimit(resource.RLIMIT_AS))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
