"""Rules and dashboards ask for what the code has, and everything it has is shown to somebody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.observed import (
    DASHBOARDS,
    ROOT,
    RULE_TESTS,
    TARGET_LABELS,
    Asked,
    list_expressions,
    load_metrics,
    load_panels,
    load_rules,
)

METRICS = load_metrics()
EXPRESSIONS = list(list_expressions())
RECORDED = {rule["record"]: rule["expr"] for rule in load_rules() if "record" in rule}
ALERTS = [rule for rule in load_rules() if "alert" in rule]
PROMETHEUS_OWN = {"ALERTS": {"alertname", "alertstate"}}
SELECTOR = "VectorSelector"
_CHILDREN = ("lhs", "rhs", "expr", "param", "args", "vector_selector", "vs")


def walk(expression: Any) -> Iterator[Any]:
    """The nodes of a parsed expression."""
    yield expression
    for name in _CHILDREN:
        child = getattr(expression, name, None)
        for one in child if isinstance(child, list) else [child]:
            if one is not None and not isinstance(one, int | float | str):
                yield from walk(one)


def list_selectors(expression: str) -> list[tuple[str, set[str]]]:
    """The metrics that an expression selects, and the labels it selects them by."""
    parser = pytest.importorskip("promql_parser", reason="promql-parser is not installed")
    nodes = [node for node in walk(parser.parse(expression)) if type(node).__name__ == SELECTOR]
    return [(node.name, {one.name for one in node.matchers.matchers}) for node in nodes]


def find_labels(name: str) -> set[str]:
    """The labels a metric can have, one that is recorded by the rules too."""
    if name in RECORDED:
        grouped = re.match(r"\s*\w+ by \(([^)]*)\)", RECORDED[name])
        return set(re.split(r",\s*", grouped[1])) if grouped else set()
    return set(METRICS[name]) | TARGET_LABELS


@pytest.mark.parametrize("asked", EXPRESSIONS, ids=lambda asked: asked.place)
def test_every_expression_asks_for_metrics_and_labels_that_exist(asked: Asked) -> None:
    selectors = list_selectors(asked.expression)
    named = set(re.findall(r"\bexcise[_:][a-z0-9_:]+", asked.expression))
    assert {name for name, _ in selectors} - set(PROMETHEUS_OWN) == named
    for name, labels in selectors:
        known = PROMETHEUS_OWN[name] if name in PROMETHEUS_OWN else find_labels(name)
        assert labels <= known, (name, labels - known)


def test_every_metric_is_looked_at_somewhere() -> None:
    asked = " ".join(one.expression for one in EXPRESSIONS)
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in METRICS}
    assert {name for name in families if name not in asked} == set()


def test_no_label_names_what_there_may_be_any_number_of() -> None:
    unbounded = {"job_id", "tenant_id", "key", "key_id", "path", "url", "prompt", "request_id"}
    assert not {name for name, labels in METRICS.items() if labels & unbounded}
    assert [name for name, labels in METRICS.items() if "tenant" in labels] == [
        "excise_artifact_bytes"  # of which figures.TENANTS are told apart
    ]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    runbook = ROOT / annotations["runbook_url"]
    assert runbook.is_relative_to(ROOT / "docs" / "runbooks")
    assert runbook.is_file(), annotations["runbook_url"]


def test_every_alert_is_tested_where_it_fires_and_where_it_does_not() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text(encoding="utf-8"))["tests"]
    expected = {f"{rule['alert']} {what}" for rule in ALERTS for what in ("fires", "keeps quiet")}
    assert expected <= {test["name"] for test in tests}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_grafana_reads_every_dashboard(path: Path) -> None:
    models = pytest.importorskip(
        "grafana_foundation_sdk.models.dashboard", reason="grafana-foundation-sdk is not installed"
    )
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    raw = json.loads(path.read_text(encoding="utf-8"))
    read = json.loads(JSONEncoder(sort_keys=True).encode(models.Dashboard.from_json(raw)))
    assert (read["uid"], read["title"]) == (raw["uid"], raw["title"])
    for before, after in zip(raw["panels"], read["panels"], strict=True):
        assert (after["title"], after["type"], after["gridPos"]) == (
            before["title"],
            before["type"],
            before["gridPos"],
        )
        assert [one["expr"] for one in after["targets"]] == [
            one["expr"] for one in before["targets"]
        ]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_panels_have_their_own_place_and_number(path: Path) -> None:
    panels = load_panels(path)
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(column for column, _ in cells) < 24
        taken |= cells
        assert panel["description"]
