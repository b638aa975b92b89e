"""Counts of several processes, added up metric by metric."""

from __future__ import annotations

import multiprocessing

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric

from workers.running.reporting import ChildReports, add_up


def count(tokens: int, seconds: float) -> list[Metric]:
    """What a process tells that counted this much."""
    registry = CollectorRegistry()
    Counter("tokens", "Tokens.", registry=registry).inc(tokens)
    Histogram("seconds", "Seconds.", ["stage"], buckets=(1.0, 5.0), registry=registry).labels(
        "prepare"
    ).observe(seconds)
    Gauge("memory", "Memory.", registry=registry).set(seconds)
    return list(registry.collect())


def read(metrics: list[Metric]) -> dict[str, float]:
    return {
        f"{sample.name}{''.join(sample.labels.get(name, '') for name in ('stage', 'le'))}": (
            sample.value
        )
        for metric in metrics
        for sample in metric.samples
    }


def test_counters_and_histograms_add_up() -> None:
    found = read(add_up([*count(3, 0.5), *count(4, 2.0)]))
    assert found["tokens_total"] == 7
    assert found["seconds_countprepare"] == 2
    assert found["seconds_sumprepare"] == 2.5
    assert found["seconds_bucketprepare1.0"] == 1
    assert found["seconds_bucketprepare5.0"] == found["seconds_bucketprepare+Inf"] == 2
    assert not [name for name in found if "created" in name]


def test_what_a_child_counted_stays_and_its_gauges_go() -> None:
    reports = ChildReports()
    for tokens in (3, 4):
        reader, writer = multiprocessing.Pipe(duplex=False)
        with reports.listening(reader):
            writer.send(count(1, 2.0))
            writer.send(count(tokens, 2.0))  # the whole count, not what is new
            writer.close()
    found = read(reports.collect())
    assert found["tokens_total"] == 7
    assert "memory" not in found


def test_a_child_that_dies_in_the_middle_of_a_report_keeps_the_one_before() -> None:
    reports = ChildReports()
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reports.listening(reader):
        writer.send(count(3, 2.0))
        writer.send_bytes(b"\x80\x05 cut off")
        writer.close()
    assert read(reports.collect())["tokens_total"] == 3
