"""This machine is measured as it is: memory within its limits, speeds above nothing."""

from __future__ import annotations

import psutil

from workers.models.machine import measure_machine


def test_this_machine_is_measured() -> None:
    found = measure_machine("cpu")
    assert (found.device, found.device_bytes) == ("cpu", 0)
    assert 0 < found.host_bytes <= psutil.virtual_memory().total
    assert found.flops > 0
    assert found.bytes_per_second > 0
