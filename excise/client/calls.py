"""Requests to the REST API about prompt sets and jobs, and how their answers are read.

Nothing here sends anything: both clients send what these functions describe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from excise.client.errors import ApiError, ClientError
from excise.estimates.machine import Machine
from excise.intake.local_files import MAX_TEXT_BYTES, read_file
from excise.intake.prompt_sets import find_format
from excise.names import PromptSetFormat, ReportFormat
from excise.resources.audit import AuditList
from excise.resources.estimates import EstimateView
from excise.resources.jobs import JobList, JobView
from excise.resources.prompt_sets import PromptSetList, PromptSetView

_PAGE = 100
_AUDIT_PAGE = 1000
_UNSAFE_NAME = re.compile(r"[^A-Za-z0-9 ._-]+")

_Answer = TypeVar("_Answer")
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Call(Generic[_Answer]):
    """One request, and how its answer is read."""

    method: str
    path: str
    parse: Callable[[httpx.Response], _Answer]
    """Reads a successful answer. Raises `ClientError`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments for httpx: `params`, `json`, `content`, `headers`."""
    is_repeatable: bool = True
    """Whether sending it twice has the same effect as sending it once."""


def parse_answer(model: type[_Model], response: httpx.Response) -> _Model:
    """Return the answer's body. Raises `ClientError` if it does not fit `model`."""
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise ClientError(
            f"{response.request.url.copy_with(query=None)} answered with something that is "
            f"not a valid {model.__name__.removesuffix('View')}. Is this the Excise service, "
            "in this version?"
        ) from None


def get(model: type[_Model], path: str, **params: str | int) -> Call[_Model]:
    """Return a GET request."""
    return Call("GET", path, partial(parse_answer, model), {"params": params} if params else {})


def post(
    model: type[_Model], path: str, body: Mapping[str, Any] | None = None, **changes: Any
) -> Call[_Model]:
    """Return a POST request with `body` as JSON."""
    options = {} if body is None else {"json": body}
    return Call("POST", path, partial(parse_answer, model), options, **changes)


def post_once(
    model: type[_Model], path: str, body: Mapping[str, Any], key: str | None
) -> Call[_Model]:
    """Return a POST request that takes effect only once, even if sent repeatedly.

    The service recognises repeats by the idempotency key.
    """
    options = {"json": body, "headers": {"Idempotency-Key": key or uuid4().hex}}
    return Call("POST", path, partial(parse_answer, model), options)


def page(model: type[_Model], path: str, after: str | None, limit: int) -> Call[_Model]:
    """Return a request for one page of a list."""
    return get(model, path, limit=limit, **({} if after is None else {"after": after}))


def list_audit(after: int, action: str | None) -> Call[AuditList]:
    """Get one page of the audit log, oldest first."""
    chosen = {} if action is None else {"action": action}
    return get(AuditList, "/v1/audit", after=after, limit=_AUDIT_PAGE, **chosen)


def build_set_name(path: Path) -> str:
    """Return a name that the service accepts, made from a file's name."""
    return _UNSAFE_NAME.sub("-", path.stem).strip(" ._-")[:64] or "prompts"


def read_prompt_file(path: Path) -> bytes:
    """Return a file's content. Raises `ClientError`."""
    try:
        return read_file(path, MAX_TEXT_BYTES)
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}.") from None


def upload_prompt_set(
    path: Path, content: bytes, name: str | None, *, is_rows: bool
) -> Call[PromptSetView]:
    """Upload the prompts or rows of a file; the file's name tells their format."""
    is_json = is_rows or find_format(path) is PromptSetFormat.JSONL
    kind = "application/jsonl" if is_json else "text/plain"
    return upload_prompts(content, name or build_set_name(path), kind, is_rows=is_rows)


def upload_prompts(
    content: bytes, name: str, content_type: str, *, is_rows: bool
) -> Call[PromptSetView]:
    """Upload a prompt set with this content."""
    options = {
        "params": {"name": name} | ({"format": "rows"} if is_rows else {}),
        "content": content,
        "headers": {"Content-Type": content_type},
    }
    return Call("POST", "/v1/prompt-sets", partial(parse_answer, PromptSetView), options)


def list_prompt_sets(after: str | None) -> Call[PromptSetList]:
    """Get one page of prompt sets, newest first."""
    return page(PromptSetList, "/v1/prompt-sets", after, _PAGE)


def find_next_page(found: PromptSetList) -> str | None:
    """Return the id after which the next page begins; None on the last page."""
    return found.data[-1].id if found.has_more and found.data else None


def create_job(spec: Mapping[str, Any] | BaseModel, key: str | None) -> Call[JobView]:
    """Create a job from `spec`."""
    body = spec.model_dump(mode="json") if isinstance(spec, BaseModel) else spec
    return post_once(JobView, "/v1/jobs", body, key)


def estimate_job(
    spec: Mapping[str, Any] | BaseModel, machine: Machine | None
) -> Call[EstimateView]:
    """Estimate what a job made from `spec` would need."""
    asked = spec.model_dump(mode="json") if isinstance(spec, BaseModel) else spec
    body: dict[str, Any] = {"spec": asked}
    if machine is not None:
        body["machine"] = machine.model_dump(mode="json")
    return post(EstimateView, "/v1/estimates", body)


def get_job(job_id: str) -> Call[JobView]:
    """Get the current state of a job."""
    return get(JobView, build_job_path(job_id))


def list_jobs(after: str | None, limit: int) -> Call[JobList]:
    """Get one page of jobs, newest first."""
    return page(JobList, "/v1/jobs", after, limit)


def cancel_job(job_id: str) -> Call[JobView]:
    """Ask a job to stop."""
    return post(JobView, f"{build_job_path(job_id)}/cancel")


def delete(path: str) -> Call[None]:
    """Return a DELETE request; repeating it finds nothing to delete."""
    return Call("DELETE", path, _read_nothing, is_repeatable=False)


def delete_prompt_set(prompt_set_id: str) -> Call[None]:
    """Delete a prompt set."""
    return delete(f"/v1/prompt-sets/{quote(prompt_set_id, safe='')}")


def delete_job(job_id: str) -> Call[None]:
    """Delete a job with its files."""
    return delete(build_job_path(job_id))


def delete_artifacts(job_id: str) -> Call[None]:
    """Delete a job's files."""
    return delete(f"{build_job_path(job_id)}/artifacts")


def is_conflict(error: ApiError) -> bool:
    """Return whether the service refused because of a state, such as a job that has ended."""
    return error.code == "conflict"


def fetch_report(job_id: str, report_format: ReportFormat | str) -> Call[bytes]:
    """Get a job's report."""
    params = {"format": ReportFormat(report_format).value}
    return Call("GET", f"{build_job_path(job_id)}/report", _read_content, {"params": params})


def fetch_artifact(job_id: str, name: str) -> Call[bytes]:
    """Get the content of one of a job's files."""
    return Call("GET", build_artifact_path(job_id, name), _read_content)


def build_job_path(job_id: str) -> str:
    """Return a job's path; the id is quoted, so that it stays one segment."""
    return f"/v1/jobs/{quote(job_id, safe='')}"


def build_artifact_path(job_id: str, name: str) -> str:
    """Return the path of one of a job's files."""
    return f"{build_job_path(job_id)}/artifacts/{quote(name, safe='')}"


def _read_nothing(_: httpx.Response) -> None:
    return None


def _read_content(response: httpx.Response) -> bytes:
    return response.content
