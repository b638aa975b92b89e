"""Prometheus's own tool parses the rules, runs their tests, and parses a worker's metrics."""

from __future__ import annotations

import subprocess

from prometheus_client import CollectorRegistry, generate_latest

from tests.integration.deploy.promtool import find_promtool
from tests.unit.deploy.observed import RULE_TESTS, RULES
from workers.running.exposition import WorkerCollector
from workers.running.reporting import ChildReports


def run(*arguments: str, content: bytes = b"") -> None:
    ended = subprocess.run(
        [str(find_promtool()), *arguments],
        cwd=RULES.parent,
        input=content,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr).decode()


def test_the_rules_are_valid() -> None:
    run("check", "rules", RULES.name)


def test_every_rule_does_what_its_test_says() -> None:
    run("test", "rules", RULE_TESTS.name)


def test_the_example_configuration_is_valid() -> None:
    run("check", "config", "--syntax-only", "prometheus.yml")


def test_a_workers_metrics_are_well_formed() -> None:
    registry = CollectorRegistry()
    registry.register(WorkerCollector(ChildReports()))
    run("check", "metrics", content=generate_latest(registry))
