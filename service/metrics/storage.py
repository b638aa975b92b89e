"""How much room the artifact store has left, where that is a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class StorageCollector(Collector):
    """Bytes of the file system that artifacts lie on; nothing for a store on S3."""

    def __init__(self, location: str) -> None:
        self._folder = None if "://" in location else Path(location)

    def collect(self) -> Iterator[Metric]:
        """Free and total bytes, as long as the folder is there."""
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
        """Nothing: registering looks at no disk."""
        return []
