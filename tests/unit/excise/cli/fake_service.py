"""A small service that speaks the REST contract from a script, on a real port."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from excise.estimates.estimate import JobEstimate
from excise.names import JobKind
from excise.specs import SPECS

RUN: dict[str, Any] = {
    "timings": {"prepare": 1.5},
    "dtype": "float32",
    "seed": 0,
    "versions": {"excise": "0.1.0"},
    "model": {"id": "tiny", "sha256": "0" * 64},
}
"""What the report of every job says about its run."""


def build_effect(before: float, after: float) -> dict[str, Any]:
    """A figure on held-out prompts."""
    return {"n": 20, "before": before, "after": after, "ci_low": -0.4, "ci_high": 0.6}


def build_measure(name: str, before: float, after: float) -> dict[str, Any]:
    """A figure of a behaviour, with its control and the behaviour corrected alone."""
    return {
        "name": name,
        "tune": {"n": 20, "before": before, "after": after},
        "held_out": build_effect(before, after),
        "random_control": {**build_effect(before, before + 0.013), "draws": 3},
        "effect": {"n": 20, "value": after - before - 0.013, "ci_low": -0.4, "ci_high": 0.6},
        "alone": build_effect(before, after + 0.007),
    }


def build_behaviour(name: str, kind: str, headline: str, *evaluators: str) -> dict[str, Any]:
    """A behaviour with every figure by each evaluator."""
    return {
        "name": name,
        "kind": kind,
        "headline": headline,
        "threshold": 0.5,
        "agreeing": 1,
        "decoding": "greedy, up to 50 tokens",
        "prompts": 60,
        "triggering": 40,
        "evaluators": [
            {
                "evaluator": evaluator,
                "direction": "lower_is_better",
                "measures": [
                    build_measure("share", 0.3, 0.1),
                    build_measure("mean_score", 0.777, 0.888),
                ],
            }
            for evaluator in evaluators
        ],
    }


def build_sample(behaviour: str, index: int) -> dict[str, Any]:
    """A response before and after; the first two are of the tuning split."""
    return {
        "behaviour": behaviour,
        "prompt": f"{behaviour} prompt {index}",
        "split": "tune" if index < 2 else "held_out",
        "before": "la la [bold]la[/bold] " * 30,
        "after": "words \x07and more",
        "scores_before": {"rur": 0.1},
        "scores_after": {"rur": 0.9},
        "undesired_before": True,
        "undesired_after": False,
    }


MEASURED = {"value": 0.01, "passed": True}
UNMEASURED = {"value": None, "passed": False, "unmeasured": "no\x1b text"}


def build_report(verdict: str) -> dict[str, Any]:
    """A report as the workers write it."""
    return {
        **RUN,
        "schema_version": 3,
        "verdict": verdict,
        "reason": f"because it is {verdict}\x1b[31m",
        "behaviours": [
            build_behaviour("toxicity", "toxicity", "share", "detoxify/small", "profanity"),
            build_behaviour("loops", "repetition", "mean_score", "rur"),
        ],
        "damage": {
            "perplexity": {
                "corpus": "wiki[text]",
                "context": 512,
                "tokens": 9,
                "before": 20.0,
                "after": 20.2,
            },
            "kl": {"mean": 0.01, "p95": 0.1, "tokens": 9},
        },
        "patch": {
            "granularity": "neuron",
            "components": 12,
            "of": 46080,
            "modules": {},
            "counts": {},
        },
        "search": [],
        "attribution": {"attributor": "attnlrp"},
        "gates": [
            {"name": "effect", "sentence": "it helps", "limit": 0.1, "value": 0.5, "passed": True},
            {
                "name": "kl",
                "sentence": "it is close",
                "limit": 0.1,
                **(MEASURED if verdict == "passed" else UNMEASURED),
            },
        ],
        "samples": [
            build_sample(name, index) for name in ("toxicity", "loops") for index in range(6)
        ],
    }


ESTIMATE: dict[str, Any] = JobEstimate.model_json_schema()["examples"][0]


class FakeService:
    """The service's state, and what it is to do wrong."""

    def __init__(self) -> None:
        self.verdict = "passed"
        self.reported: str | None = None
        """The verdict of the report, where it is another than the job's."""
        self.final_status: str | None = None
        self.events_total = 6
        self.drop_stream_after = 0
        self.unavailable = 0
        self.corrupt: str | None = None
        self.endless = False
        self.jobs: dict[str, dict[str, Any]] = {}
        self.specs: list[dict[str, Any]] = []
        self.estimated: list[dict[str, Any]] = []
        self.fits = True
        self.lacking = ""
        """Field that names no prompt set; empty where all name one."""
        self.idempotency_keys: list[str] = []
        self.resumed_from: list[str | None] = []
        self.uploads: list[tuple[str, str, bytes]] = []
        self.sets: list[dict[str, Any]] = []
        self.manifest: dict[str, Any] = {}
        self.cancelled: list[str] = []
        self.deleted: list[str] = []
        self.changes: list[str] = []
        self.files: dict[str, bytes] = {}
        self._polls = 0

    def build_app(self) -> FastAPI:
        """The routes of docs/guides/api.md that the client uses."""
        app = FastAPI()
        app.middleware("http")(self._gate)
        app.post("/v1/prompt-sets")(self.upload)
        app.get("/v1/prompt-sets")(self.list_sets)
        app.get("/v1/audit")(self.list_audit)
        app.post("/v1/jobs")(self.create)
        app.get("/v1/jobs")(self.list)
        app.post("/v1/estimates")(self.estimate)
        app.get("/v1/jobs/{job_id}")(self.get)
        app.post("/v1/jobs/{job_id}/cancel")(self.cancel)
        for path in ("jobs/{name}", "jobs/{name}/artifacts", "prompt-sets/{name}"):
            app.delete(f"/v1/{path}", status_code=204)(self.delete)
        app.get("/v1/jobs/{job_id}/events")(self.events)
        app.get("/v1/jobs/{job_id}/report")(self.report)
        app.get("/v1/jobs/{job_id}/artifacts/{name}")(self.artifact)
        return app

    async def _gate(self, request: Request, call_next: Any) -> Any:
        if self.unavailable:
            self.unavailable -= 1
            return problem(503, "unavailable", "The database does not answer.")
        if request.headers.get("authorization") != "Bearer exc_test":
            return problem(401, "unauthorized", "The API key is unknown.")
        return await call_next(request)

    async def upload(self, request: Request, name: str, format: str | None = None) -> Any:  # noqa: A002
        content = await request.body()
        kind = request.headers["content-type"]
        self.uploads.append((name, kind, content))
        return self.hold(name, format or ("text" if kind == "text/plain" else "jsonl"), content)

    def hold(self, name: str, kind: str, content: bytes) -> dict[str, Any]:
        """Keep a prompt set, as if it had been uploaded."""
        held = {
            "id": f"ps_{len(self.sets) + 1}",
            "object": "prompt_set",
            "name": name,
            "format": kind,
            "sha256": hashlib.sha256(content).hexdigest(),
            "prompts": 1,
            "bytes": len(content),
            "created_at": now(),
        }
        self.sets.append(held)
        return held

    async def list_sets(self, limit: int, after: str | None = None) -> Any:
        """Pages of two, whatever the limit."""
        newest = self.sets[::-1]
        start = 1 + [held["id"] for held in newest].index(after) if after else 0
        page = newest[start : start + min(limit, 2)]
        has_more = start + len(page) < len(newest)
        return {"object": "list", "data": page, "has_more": has_more}

    async def list_audit(self, limit: int, after: int, action: str | None = None) -> Any:
        """Pages of two, whatever the limit."""
        entries = [
            {
                "id": number,
                "object": "audit_entry",
                "at": now(),
                "tenant_id": "ten_1",
                "actor": "key_1",
                "source": "10.0.0.1",
                "request_id": None,
                "trace_id": None,
                "action": kind,
                "target": f"job_{number}",
                "data": {},
            }
            for number, kind in enumerate(self.changes, start=1)
            if number > after and action in (None, kind)
        ]
        page = entries[: min(limit, 2)]
        return {"object": "list", "data": page, "has_more": len(page) < len(entries)}

    async def create(self, request: Request) -> Any:
        spec = await request.json()
        if spec.get("kind") != "correction":
            return problem(422, "invalid_request", "kind is unknown.", "kind")
        if self.lacking:
            message = f"{self.lacking} names no prompt set. Upload one with POST /v1/prompt-sets."
            return problem(422, "invalid_request", message, self.lacking)
        key = request.headers["idempotency-key"]
        if key not in self.idempotency_keys:
            self.idempotency_keys.append(key)
            self.specs.append(spec)
            job_id = f"job_{len(self.specs)}"
            self.jobs[job_id] = self._build_job(job_id, spec)
        return list(self.jobs.values())[self.idempotency_keys.index(key)]

    async def estimate(self, request: Request) -> Any:
        self.estimated.append(await request.json())
        shown = {**ESTIMATE, "fits": self.fits}
        view = {"object": "estimate", "model": "m", "fits": self.fits, "note": None}
        return view | {"data": [shown]}

    async def list(self) -> Any:
        data = [
            job | {"object": "job.summary", "error_code": None}
            for job in reversed(self.jobs.values())
        ]
        return {"object": "list", "data": data, "has_more": False}

    async def delete(self, request: Request, name: str) -> None:
        self.deleted.append(request.url.path.removeprefix("/v1/"))

    async def get(self, job_id: str) -> Any:
        if job_id not in self.jobs:
            return problem(404, "not_found", "There is no such job.")
        self._polls += 1
        self._advance(self.jobs[job_id])
        return self.jobs[job_id]

    async def cancel(self, job_id: str) -> Any:
        self.cancelled.append(job_id)
        self.jobs[job_id].update(status="cancelled", cancel_requested=True)
        return self.jobs[job_id]

    async def events(self, request: Request, job_id: str) -> Any:
        last = request.headers.get("last-event-id")
        self.resumed_from.append(last)
        return StreamingResponse(self._stream(int(last or 0)), media_type="text/event-stream")

    async def report(self, job_id: str, format: str = "json") -> Any:  # noqa: A002
        name = f"report.{format}"
        if name not in self.files or not self.jobs[job_id]["verdict"]:
            return problem(409, "not_ready", "There is no report yet.")
        return Response(self.files[name])

    async def artifact(self, job_id: str, name: str) -> Any:
        content = self.files[name]
        return Response(content + b"!" if name == self.corrupt else content)

    def _stream(self, after: int) -> Iterator[str]:
        for number in range(after + 1, self.events_total + 1):
            event = {
                "id": number,
                "object": "job.event",
                "type": "stage.started",
                "level": "info",
                "message": f"event {number}",
                "data": {},
                "created_at": now(),
            }
            yield f": ping\nid: {number}\nevent: stage.started\ndata: {json.dumps(event)}\n\n"
            if self.drop_stream_after and number - after >= self.drop_stream_after:
                return
        if not self.endless:
            yield "event: done\ndata: {}\n\n"

    def _build_job(self, job_id: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": job_id,
            "object": "job",
            "kind": "correction",
            "status": "queued",
            "verdict": None,
            "model": spec["model"],
            "spec": spec,
            "metadata": {},
            "created_at": now(),
            "started_at": None,
            "finished_at": None,
            "estimated_finish": None,
            "estimate": ESTIMATE,
            "attempts": 0,
            "cancel_requested": False,
            "stage": None,
            "stages": [
                self._build_stage(name, "pending") for name in SPECS[JobKind.CORRECTION].stages
            ],
            "error": None,
            "artifacts": [],
        }

    def _build_stage(self, name: str, status: str) -> dict[str, Any]:
        return {
            "name": name,
            "status": status,
            "done": 3,
            "total": 10,
            "message": "busy [x]",
            "seconds": 1.5 if status == "succeeded" else None,
        }

    def _advance(self, job: dict[str, Any]) -> None:
        if job["status"] == "queued":
            job["status"] = "running"
            job["stages"][0] = self._build_stage("prepare", "running")
            job["estimated_finish"] = (datetime.now(UTC) + timedelta(seconds=90)).isoformat()
        elif job["status"] == "running" and not self.endless:
            self._finish(job)

    def _finish(self, job: dict[str, Any]) -> None:
        if self.final_status in {"failed", "cancelled"}:
            error = {"code": "poison_job", "message": "it broke", "param": None}
            job.update(status=self.final_status, error=error)
            return
        status = "succeeded" if self.verdict == "passed" else "rejected"
        job.update(status=status, verdict=self.verdict)
        job["stages"] = [
            self._build_stage(name, "succeeded") for name in SPECS[JobKind.CORRECTION].stages
        ]
        self.files = {
            "report.json": json.dumps(build_report(self.reported or self.verdict)).encode(),
            "report.md": b"# report\n",
            "report.html": b"<p>report</p>",
            "manifest.json": json.dumps(self.manifest).encode(),
        }
        if self.verdict == "passed":
            self.files["patch.safetensors"] = b"\x00\x01"
        job["artifacts"] = [
            {
                "name": name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "media_type": "application/octet-stream",
            }
            for name, content in self.files.items()
        ]


def problem(status: int, code: str, message: str, param: str | None = None) -> JSONResponse:
    """An RFC 9457 answer."""
    error = {"code": code, "message": message, "param": param}
    body = {"type": "about:blank", "title": code, "status": status, "detail": message}
    return JSONResponse({**body, "error": error}, status, media_type="application/problem+json")


def now() -> str:
    return datetime.now(UTC).isoformat()


@contextmanager
def serve(service: FakeService, port: int = 0) -> Iterator[str]:
    """The URL at which the fake answers during the block."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(
        service.build_app(), log_level="error", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
