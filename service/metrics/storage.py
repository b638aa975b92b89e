"""Free space of the artifact store, if it is a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class StorageCollector(Collector):
    """Collects bytes of the file system that holds the artifacts; nothing for S3."""

    def __init__(self, location: str) -> None:
        self._folder = None if "://" in location else Path(location)

    def collect(self) -> Iterator[Metric]:
        """Yield free and total bytes, if the folder exists."""
        if self._folder is None or not self._folder.is_dir():
            return
        usage = shutil.disk_usage(self._folder)
        metric = GaugeMetricFamily(
            "excise_artifact_store_bytes",
            "Bytes of the file system that artifacts lie on.",
            labels=["state"],
        )
        metric.add_metric(["free"], usage.free)
        metric.add_metric(["total"], usage.total)
        yield metric

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering does not access the disk."""
        return []
