"""This machine's memory and speed, measured in under a second, for estimates of jobs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from excise.estimates.machine import Machine, choose_dtype
from excise.names import ComputeDtype
from workers.models.devices import BALANCED, choose_device, count_devices
from workers.models.memory import count_memory

_SIDES = (512, 1024)
"""Sides of the square matrices that are multiplied. A product of the smaller ones takes 3 ms on a
CPU core, so some are undisturbed where other work shares it: 110 GFLOP/s beside another process,
where those of the larger ones showed 54 (2026-12-01). Larger ones are no faster on two cores."""

_READ_BYTES = 64 * 2**20
"""Bytes read to measure the speed of memory; more than a CPU's caches hold."""

_PRODUCTS = 1 << 33
"""Multiplications and additions with matrices of one size, in as many products as that takes."""

_READINGS = 5


def measure_machine(device: str = "auto") -> Machine:
    """Return the memory and speed of the device that jobs run on, and this machine's memory.

    Speeds are the best of some repeats, because the first is a warm-up and others may be disturbed:
    a worker starts beside the rest of a service.
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
    return max(_measure_product(side, place, dtype) for side in _SIDES)


def _measure_product(side: int, place: torch.device, dtype: torch.dtype) -> float:
    """Return the speed of products of matrices of one size; a large one is measured less often."""
    left, operations = torch.ones(side, side, dtype=dtype, device=place), 2 * side**3
    return operations / _time(lambda: left @ left, place, _PRODUCTS // operations)


def _measure_reading(place: torch.device) -> float:
    """Return the speed of reading memory, in bytes per second."""
    values = torch.ones(_READ_BYTES // 4, device=place)
    return _READ_BYTES / _time(values.sum, place, _READINGS)


def _time(work: Callable[[], object], place: torch.device, repeats: int) -> float:
    """Return the duration of the fastest of some runs, in seconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        seconds.append(time.perf_counter() - started)
    return max(min(seconds), 1e-9)
