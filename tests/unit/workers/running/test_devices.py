"""Memory of GPUs is told by a process that uses them, and torch is not loaded to find out."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from workers.running.measures import DEVICE_MEMORY, measure_devices


def pretend(monkeypatch: pytest.MonkeyPatch, *, is_initialized: bool) -> None:
    """A torch with two GPUs of 100 bytes, of which 30 and 60 are free."""
    free = {0: 30, 1: 60}
    cuda = SimpleNamespace(
        is_initialized=lambda: is_initialized,
        device_count=lambda: len(free),
        mem_get_info=lambda index: (free[index], 100),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))


def read() -> dict[tuple[str, str], float]:
    (metric,) = DEVICE_MEMORY.collect()
    return {
        (sample.labels["device"], sample.labels["state"]): sample.value for sample in metric.samples
    }


def test_used_and_total_bytes_of_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    DEVICE_MEMORY.clear()
    pretend(monkeypatch, is_initialized=False)
    measure_devices()
    assert read() == {}
    pretend(monkeypatch, is_initialized=True)
    measure_devices()
    assert read() == {
        ("0", "used"): 70,
        ("0", "total"): 100,
        ("1", "used"): 40,
        ("1", "total"): 100,
    }
    DEVICE_MEMORY.clear()


def test_torch_is_not_loaded_for_it() -> None:
    program = (
        "import sys; from workers.running import measures, reporting, exposition, child\n"
        "measures.measure_devices(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
