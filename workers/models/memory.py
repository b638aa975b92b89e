"""Free memory, and the errors by which torch and Python report that it ran out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch

_PROCESS_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")

_MESSAGES = (
    "can't allocate memory",  # torch's allocator on the CPU
    "CUDA error: out of memory",  # where others hold the rest of the device
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that the device or the machine ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def find_free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on a device.

    On the CPU, this is the machine's available memory or what the process's control group has
    left, whichever is less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    left = find_left_in_groups(_PROCESS_GROUPS, _GROUPS)
    return max(0, min([int(psutil.virtual_memory().available), *left]))


def count_memory() -> int:
    """Return the bytes of main memory that this process and others in its control groups may have.

    The machine's, or the smallest limit of these groups where that is less.
    """
    limits = find_limits_of_groups(_PROCESS_GROUPS, _GROUPS)
    return min([int(psutil.virtual_memory().total), *limits])


def find_left_in_groups(process_groups: Path, root: Path) -> list[int]:
    """Return the bytes left in each of this process's control groups that has a memory limit.

    File pages that can be dropped count as free. For the paths see `_list_group_files`.
    """
    left: list[int] = []
    for most, used in _list_group_files(process_groups, root):
        with suppress(OSError, ValueError):  # no such group, or one without a limit: "max"
            taken = int(used.read_text()) - _count_droppable(used.parent)
            left.append(int(most.read_text()) - taken)
    return left


def find_limits_of_groups(process_groups: Path, root: Path) -> list[int]:
    """Return the bytes that each control group of this process may have, of those with a limit."""
    limits: list[int] = []
    for most, _ in _list_group_files(process_groups, root):
        with suppress(OSError, ValueError):  # as above
            limits.append(int(most.read_text()))
    return limits


def _list_group_files(process_groups: Path, root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files with the limit and the use of each control group of this process.

    `process_groups` is what Linux calls /proc/self/cgroup, `root` where it mounts the groups, of
    version 2 or 1 (man 7 cgroups). In a container the group's path may not be seen from inside;
    its files are then those of the mount itself.
    """
    try:
        lines = process_groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, most, used = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount, most = root / "memory", "memory.limit_in_bytes"
            used = "memory.usage_in_bytes"
        else:
            continue
        for folder in (mount / path.lstrip("/"), mount):
            yield folder / most, folder / used


def _count_droppable(folder: Path) -> int:
    """Return the bytes of a control group's inactive page cache."""
    statistics = dict(
        line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines()
    )
    return int(statistics.get("total_inactive_file", statistics.get("inactive_file", "0")))
