"""A typed client of the REST API that rides out restarts of the service.

ClientError
├── ApiError             the service refused: code, message, param, status
├── ConnectionLostError  the service does not answer
└── DownloadError        what arrived is not what the job lists
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from httpx_sse import ServerSentEvent, SSEError, connect_sse
from pydantic import BaseModel, ValidationError

from excise.errors import UserError
from excise.outgoing.proxies import goes_past_proxies
from excise.resources.jobs import ArtifactView, EventView, JobList, JobView
from excise.resources.prompt_sets import PromptSetList, PromptSetView

ReportFormat = Literal["json", "md", "html"]
_Model = TypeVar("_Model", bound=BaseModel)

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_STREAM_TIMEOUT = httpx.Timeout(45.0, connect=5.0)  # the service sends a comment every 15 s
_RETRIED_STATUSES = frozenset({502, 503, 504})
_FIRST_PAUSE_SECONDS = 0.3
_MAX_PAUSE_SECONDS = 5.0
_MAX_MESSAGE_CHARACTERS = 500
_PRINTABLE = re.compile(r"[!-~]+")
_UNSAFE_NAME = re.compile(r"[^A-Za-z0-9 ._-]+")


class ClientError(UserError):
    """Anything that keeps the client from getting its answer."""


class ApiError(ClientError):
    """The service answered with an error."""

    def __init__(self, code: str, message: str, param: str | None, status: int) -> None:
        super().__init__(message, param=param)
        self.code = code
        self.status = status


class ConnectionLostError(ClientError):
    """The service does not answer, or not any more."""


class DownloadError(ClientError):
    """A file did not arrive as the job lists it; nothing was written."""


class ExciseClient:
    """The REST API, one method a call.

    Every request may be sent again, so a connection that breaks or a service that restarts is
    waited for, `patience_seconds` at most.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        patience_seconds: float = 5.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.patience_seconds = patience_seconds
        headers = {"User-Agent": "excise-client"}
        if api_key:
            if not _PRINTABLE.fullmatch(api_key):  # a library's message would show it
                raise ClientError("The API key has characters no key has. Copy it again.")
            headers["Authorization"] = f"Bearer {api_key}"
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=_TIMEOUT,
                transport=transport or _choose_transport(self.url),
            )
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ClientError(f"The service's URL is malformed: {error}.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def upload_prompt_set(
        self, path: Path, name: str | None = None, *, is_rows: bool = False
    ) -> PromptSetView:
        """The set with the file's prompts or rows; the same file again gives the same set."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ClientError(f"{path} cannot be read: {error.strerror}.") from None
        is_json = is_rows or path.suffix in {".jsonl", ".ndjson"}
        kind = "application/jsonl" if is_json else "text/plain"
        return self.upload_prompts(content, name or build_set_name(path), kind, is_rows=is_rows)

    def upload_prompts(
        self,
        content: bytes,
        name: str,
        content_type: str = "text/plain",
        *,
        is_rows: bool = False,
    ) -> PromptSetView:
        """The prompt set with this content."""
        response = self.send(
            "POST",
            "/v1/prompt-sets",
            params={"name": name} | ({"format": "rows"} if is_rows else {}),
            content=content,
            headers={"Content-Type": content_type},
        )
        return parse_answer(PromptSetView, response)

    def iter_prompt_sets(self) -> Iterator[PromptSetView]:
        """Every prompt set the key may use, newest first."""
        params: dict[str, str | int] = {"limit": 100}
        while True:
            page = parse_answer(PromptSetList, self.send("GET", "/v1/prompt-sets", params=params))
            yield from page.data
            if not page.has_more or not page.data:
                return
            params["after"] = page.data[-1].id

    def create_job(self, spec: dict[str, Any], *, idempotency_key: str | None = None) -> JobView:
        """The job made from `spec`; exactly one, however often the request had to be sent."""
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        return parse_answer(JobView, self.send("POST", "/v1/jobs", json=spec, headers=headers))

    def get_job(self, job_id: str) -> JobView:
        """The job as it is now."""
        return parse_answer(JobView, self.send("GET", _job_path(job_id)))

    def list_jobs(self, *, after: str | None = None, limit: int = 20) -> JobList:
        """One page of jobs, newest first."""
        params: dict[str, str | int] = {"limit": limit}
        if after is not None:
            params["after"] = after
        return parse_answer(JobList, self.send("GET", "/v1/jobs", params=params))

    def cancel_job(self, job_id: str) -> JobView:
        """The job, cancelled or about to be; cancelling it twice is no error."""
        try:
            return parse_answer(JobView, self.send("POST", f"{_job_path(job_id)}/cancel"))
        except ApiError as error:
            if error.code == "conflict" and (job := self.get_job(job_id)).status == "cancelled":
                return job
            raise

    def iter_events(self, job_id: str, *, after: int = 0) -> Iterator[EventView]:
        """Every event after `after` as it happens, each once, until the job has ended."""
        patience = _Patience(self.patience_seconds)
        while True:
            try:
                for message in self._stream(job_id, after):
                    patience = _Patience(self.patience_seconds)
                    if message.event == "done":
                        return
                    event = _parse_event(message)
                    if event is not None and event.id > after:
                        after = event.id
                        yield event
                problem = "the stream ended early"
            except (httpx.TransportError, SSEError) as error:
                problem = _describe(error)
            except ApiError as error:
                if error.status not in _RETRIED_STATUSES:
                    raise
                problem = error.message
            if not patience.pause():
                raise self._lost(problem)

    def fetch_report(self, job_id: str, report_format: ReportFormat = "json") -> bytes:
        """The job's report."""
        params = {"format": report_format}
        return self.send("GET", f"{_job_path(job_id)}/report", params=params).content

    def fetch_artifact(self, job_id: str, name: str) -> bytes:
        """The content of one of the job's files."""
        return self.send("GET", f"{_job_path(job_id)}/artifacts/{quote(name, safe='')}").content

    def download_artifact(self, job_id: str, artifact: ArtifactView, folder: Path) -> Path:
        """The artifact's file in `folder`: whole and with the listed hash, or not there at all."""
        name = artifact.name
        if name in {"", ".", ".."} or "/" in name or "\\" in name or "\0" in name:
            raise DownloadError(f"The job lists {name!r}, which is no file name.")
        path = folder / name
        partial = folder / f".{name}.{secrets.token_hex(4)}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._download(f"{_job_path(job_id)}/artifacts/{quote(name, safe='')}", partial)
            _check_hash(partial, artifact)
            partial.replace(path)
        except OSError as error:
            raise DownloadError(f"{path} cannot be written: {error.strerror}.") from None
        finally:
            partial.unlink(missing_ok=True)
        return path

    def download_artifacts(self, job: JobView, folder: Path) -> list[Path]:
        """Every file the job lists."""
        return [self.download_artifact(job.id, artifact, folder) for artifact in job.artifacts]

    def send(
        self, method: str, path: str, *, is_repeatable: bool = True, **options: Any
    ) -> httpx.Response:
        """The successful answer. Raises `ApiError` and `ConnectionLostError`.

        A request that would do something else the second time is sent once.
        """
        patience = _Patience(self.patience_seconds)
        while True:
            wait = 0.0
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if isinstance(error, httpx.UnsupportedProtocol):
                    raise ClientError(
                        f"{self.url} is no http:// or https:// URL. Set EXCISE_URL or --url."
                    ) from None
                problem: ClientError = self._lost(_describe(error))
            else:
                if response.is_success:
                    return response
                problem = build_api_error(response)
                if response.status_code not in _RETRIED_STATUSES:
                    raise problem
                wait = _read_retry_after(response)
            if not is_repeatable or not patience.pause(wait):
                raise problem

    def _stream(self, job_id: str, after: int) -> Iterator[ServerSentEvent]:
        """One connection to the event stream, from the event after `after`."""
        headers = {"Last-Event-ID": str(after)}
        path = f"{_job_path(job_id)}/events"
        with connect_sse(
            self._http, "GET", path, headers=headers, timeout=_STREAM_TIMEOUT
        ) as source:
            if not source.response.is_success:
                source.response.read()
                raise build_api_error(source.response)
            yield from source.iter_sse()

    def _download(self, path: str, target: Path) -> None:
        """Write the answer to `target`, starting over when the connection breaks."""
        patience = _Patience(self.patience_seconds)
        while True:
            try:
                with self._http.stream("GET", path) as response:
                    if response.is_success:
                        _write_body(response, target)
                        return
                    response.read()
                    problem: ClientError = build_api_error(response)
                    if response.status_code not in _RETRIED_STATUSES:
                        raise problem
            except httpx.TransportError as error:
                problem = self._lost(_describe(error))
            if not patience.pause():
                raise problem

    def _lost(self, problem: str) -> ConnectionLostError:
        return ConnectionLostError(
            f"No answer from {self.url}: {problem}. Is the service running (excise up)? "
            "Its address is taken from --url or EXCISE_URL."
        )


