"""This machine is measured as it is: memory within its limits, speeds above nothing."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch

from excise.names import ComputeDtype
from workers.models import machine
from workers.models.devices import BALANCED
from workers.models.machine import choose_own_dtype, measure_machine


def test_this_machine_is_measured() -> None:
    found = measure_machine("cpu")
    assert (found.device, found.device_bytes) == ("cpu", 0)
    assert 0 < found.host_bytes <= psutil.virtual_memory().total
    assert found.flops > 0
    assert found.bytes_per_second > 0


@pytest.mark.parametrize(
    ("asked", "gpus", "size"), [(BALANCED, 2, 200), ("auto", 2, 100), (BALANCED, 0, 0)]
)
def test_all_gpus_count_where_a_model_is_spread_over_them(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpus: int, size: int
) -> None:
    properties = SimpleNamespace(total_memory=100)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(machine, "_measure_products", lambda *_: 1e9)
    monkeypatch.setattr(machine, "_measure_reading", lambda *_: 1e9)
    found = measure_machine(asked)
    assert (found.device, found.device_bytes) == ("GPU" if gpus else "cpu", size)


@pytest.mark.parametrize(("gain", "chosen"), [(4, "bfloat16"), (0.2, "float32")])
def test_an_automatic_dtype_is_the_one_that_this_machine_gains_by(
    monkeypatch: pytest.MonkeyPatch, gain: float, chosen: str
) -> None:
    speeds = {torch.float32: 1e11, torch.bfloat16: gain * 1e11}
    monkeypatch.setattr(machine, "_measure_products", lambda _, dtype: speeds[dtype])
    assert choose_own_dtype(ComputeDtype.AUTO, "cpu") == chosen
    assert choose_own_dtype(ComputeDtype.FLOAT32, "cpu") == "float32"
