"""The heap of a worker's child: large blocks go back to the system as soon as they are freed."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from workers.models.heap import LARGE_BLOCK, map_large_blocks

COUNT_MAPPED = f"""
import ctypes
from workers.models.heap import map_large_blocks
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]
libc.mallinfo2.restype = Usage
{{start}}
libc.free(libc.malloc(4 * {LARGE_BLOCK}))  # glibc would raise its limit to this
before = libc.mallinfo2().hblks
libc.malloc(2 * {LARGE_BLOCK})
libc.malloc({LARGE_BLOCK} // 2)
print(libc.mallinfo2().hblks - before)
"""


def count_mapped(start: str) -> int:
    """Number of two blocks, a large one and a smaller one, that got mappings of their own."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT_MAPPED.format(start=start)],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_large_blocks_keep_mappings_of_their_own_after_larger_ones_were_freed() -> None:
    assert count_mapped("") == 0
    assert count_mapped("map_large_blocks()") == 1


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    map_large_blocks()
