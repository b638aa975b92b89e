"""How a worker's child processes are started.

A child imports torch, transformers and all kinds of jobs, which takes 5 to 9 CPU seconds. On a
machine without a GPU these are imported once, in a server process from which every child is
forked. A driver of a GPU does not survive a fork, so that elsewhere every child is a new process.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

EXIT_ORPHANED = 71
"""Exit status of a child whose worker has ended."""

_GPU_NODES = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
"""What the drivers of NVIDIA, of AMD and of Windows' subsystem for Linux make for their GPUs."""


def preload(modules: Iterable[str]) -> None:
    """Let the server process import these modules before its first fork."""
    multiprocessing.set_forkserver_preload(sorted(set(modules)))


def warm_up(device: str) -> None:
    """Return once the next child can start at once: the server process has imported everything.

    Whoever holds a lease must not wait for that.
    """
    context = get_process_context(device)
    if isinstance(context, ForkServerContext):
        first = context.Process(target=_do_nothing, name="excise-warm-up")
        first.start()  # returns when it has been forked
        first.join()


def _do_nothing() -> None:
    """Be forked, and end."""


def get_process_context(device: str) -> ForkServerContext | SpawnContext:
    """Return what starts child processes whose models run on `device`, a worker's setting.

    The server process starts with the first child and ends with the worker.
    """
    if device == "cpu" or not any(node.exists() for node in _GPU_NODES):
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


def exit_with_parent() -> None:
    """End this process as soon as the worker that started it has ended for any reason."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="excise-parent-watch", daemon=True).start()
