"""The chart, rendered with several sets of values, keeps its promises."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select, text

from service.database import Database
from service.keys.operations import create_tenant_key
from service.models import ApiKey, Job
from service.serving.pools import ServingPool
from tests.integration.deploy.engine import ContainersUnavailableError
from tests.integration.deploy.helm import (
    CHART,
    EXAMPLES,
    check_manifest,
    find_helm,
    render,
    run_helm,
)

NAMES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
WORKER = "prod-excise-worker"

Manifest = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def helm() -> Path:
    try:
        return find_helm()
    except ContainersUnavailableError as error:
        pytest.skip(str(error))


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    [found] = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def list_pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        if manifest["kind"] in {"Deployment", "Job"}:
            yield manifest["spec"]["template"]


def render_example(name: str, *arguments: str) -> list[Manifest]:
    return render("--values", str(EXAMPLES / name), *arguments)


@pytest.mark.parametrize("name", NAMES)
def test_kubernetes_accepts_every_manifest(name: str) -> None:
    lint = run_helm("lint", "--strict", str(CHART), "--values", str(EXAMPLES / name))
    assert lint.returncode == 0, lint.stdout
    for manifest in render_example(name):
        check_manifest(manifest)


def test_the_check_rejects_what_kubernetes_would_reject() -> None:
    [manifest] = [m for m in render_example("minimal.yaml") if m["kind"] == "ScaledObject"]
    manifest["spec"]["minReplicas"] = 1
    with pytest.raises(Exception, match="minReplicas"):
        check_manifest(manifest)
    deployment = find(render_example("minimal.yaml"), "Deployment", WORKER)
    deployment["spec"]["replica"] = 1
    with pytest.raises(Exception, match="replica"):
        check_manifest(deployment)


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_keeps_to_the_restricted_standard(name: str) -> None:
    pods = list(list_pods(render_example(name)))
    assert pods
    for pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        volumes = {kind for volume in spec["volumes"] for kind in volume} - {"name"}
        assert volumes <= {"emptyDir", "persistentVolumeClaim", "secret"}
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", NAMES)
def test_secrets_are_referenced_and_never_contained(name: str) -> None:
    manifests = render_example(name)
    assert not [m for m in manifests if m["kind"] == "Secret"]
    secrets = {"EXCISE_DATABASE_URL", "EXCISE_BROKER_URL", "VLLM_API_KEY"}
    for pod in list_pods(manifests):
        for variable in pod["spec"]["containers"][0]["env"]:
            if variable["name"] in secrets or variable["name"].startswith("SERVING_KEY"):
                assert set(variable) == {"name", "valueFrom"}


@pytest.mark.parametrize("values", [(), ("--set", "serviceMonitor.enabled=true")])
def test_the_metrics_token_is_a_reference_whoever_scrapes(values: tuple[str, ...]) -> None:
    manifests = render_example(
        "minimal.yaml",
        *("--set", "serviceMonitor.tokenSecret=scrape"),
        *("--set-string", "settings.EXCISE_MAX_STREAMS_PER_KEY=9"),
        *values,
    )
    [container] = find(manifests, "Deployment", "prod-excise-api")["spec"]["template"]["spec"][
        "containers"
    ]
    found = {variable["name"]: variable for variable in container["env"]}
    assert found["EXCISE_METRICS_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "scrape"
    assert found["EXCISE_MAX_STREAMS_PER_KEY"]["value"] == "9"
    assert any(m["kind"] == "ServiceMonitor" for m in manifests) == bool(values)


def test_only_the_api_reaches_vllm() -> None:
    manifests = render_example("gpu-serving.yaml")
    policy = find(manifests, "NetworkPolicy", "prod-excise-vllm")["spec"]
    [rule] = policy["ingress"]
    [peer] = rule["from"]
    labels = peer["podSelector"]["matchLabels"]
    assert labels["app.kubernetes.io/component"] == "api"
    # with a namespace as well, other namespaces' pods could match
    assert set(peer) == {"podSelector"}
    assert rule["ports"] == [{"port": 8000, "protocol": "TCP"}]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    servers = find(manifests, "NetworkPolicy", "prod-excise-servers")["spec"]["podSelector"]
    assert "vllm" not in servers["matchExpressions"][0]["values"]
    for pod in list_pods(manifests):
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "vllm":
            chosen = policy["podSelector"]["matchLabels"]
            assert chosen.items() <= pod["metadata"]["labels"].items()


def test_every_pod_is_closed_by_default() -> None:
    manifests = render_example("gpu-serving.yaml")
    closed = find(manifests, "NetworkPolicy", "prod-excise-closed")["spec"]
    assert set(closed) == {"podSelector", "policyTypes"}
    for pod in list_pods(manifests):
        assert closed["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_the_apis_pools_are_the_existing_servers() -> None:
    manifests = render_example("gpu-serving.yaml")
    api = find(manifests, "Deployment", "prod-excise-api")["spec"]["template"]["spec"]
    environment = {v["name"]: v for v in api["containers"][0]["env"]}
    pools = json.loads(environment["EXCISE_SERVING_POOLS"]["value"])
    services = {m["metadata"]["name"] for m in manifests if m["kind"] == "Service"}
    assert [pool["name"] for pool in pools] == ["main", "whole"]
    for pool in pools:
        parsed = ServingPool.model_validate(pool)
        host = str(parsed.url).removeprefix("http://").partition(":")[0]
        assert host in services
        server = find(manifests, "Deployment", host)["spec"]["template"]["spec"]["containers"][0]
        key = next(v for v in server["env"] if v["name"] == "VLLM_API_KEY")
        assert environment[pool["api_key_env"]]["valueFrom"] == key["valueFrom"]


def test_a_broker_that_is_away_takes_no_api_out_of_the_service() -> None:
    """The API takes jobs without it; only its start waits for everything."""
    [container] = find(render_example("minimal.yaml"), "Deployment", "prod-excise-api")["spec"][
        "template"
    ]["spec"]["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startup": "/readyz",
        "liveness": "/healthz",
        "readiness": "/healthz",
    }


def test_a_worker_may_finish_its_stage_before_it_is_killed() -> None:
    manifests = render_example("gpu-serving.yaml", "--set", "worker.drainSeconds=7200")
    spec = find(manifests, "Deployment", WORKER)["spec"]["template"]["spec"]
    [container] = spec["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == ["python", "-P", "-m", "service.probes", "drain", "7200"]
    assert spec["terminationGracePeriodSeconds"] == 7260
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert {"name": "EXCISE_DEVICE", "value": "balanced"} in container["env"]


def test_keda_counts_waiting_and_running_jobs(database: Database) -> None:
    [scaled] = [m for m in render_example("minimal.yaml") if m["kind"] == "ScaledObject"]
    [trigger] = scaled["spec"]["triggers"]
    query = text(trigger["metadata"]["query"])
    with database.transaction() as session:
        assert session.execute(query).scalar_one() == 0
        create_tenant_key(session, "first", "k", ("submit",))
        key = session.scalars(select(ApiKey)).one()
        for number, status in enumerate(("queued", "running", "failed")):
            common = {"tenant_id": key.tenant_id, "api_key_id": key.id, "spec": {}}
            kind = {"kind": "correction", "model": "tiny", "user_metadata": {}}
            session.add(Job(id=f"job_{number}", status=status, **common, **kind))
        session.flush()
        assert session.execute(query).scalar_one() == 2


def test_the_database_is_migrated_before_anything_starts() -> None:
    job = find(render_example("minimal.yaml"), "Job", "prod-excise-migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("worker.gpu=1", "gpu"),
        ("worker.drainSeconds=-1", "drainSeconds"),
        ("artifacts.url=/srv", "url"),
        ("settings.EXCISE_DATABASE_URL=x", "EXCISE_DATABASE_URL"),
        ("settings.EXCISE_METRICS_TOKEN=x", "EXCISE_METRICS_TOKEN"),
        ("settings.EXCISE_SCORER_SECRET=x", "EXCISE_SCORER_SECRET"),
        ("serving.pools[0].name=Main", "pools"),
        ("image.registry=https://registry.example.org/team", "/image/registry"),
        ("image.registry=registry.example.org/team/", "/image/registry"),
        ("ingress.host=https://excise.example.org", "/ingress/host"),
        ("artifacts.claim=results", "artifacts.url and artifacts.claim: set one, not both"),
        ("worker.autoscaling.minReplicas=9", "worker.autoscaling.minReplicas: 9 is more than"),
        ("api.autoscaling.minReplicas=9", "api.autoscaling.minReplicas: 9 is more than"),
        ("ingress.enabled=true", "ingress.host: the service's name on the network"),
    ],
)
def test_a_wrong_value_is_rejected_by_name(value: str, message: str) -> None:
    values = ("--values", str(EXAMPLES / "minimal.yaml"), "--set", value)
    done = run_helm("template", "prod", str(CHART), *values)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize("value", ["database.secret", "broker.secret", "models.claim"])
def test_missing_values_are_named(value: str) -> None:
    arguments = ("--values", str(EXAMPLES / "minimal.yaml"), "--set", f"{value}=")
    done = run_helm("template", "prod", str(CHART), *arguments)
    assert done.returncode != 0
    assert value in done.stderr


def test_the_readme_lists_every_value_and_its_default() -> None:
    readme = (CHART / "README.md").read_text()
    rows = dict(re.findall(r"^\| `([a-zA-Z.]+)` \| `(.*?)` \|", readme, re.MULTILINE))
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    listed = dict(list_values(schema, values))
    assert rows == listed


def list_values(schema: dict[str, Any], values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    for name, part in schema["properties"].items():
        if name == "global":
            continue
        if "properties" in part and "description" not in part:
            yield from list_values(part, values[name], f"{path}{name}.")
        else:
            value = values[name]
            shown = (value or '""') if isinstance(value, str) else json.dumps(value)
            yield f"{path}{name}", shown