class _Patience:
    """Growing pauses between attempts, until the time is used up."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE_SECONDS

    def pause(self, at_least_seconds: float = 0.0) -> bool:
        """Wait before the next attempt; False if there is no time left for one."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            return False
        jittered = self._pause * random.uniform(0.7, 1.3)  # noqa: S311 - no secret
        time.sleep(min(max(jittered, at_least_seconds), left))
        self._pause = min(self._pause * 2, _MAX_PAUSE_SECONDS)
        return True


def _choose_transport(url: str) -> httpx.BaseTransport | None:
    """One that knows no proxy, where none may see the key; None for httpx's own choice."""
    return httpx.HTTPTransport() if goes_past_proxies(url) else None


def build_set_name(path: Path) -> str:
    """A name the service takes, from a file's name."""
    return _UNSAFE_NAME.sub("-", path.stem).strip(" ._-")[:64] or "prompts"


def build_api_error(response: httpx.Response) -> ApiError:
    """The error in a problem+json answer; other answers are described by their status."""
    try:
        body = response.json()
        error = body["error"]
        code, message, param = str(error["code"]), str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        code, param = "unknown", None
        text = " ".join(response.text.split())[:_MAX_MESSAGE_CHARACTERS]
        reason = response.reason_phrase or "no reason given"
        message = f"The service answered {response.status_code} ({reason}){': ' * bool(text)}{text}"
    return ApiError(code, message, str(param) if param else None, response.status_code)


