"""The images and the Compose file, built and run; skipped with the reason if that cannot work."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service.embedded.valkey import find_free_port
from tests.acceptance import test_end_to_end as acceptance
from tests.acceptance.harness import MODEL, build_model, wait_for
from tests.integration.deploy.deployed import DeployedHarness
from tests.integration.deploy.engine import ContainersUnavailableError, Engine, running_engine
from tests.integration.deploy.images import (
    API,
    IMAGES,
    ROOT,
    STAND_INS,
    VLLM,
    WORKER,
    build_image,
    build_stand_ins,
)

COMPOSE = ROOT / "deploy" / "compose"

pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(2400),  # builds of images on a busy machine
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    try:
        with running_engine() as engine:
            build_image(engine, "api", API)
            build_image(engine, "worker", WORKER)
            build_stand_ins(engine)
            yield engine
    except ContainersUnavailableError as error:
        pytest.skip(f"no containers here: {error}")


def run_once(engine: Engine, image: str, *arguments: str, entry: str = "excise") -> str:
    """Return the output of a program in a container without network that may write only to /tmp."""
    closed = ("--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL")
    return engine.run("run", *closed, "--entrypoint", entry, image, *arguments)


@pytest.mark.parametrize(("image", "lock"), [(API, "api"), (WORKER, "worker-cpu")])
def test_an_image_has_its_dependencies_and_no_build_tools(
    engine: Engine, image: str, lock: str
) -> None:
    assert run_once(engine, image, "version") == "excise 0.1.0"
    assert run_once(engine, image, "-c", "id -u; id -g", entry="sh").split() == ["10001", "10001"]
    tools = "for p in gcc cc c++ make ld git pip pip3 curl; do command -v $p; done; true"
    assert run_once(engine, image, "-c", tools, entry="sh") == ""
    code = (
        "import importlib.util as u; "
        "print([name for name in ('pip', 'setuptools', 'pytest') if u.find_spec(name)])"
    )
    allowed = "['setuptools']" if image == WORKER else "[]"  # torch requires it
    assert run_once(engine, image, "-c", code, entry="python") == allowed
    config = engine.inspect(image)["Config"]
    assert isinstance(config, dict)
    assert config["User"] == "10001:10001"
    assert "service.probes" in config["Healthcheck"]["Test"]
    components = json.loads(run_once(engine, image, "/opt/excise/sbom.cdx.json", entry="cat"))
    listed = {
        re.sub(r"[-_.]+", "-", part["name"]).lower(): part["version"]
        for part in components["components"]
    }
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (IMAGES / f"{lock}.lock").read_text(), re.M))
    assert {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in locked.items()} == {
        name: version for name, version in listed.items() if name != "excise"
    }
    assert ("torch" in listed) == (image == WORKER)


def test_vllm_is_not_started_without_a_key(engine: Engine) -> None:
    build_image(engine, "vllm", VLLM)  # on a base that replaces vLLM's own image
    closed = ("--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none")
    said = engine.run("run", *closed, VLLM, "/models/tiny", check=False)
    assert "VLLM_API_KEY is not set" in said
    config = engine.inspect(VLLM)["Config"]
    assert isinstance(config, dict)
    assert config["User"] == "10001:10001"


@dataclass(frozen=True)
class Stack:
    """The running Compose file, under a project name of its own."""

    engine: Engine
    options: tuple[str, ...]
    url: str
    env: Path
    """Its .env."""

    def compose(self, *arguments: str, timeout: float = 600, text: str | None = None) -> str:
        """Return what `docker compose ARGUMENTS` prints."""
        return self.engine.run("compose", *self.options, *arguments, timeout=timeout, text=text)

    def create_key(self, tenant: str) -> str:
        """Create a key as in deploy/README.md."""
        return self.compose("exec", "-T", "api", "excise", "keys", "create", "--tenant", tenant)

    def describe(self) -> str:
        """Return the end of every container's log."""
        return self.compose("logs", "--tail", "60") + self.compose("ps", "--all")

    def find_checks(self) -> dict[str, dict[str, object]]:
        """Return the parts that /readyz lists; none while no API answers."""
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=10, trust_env=False)
            checks: dict[str, dict[str, object]] = answer.json()["checks"]
        except (httpx.HTTPError, ValueError, KeyError):
            return {}
        return checks


