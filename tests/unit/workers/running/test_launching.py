"""Children are forked from one server process, except where a GPU's driver would not survive it."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.running import launching
from workers.running.launching import get_process_context


@pytest.mark.parametrize(
    ("device", "has_gpu", "method"),
    [
        ("auto", False, "forkserver"),
        ("cpu", True, "forkserver"),
        ("auto", True, "spawn"),
        ("cuda:1", True, "spawn"),
        ("balanced", True, "spawn"),
    ],
)
def test_the_way_a_child_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, has_gpu: bool, method: str
) -> None:
    node = tmp_path / "nvidiactl"
    monkeypatch.setattr(launching, "_GPU_NODES", (node,))
    if has_gpu:
        node.touch()
    assert get_process_context(device).get_start_method() == method