def parse_answer(model: type[_Model], response: httpx.Response) -> _Model:
    """The answer's body. Raises `ClientError` if it is something else."""
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise ClientError(
            f"{response.request.url.copy_with(query=None)} answered with something that is no "
            f"{model.__name__.removesuffix('View')}. Is this the Excise service, in this version?"
        ) from None


def _parse_event(message: ServerSentEvent) -> EventView | None:
    """The event in a message; None for messages of a kind this version does not know."""
    try:
        return EventView.model_validate_json(message.data)
    except ValidationError:
        return None


def _job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _read_retry_after(response: httpx.Response) -> float:
    """The seconds the service asks to wait for; not more than one would."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), 10.0) if value.isdecimal() else 0.0


def _write_body(response: httpx.Response, target: Path) -> None:
    """Write a streamed body to a file, down to the disk."""
    with target.open("wb") as file:
        for chunk in response.iter_bytes():
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _check_hash(path: Path, artifact: ArtifactView) -> None:
    """Raise `DownloadError` unless the file is the one the job lists."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != artifact.sha256:
        raise DownloadError(
            f"{artifact.name} has the SHA-256 {found}, but the job lists {artifact.sha256}. "
            "It was not kept. Try again."
        )


def _describe(error: Exception) -> str:
    """What went wrong on the wire, in a few words."""
    if isinstance(error, httpx.TimeoutException):
        return "timed out"
    return str(error) or type(error).__name__
