"""What counts as a lack of memory, and what is left of it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from workers.models.devices import release_unused_memory
from workers.models.memory import (
    count_memory,
    find_free_memory,
    find_left_in_groups,
    find_limits_of_groups,
    is_out_of_memory,
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def write_group(folder: Path, names: tuple[str, str], most: str, used: int, stat: str) -> None:
    """The files of one control group: its limit and use, by the names they have, and more."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (most, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{stat}\n")


def test_a_group_s_limit_says_what_is_left_of_it(tmp_path: Path) -> None:
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    groups.write_text("0::/jobs/one\n")
    names = ("memory.max", "memory.current")
    write_group(root / "jobs" / "one", names, "1000", 700, "inactive_file 200")
    assert find_left_in_groups(groups, root) == [500]
    assert find_limits_of_groups(groups, root) == [1000]
    write_group(root, names, "max", 700, "inactive_file 0")
    assert find_limits_of_groups(groups, root) == [1000]
    assert find_left_in_groups(groups, root) == [500]


def test_groups_of_version_one_are_read_from_their_own_mount(tmp_path: Path) -> None:
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    groups.write_text("9:name=systemd:/\n4:cpu,memory:/hidden\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    write_group(root / "memory", names, "900", 100, "total_inactive_file 50")
    assert find_left_in_groups(groups, root) == [850]
    assert find_limits_of_groups(groups, root) == [900]


def test_without_groups_there_is_no_limit_of_theirs(tmp_path: Path) -> None:
    assert find_left_in_groups(tmp_path / "cgroup", tmp_path) == []
    assert find_limits_of_groups(tmp_path / "cgroup", tmp_path) == []
    assert 0 < find_free_memory(torch.device("cpu")) <= count_memory()


def test_memory_is_released_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=asked.append))
    release_unused_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    release_unused_memory()
    assert asked == [0]