@pytest.fixture(scope="module")
def stack(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("compose")
    port = find_free_port()
    values = {
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "VALKEY_PASSWORD": secrets.token_hex(24),
        "EXCISE_PORT": port,
        "EXCISE_API_IMAGE": API,
        "EXCISE_WORKER_IMAGE": WORKER,
        "WORKER_MEMORY": "4g",
        **dict.fromkeys(("POSTGRES_IMAGE", "VALKEY_IMAGE", "PROXY_IMAGE"), STAND_INS),
    }
    (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    options = (
        *("--project-name", f"excise-test-{secrets.token_hex(4)}"),
        *("--file", str(COMPOSE / "compose.yaml"), "--env-file", str(folder / "env")),
    )
    stack = Stack(engine, options, f"http://127.0.0.1:{port}", folder / "env")
    try:
        stack.compose("up", "--detach", "--wait", timeout=900)
        build_model(folder / MODEL)
        for path in (folder / MODEL).iterdir():
            path.chmod(0o644)  # the worker runs as another user, see deploy/README.md
        stack.compose("cp", str(folder / MODEL), f"worker:/var/lib/excise/models/{MODEL}")
        yield stack
    except AssertionError as error:
        raise AssertionError(f"{error}\n{stack.describe()}") from None
    finally:
        stack.compose("down", "--volumes", "--remove-orphans")


@pytest.fixture
def harness(stack: Stack) -> Iterator[DeployedHarness]:
    harness = DeployedHarness(stack.url, stack.create_key, stack.describe)
    yield harness
    harness.close()


def test_the_acceptance_test_passes_on_the_compose_file(
    harness: DeployedHarness, tmp_path: Path
) -> None:
    acceptance.test_a_job_from_submission_to_files(harness, tmp_path, {})


def test_the_proxy_keeps_metrics_to_itself(stack: Stack) -> None:
    assert httpx.get(f"{stack.url}/metrics", trust_env=False).status_code == 404
    assert httpx.get(f"{stack.url}/healthz", trust_env=False).status_code == 200


def test_keys_and_passwords_are_rotated(stack: Stack) -> None:
    """As in docs/runbooks/rotate-keys.md."""
    old, new = stack.create_key("rotated"), stack.create_key("rotated")
    listed = stack.compose(
        *("exec", "-T", "api", "excise", "keys", "list", "--tenant", "rotated", "--json")
    )
    [key_id] = [key["id"] for key in json.loads(listed) if old.startswith(key["prefix"])]
    stack.compose("exec", "-T", "api", "excise", "keys", "revoke", key_id, "--tenant", "rotated")
    assert ask(stack, old) == 401
    password = secrets.token_hex(24)
    statement = f"ALTER ROLE CURRENT_USER PASSWORD '{password}'"
    psql = ("psql", "--username=excise", "--dbname=excise", "--command", statement)
    stack.compose("exec", "-T", "postgres", *psql)
    lines = stack.env.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("POSTGRES_PASSWORD=")]
    stack.env.write_text("\n".join([*kept, f"POSTGRES_PASSWORD={password}\n"]))
    stack.compose("up", "--detach", "--wait")
    wait_for(lambda: ask(stack, new) == 200, "an answer with the new password", stack.describe)
    assert "up to date" in stack.compose("run", "--rm", "migrate")


def ask(stack: Stack, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{stack.url}/v1/jobs", headers=headers, trust_env=False).status_code


def test_the_service_survives_a_dead_api(stack: Stack, harness: DeployedHarness) -> None:
    first, second = stack.compose("ps", "--quiet", "api").split()
    stack.engine.run("kill", first)
    for _ in range(20):
        assert harness.get("/v1/jobs").status_code == 200
    assert stack.engine.inspect(second)["State"]["Status"] == "running"  # type: ignore[index]
    stack.compose("up", "--detach", "--wait")


def test_a_lost_broker_loses_no_job(stack: Stack, harness: DeployedHarness) -> None:
    """As in docs/runbooks/lost-broker.md."""
    stack.compose("stop", "valkey")
    checks = stack.find_checks()
    assert (checks["database"]["ok"], checks["broker"]["ok"]) == (True, False)
    probe = "python -m service.probes api 8100 || true"
    said = stack.compose("exec", "-T", "api", "sh", "-c", probe)
    assert "broker: does not answer" in said
    created = harness.submit_quick()
    stack.compose("up", "--detach", "--wait", "valkey")
    wait_for(lambda: stack.find_checks().get("broker", {}).get("ok"), "the broker", stack.describe)
    assert harness.wait(created).verdict == "no_effect"


def test_a_copied_checkpoint_can_be_deleted_as_the_runbook_says(
    stack: Stack, tmp_path: Path
) -> None:
    """As in docs/runbooks/disk-full.md; the container's own root may not."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    models = "/var/lib/excise/models"
    stack.compose("cp", str(tmp_path / "mine"), f"worker:{models}/")
    [line] = [
        line.strip()
        for line in (ROOT / "docs/runbooks/disk-full.md").read_text().splitlines()
        if line.strip().startswith("docker run ")
    ]
    compose = " ".join(("docker compose", *stack.options))
    stack.engine.shell(line.replace("docker compose", compose).replace("my-model", "mine"))
    listed = stack.compose("exec", "-T", "worker", "ls", models).split()
    assert MODEL in listed
    assert "mine" not in listed


def test_a_backup_can_be_restored_as_the_runbook_says(
    stack: Stack, harness: DeployedHarness, tmp_path: Path
) -> None:
    done = harness.wait(harness.submit_quick())
    (tmp_path / "before").mkdir()
    assert done.verdict == "no_effect", stack.describe()
    before = harness.download(done, tmp_path / "before")
    sh(
        stack,
        tmp_path,
        "pg_dump --username=excise --format=custom --dbname=excise",
        "postgres",
        ">",
        "dump",
    )
    sh(stack, tmp_path, "tar -C /var/lib/excise/artifacts -cf - .", "api", ">", "artifacts.tar")
    lost = harness.wait(harness.submit_quick())
    stack.compose("stop", "api", "worker")
    for command in ("dropdb --username=excise --force excise", "createdb --username=excise excise"):
        stack.compose("exec", "-T", "postgres", *command.split())
    restore = "pg_restore --username=excise --dbname=excise --no-owner --exit-on-error"
    sh(stack, tmp_path, restore, "postgres", "<", "dump")
    stack.compose("up", "--detach", "--wait")
    assert harness.get(f"/v1/jobs/{lost.id}").status_code == 404
    (tmp_path / "after").mkdir()
    assert harness.download(harness.job(done.id), tmp_path / "after") == before


def sh(stack: Stack, folder: Path, command: str, service: str, arrow: str, file: str) -> None:
    """Run a line of the runbook: a program in a container, with input or output in a file here."""
    docker = " ".join(("docker compose", *stack.options, "exec -T", service))
    line = f"{docker} {command} {arrow} {folder / file}"
    stack.engine.shell(line)
