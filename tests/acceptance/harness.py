"""A whole Excise stack under test: its parts, its processes, and its API."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import torch
from redis import Redis

from excise.client import Client
from excise.resources.jobs import JobView
from service.database import Database
from service.embedded import EmbeddedStack
from service.keys.operations import create_tenant_key
from tests.faulty import FAULTY_NEURON, LOOP
from tests.tiny import VOCABULARY, build_tiny_model, save_tiny_checkpoint

SHORT: dict[str, Any] = {"protect": None, "gates": {"abilities": None}}
"""Makes a job several times shorter, where a test is not about its result."""

STAGES = ["prepare", "attribute", "search", "validate", "package"]
FILES = ["manifest.json", "patch.safetensors", "report.html", "report.json", "report.md"]
MODEL = "tiny"
WAIT_SECONDS = 240.0
NEW_TOKENS = 16
CONTEXT = 256
LAYERS = 4
NEURONS = 1024

_Value = TypeVar("_Value")
_POLL_SECONDS = 0.1
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "EXCISE_DEVICE": "cpu",
    # All timeouts for failed parts are shorter than in a real installation.
    "EXCISE_LEASE_SECONDS": "4",
    "EXCISE_HEARTBEAT_SECONDS": "1",
    "EXCISE_SWEEP_SECONDS": "1",
    "EXCISE_RELAY_SECONDS": "0.2",
    "EXCISE_SILENCE_SECONDS": "15",
}


class Harness:
    """A running stack, and one tenant's client for it."""

    def __init__(self, stack: EmbeddedStack, log: list[str]) -> None:
        self.stack = stack
        self.log = log
        """What the stack's supervisor reported."""
        self.database = Database(stack.database_url, pool_size=1, max_overflow=2)
        self.key = self.create_key("first")
        self.client = self.connect(self.key)
        self._http = httpx.Client(base_url=stack.url, timeout=60, trust_env=False)

    def create_key(self, tenant: str) -> str:
        """Return a new key of a tenant."""
        with self.database.transaction() as session:
            return create_tenant_key(session, tenant, "acceptance", ("submit",))

    def connect(self, key: str) -> Client:
        """Return a client that waits through the restart of any part."""
        return Client(self.stack.url, key, patience_seconds=120)

    def close(self) -> None:
        """Close every connection."""
        self.client.close()
        self._http.close()
        self.database.dispose()

    def build_spec(self, client: Client | None = None, **changes: Any) -> dict[str, Any]:
        """Return a job of a few seconds that runs every stage, after uploading its prompt sets."""
        client = client or self.client
        undesired = client.upload_prompts(build_prompts(40, 6, 1, f" w{LOOP}"), "undesired")
        reference = client.upload_prompts(build_prompts(120, 60, 2), "reference")
        return {
            "kind": "correction",
            "model": MODEL,
            "behaviours": [
                {
                    "name": "repetition",
                    "kind": "repetition",
                    "prompts": undesired.id,
                    "decoding": {"max_new_tokens": NEW_TOKENS},
                    "threshold": 0.5,
                    "min_effect": 0.1,
                }
            ],
            "reference": reference.id,
            "attribution": {"granularity": "neuron"},
            "search": {"amounts": [1, 8]},
            "budget": {"perplexity_increase": 10.0, "kl_mean": 10.0},
            **changes,
        }

    def submit(self, client: Client | None = None, **changes: Any) -> str:
        """Submit a job and return its id."""
        client = client or self.client
        return client.create_job(self.build_spec(client, **changes)).id

    def submit_quick(self) -> str:
        """Submit a job that ends after its first stage, because there is nothing to correct."""
        spec = self.build_spec()
        spec["behaviours"][0]["threshold"] = 0.01
        return self.client.create_job(spec).id

    def job(self, job_id: str) -> JobView:
        """Return the current state of the job."""
        return self.client.get_job(job_id)

    def wait(self, job_id: str, client: Client | None = None) -> JobView:
        """Return the job once it has ended."""
        client = client or self.client

        def ended() -> JobView | None:
            job = client.get_job(job_id)
            return None if job.status in {"queued", "running"} else job

        return wait_for(ended, f"the end of {job_id}", self.describe)

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Return all events of the job so far, oldest first."""
        events: list[dict[str, Any]] = []
        while True:
            after = events[-1]["id"] if events else 0
            path = f"/v1/jobs/{job_id}/events"
            page = self.get(path, {"after": after, "limit": 100}).json()
            events += page["data"]
            if not page["has_more"]:
                return events

    def get(self, path: str, params: dict[str, Any] | None = None) -> httpx.Response:
        """Return the response to a plain GET, whatever its status, once the API is up."""

        def ask() -> httpx.Response | None:
            try:
                response = self.request("GET", path, params=params)
            except httpx.TransportError:
                return None
            return None if response.status_code == 503 else response

        return wait_for(ask, f"an answer to GET {path}", self.describe)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the response to one plain request with the tenant's key, or the given headers."""
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        return self._http.request(method, path, headers=headers, **options)

    def wait_for_event(
        self, job_id: str, kind: str, matches: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        """Return the first event of this type for which `matches` holds, once there is one."""

        def find() -> dict[str, Any] | None:
            found = (event for event in self.events(job_id) if event["type"] == kind)
            return next((event for event in found if matches(event)), None)

        return wait_for(find, f"{kind} of {job_id}", self.describe)

    def wait_for_attribution(self, job_id: str) -> None:
        """Return in the middle of the job's attribution, when some but not all batches are done."""
        self.wait_for_event(
            job_id,
            "stage.progress",
            lambda event: (
                event["data"]["stage"] == "attribute"
                and 0 < event["data"]["done"] < event["data"]["total"]
            ),
        )

    def worker_pid(self) -> int:
        """Process id of the worker."""
        return wait_for(lambda: self.stack.pids.get("worker"), "a worker", self.describe)

    def job_processes(self) -> list[psutil.Process]:
        """Return the processes in which jobs run."""
        try:
            return list_job_processes(psutil.Process(self.worker_pid()))
        except psutil.NoSuchProcess:
            return []

    def job_process(self) -> psutil.Process:
        """Return the process in which the running job runs."""
        return wait_for(lambda: next(iter(self.job_processes()), None), "a job's process")

    def broker(self) -> Redis:
        """Return a connection to the broker."""
        return Redis.from_url(self.stack._environment["EXCISE_BROKER_URL"])

    def restarts(self, part: str) -> int:
        """Return how often the stack's supervisor has restarted the part."""
        return self.log.count(f"{part} started again")

    def wait_for_restart(self, part: str, before: int) -> None:
        """Return once the part has been restarted more often than `before`."""
        wait_for(lambda: self.restarts(part) > before, f"a restart of {part}", self.describe)

    def kill_part(self, part: str) -> None:
        """Kill one part of the stack with SIGKILL."""
        psutil.Process(self.stack.pids[part]).kill()

    def download(
        self, job: JobView, folder: Path, client: Client | None = None
    ) -> dict[str, bytes]:
        """Return the job's files, after checking each against the hash that the job lists."""
        (client or self.client).download_artifacts(job, folder)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def describe(self) -> str:
        """Return the stack's description of itself, for a test that has timed out."""
        parts = [f"supervisor: {self.log}", f"pids: {self.stack.pids}"]
        for log in sorted((self.stack.home / "logs").glob("*.log")):
            parts.append(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")
        return "\n".join(parts)

    def settle(self) -> None:
        """Leave no open job behind, and every part running, for the next test."""
        for job in self.client.list_jobs(limit=100).data:
            if job.status in {"queued", "running"}:
                self.client.cancel_job(job.id)
                self.wait(job.id)
        wait_for(lambda: not self.job_processes(), "idle workers", self.describe)


@contextmanager
def running_stack() -> Iterator[Harness]:
    """Yield a fresh stack with one worker and the tiny model in its model root."""
    home = Path(tempfile.mkdtemp(prefix="excise-acceptance-", dir="/tmp"))
    home.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EXCISE_")}
    log: list[str] = []
    stack = EmbeddedStack(home, report=log.append, environment=kept | _ENVIRONMENT)
    try:
        build_model(home / "models" / MODEL)
        with stack:
            harness = Harness(stack, log)
            try:
                yield harness
            finally:
                harness.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def build_model(folder: Path) -> Path:
    """Write a checkpoint with a planted fault: after the word `LOOP` it only repeats that word.

    One neuron causes this, and the model is just large enough that attribution takes a few seconds,
    in several batches.
    """
    folder.mkdir(parents=True)
    model = build_tiny_model(
        hidden_size=256,
        intermediate_size=NEURONS,
        num_hidden_layers=LAYERS,
        initializer_range=0.1,
        architectures=["LlamaForCausalLM"],
        max_position_embeddings=CONTEXT,
    )
    with torch.no_grad():
        layer, word = model.model.layers[0], model.model.embed_tokens.weight[LOOP]
        layer.self_attn.o_proj.weight *= 0.02  # the neuron is activated by the word itself
        mlp = layer.mlp
        mlp.gate_proj.weight[FAULTY_NEURON] = mlp.up_proj.weight[FAULTY_NEURON] = word / word.norm()
        mlp.down_proj.weight[:, FAULTY_NEURON] = 4 * model.lm_head.weight[LOOP]
    return save_tiny_checkpoint(folder, model)


def build_prompts(count: int, words: int, seed: int, end: str = "") -> bytes:
    """Return that many lines of random words of the tiny vocabulary."""
    draw = random.Random(seed)
    lines = [
        " ".join(f"w{draw.randrange(VOCABULARY)}" for _ in range(words)) + end for _ in range(count)
    ]
    return "\n".join(lines).encode()


def wait_for(
    condition: Callable[[], _Value | None],
    what: str,
    describe: Callable[[], str] = lambda: "",
    seconds: float = WAIT_SECONDS,
) -> _Value:
    """Return the first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}\n{describe()}"
        time.sleep(_POLL_SECONDS)
    return value


def list_job_processes(worker: psutil.Process) -> list[psutil.Process]:
    """Return the processes in which a worker's jobs and shards run.

    Raises `psutil.NoSuchProcess` if the worker has ended.
    """
    return [own for own in worker.children(recursive=True) if _is_job_process(own)]


def _is_job_process(process: psutil.Process) -> bool:
    """Return whether the process was spawned, or forked from the server that forks them all."""
    try:
        parent = process.parent()
        if "spawn_main" in " ".join(process.cmdline()):
            return True
        return parent is not None and all(
            "multiprocessing.forkserver" in " ".join(own.cmdline()) for own in (process, parent)
        )
    except psutil.Error:
        return False


def is_gone(process: psutil.Process) -> bool:
    """Return whether the process has ended."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def check_artifacts(harness: Harness, job: JobView) -> None:
    """Check that every listed file has the listed hash over each of its routes."""
    contents = {}
    for artifact in job.artifacts:
        content = harness.get(f"/v1/jobs/{job.id}/artifacts/{artifact.name}").content
        assert len(content) == artifact.bytes
        assert hashlib.sha256(content).hexdigest() == artifact.sha256
        contents[artifact.name] = content
    for form in ("json", "md", "html"):
        response = harness.get(f"/v1/jobs/{job.id}/report", {"format": form})
        assert response.content == contents[f"report.{form}"]
    assert harness.get(f"/v1/jobs/{job.id}/patch").content == contents["patch.safetensors"]


def check_equal_files(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Check that both jobs produced the same bytes, apart from the report's timings."""
    assert sorted(found) == sorted(expected) == FILES
    for name in set(FILES) - {"report.json"}:
        assert found[name] == expected[name], f"{name} differs"
    reports = [json.loads(files["report.json"]) for files in (found, expected)]
    for report in reports:
        assert sorted(report.pop("timings")) == sorted(STAGES[:-1])
    assert reports[0] == reports[1]


def list_types(events: list[dict[str, Any]]) -> list[str]:
    """Return the types of events, in order."""
    return [event["type"] for event in events]


def find_stage_events(events: list[dict[str, Any]], kind: str, stage: str) -> list[dict[str, Any]]:
    """Return the events of one type that concern one stage."""
    return [
        event for event in events if event["type"] == kind and event["data"].get("stage") == stage
    ]
