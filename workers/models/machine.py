"""What this machine can do, measured in under a second: for estimates of what a job will take."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from excise.estimates.machine import Machine
from workers.models.devices import BALANCED, choose_device, count_devices
from workers.models.memory import count_memory

_SIDE = 1024
"""Side of the matrices that are multiplied; larger ones are no faster on two CPU cores."""

_READ_BYTES = 64 * 2**20
"""Bytes that are read to find out how fast the device reads: more than a CPU's caches hold."""

_REPEATS = 5


def measure_machine(device: str = "auto") -> Machine:
    """Return memory and speed of the device that jobs would run on, and of this machine.

    Speeds are the best of a few repeats: the first one warms up, and others may be disturbed.
    """
    chosen = choose_device(device)
    gpus = _list_gpus(chosen)
    place = gpus[0] if gpus else torch.device(chosen)
    return Machine(
        device=torch.cuda.get_device_name(place) if gpus else "cpu",
        device_bytes=sum(torch.cuda.get_device_properties(own).total_memory for own in gpus),
        host_bytes=count_memory(),
        flops=_measure_products(place, torch.float32),
        low_precision_flops=_measure_products(place, torch.bfloat16),
        bytes_per_second=_measure_reading(place),
    )


def _list_gpus(chosen: str) -> list[torch.device]:
    """Return the GPUs that a job may use: all of them, one, or none."""
    if chosen == BALANCED:
        return [torch.device("cuda", number) for number in range(count_devices())]
    device = torch.device(chosen)
    return [device] if device.type == "cuda" else []


def _measure_products(place: torch.device, dtype: torch.dtype) -> float:
    """Return multiplications and additions per second of matrix products."""
    left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=place)
    return 2 * _SIDE**3 / _time(lambda: left @ left, place)


def _measure_reading(place: torch.device) -> float:
    """Return the bytes per second at which memory is read."""
    values = torch.ones(_READ_BYTES // 4, device=place)
    return _READ_BYTES / _time(values.sum, place)


def _time(work: Callable[[], object], place: torch.device) -> float:
    """Return the seconds of the fastest of a few runs."""
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        seconds.append(time.perf_counter() - started)
    return max(min(seconds), 1e-9)
