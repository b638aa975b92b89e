"""This machine's memory and speed, measured in under a second, for estimates of jobs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from excise.estimates.machine import Machine, choose_dtype
from excise.names import ComputeDtype
from workers.models.devices import BALANCED, choose_device, count_devices
from workers.models.memory import count_memory

_SIDE = 1024
"""Side of the square matrices that are multiplied; larger ones are no faster on two CPU cores."""

_READ_BYTES = 64 * 2**20
"""Bytes read to measure the speed of memory; more than a CPU's caches hold."""

_REPEATS = 5


def measure_machine(device: str = "auto") -> Machine:
    """Return the memory and speed of the device that jobs run on, and this machine's memory.

    Speeds are the best of a few repeats, because the first is a warm-up and others may be
    disturbed.
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


def choose_own_dtype(wanted: ComputeDtype, device: str) -> ComputeDtype:
    """Return `wanted`, or for `auto` the one that suits this machine's device."""
    if wanted is not ComputeDtype.AUTO:
        return wanted
    return choose_dtype(wanted, [measure_machine(device)])


def _list_gpus(chosen: str) -> list[torch.device]:
    """Return the GPUs that a job may use: all of them, one, or none."""
    if chosen == BALANCED:
        return [torch.device("cuda", number) for number in range(count_devices())]
    device = torch.device(chosen)
    return [device] if device.type == "cuda" else []


def _measure_products(place: torch.device, dtype: torch.dtype) -> float:
    """Return the speed of matrix products, in multiplications and additions per second."""
    left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=place)
    return 2 * _SIDE**3 / _time(lambda: left @ left, place)


def _measure_reading(place: torch.device) -> float:
    """Return the speed of reading memory, in bytes per second."""
    values = torch.ones(_READ_BYTES // 4, device=place)
    return _READ_BYTES / _time(values.sum, place)


def _time(work: Callable[[], object], place: torch.device) -> float:
    """Return the duration of the fastest of `_REPEATS` runs, in seconds."""
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        seconds.append(time.perf_counter() - started)
    return max(min(seconds), 1e-9)
