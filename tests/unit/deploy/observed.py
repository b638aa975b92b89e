"""Every metric that the code has, and every expression that rules and dashboards ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.core import Metric

from service.gateway.metrics import GatewayMetrics
from service.metrics.counters import REGISTRY
from service.metrics.database import build_broker_metrics, build_database_metrics
from service.metrics.figures import Figures, JobCount, QueueState
from service.metrics.storage import StorageCollector
from workers.running import measures
from workers.running.exposition import WorkerCollector
from workers.running.reporting import ChildReports

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "observability"
RULES = FOLDER / "prometheus" / "rules.yml"
RULE_TESTS = FOLDER / "prometheus" / "rules.test.yml"
DASHBOARDS = sorted((FOLDER / "grafana").glob("*.json"))
TARGET_LABELS = frozenset({"instance", "job"})
"""What Prometheus itself adds to every sample."""
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
_FIGURES = Figures(
    jobs=[JobCount("correction", "queued", "5m", 1)],
    queues=[QueueState("job", 1, 1.0)],
    outbox_unsent=1,
    outbox_lag_seconds=1.0,
    workers={"idle": 1},
    versions={"live": 1},
    pools={"main": "up"},
    artifact_bytes={"ten_1": 1},
)


@dataclass(frozen=True)
class Asked:
    """One expression, and where it stands."""

    place: str
    expression: str


def list_counted() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, type and labels of what API and workers count, whether it was counted yet or not."""
    assert measures.ATTEMPTS is not None  # the workers' are in the same registry
    for registry in (REGISTRY, GatewayMetrics().registry):
        for collector in {id(one): one for one in registry._names_to_collectors.values()}.values():
            counted: Any = collector
            yield counted._name, counted._type, tuple(counted._labelnames)


def list_asked_for() -> Iterator[Metric]:
    """What collectors ask for when they are scraped."""
    yield from build_database_metrics(_FIGURES)
    yield from build_broker_metrics(1)
    yield from StorageCollector(str(ROOT)).collect()
    own = {name for name, _, _ in list_counted()}
    yield from (one for one in WorkerCollector(ChildReports()).collect() if one.name not in own)


def load_metrics() -> dict[str, frozenset[str]]:
    """Labels by the name of every sample that there can be."""
    found: dict[str, frozenset[str]] = {}
    for name, kind, labels in list_counted():
        for suffix in _SUFFIXES.get(kind, ("",)):
            extra = {"le"} if suffix == "_bucket" else set()
            found[name + suffix] = frozenset({*labels, *extra})
    for metric in list_asked_for():
        for sample in metric.samples:
            found[sample.name] = frozenset(sample.labels)
    return found


def load_rules() -> list[dict[str, Any]]:
    """All rules, of every group."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def load_panels(path: Path) -> list[dict[str, Any]]:
    """The panels of a dashboard."""
    panels: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["panels"]
    return panels


def list_expressions() -> Iterator[Asked]:
    """Every expression of rules and dashboards, Grafana's variables filled in."""
    for rule in load_rules():
        yield Asked(rule.get("alert") or rule["record"], rule["expr"])
    for path in DASHBOARDS:
        for panel in load_panels(path):
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "5m")
                yield Asked(f"{path.name}: {panel['title']}", expression)
