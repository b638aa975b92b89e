"""The client for synchronous programs: one method per call, which waits for the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from httpx_sse import SSEError, connect_sse
from pydantic import BaseModel

from excise.client import calls, serving_calls, webhook_calls
from excise.client.calls import Call
from excise.client.connection import STREAM_TIMEOUT, build_settings, describe_bad_url
from excise.client.downloads import check_hash, placing, settle
from excise.client.errors import ApiError, check_open
from excise.client.events import EventCursor, is_last
from excise.client.retrying import Retries, describe_loss, find_failure, find_stream_failure
from excise.estimates.machine import Machine
from excise.names import JobStatus, ReportFormat
from excise.outgoing.proxies import goes_past_proxies
from excise.resources.audit import AuditEntryView
from excise.resources.estimates import EstimateView
from excise.resources.jobs import ArtifactView, EventView, JobList, JobView
from excise.resources.prompt_sets import PromptSetView
from excise.resources.serving import (
    AliasList,
    AliasView,
    PoolList,
    ServingEventList,
    VersionList,
    VersionView,
)
from excise.resources.webhooks import (
    DeliveryList,
    DeliveryView,
    NewWebhookView,
    WebhookList,
    WebhookView,
)

_Answer = TypeVar("_Answer")


class Client:
    """Client of the REST API, with one method per call.

    Requests are safe to repeat, so after a broken connection or a restart of the service they are
    sent again, for at most `patience_seconds`. Every method raises `ApiError` if the service
    refuses, and `ConnectionLostError` if it does not answer.
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
        if transport is None and goes_past_proxies(self.url):  # no proxy may see the key
            transport = httpx.HTTPTransport()
        try:
            self._http = httpx.Client(**build_settings(self.url, api_key), transport=transport)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise describe_bad_url(error) from None

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
        """Upload a file of prompts or rows; uploading the same file again returns the same set."""
        content = calls.read_prompt_file(path)
        return self._send(calls.upload_prompt_set(path, content, name, is_rows=is_rows))

    def upload_prompts(
        self, content: bytes, name: str, content_type: str = "text/plain", *, is_rows: bool = False
    ) -> PromptSetView:
        """Upload a prompt set with this content."""
        return self._send(calls.upload_prompts(content, name, content_type, is_rows=is_rows))

    def iter_prompt_sets(self) -> Iterator[PromptSetView]:
        """Yield every prompt set that the key may use, newest first."""
        found = self._send(calls.list_prompt_sets(None))
        yield from found.data
        while (after := calls.find_next_page(found)) is not None:
            found = self._send(calls.list_prompt_sets(after))
            yield from found.data

    def delete_prompt_set(self, prompt_set_id: str) -> None:
        """Delete a prompt set that no open job needs."""
        self._send(calls.delete_prompt_set(prompt_set_id))

    def create_job(
        self, spec: Mapping[str, Any] | BaseModel, *, idempotency_key: str | None = None
    ) -> JobView:
        """Create a job from `spec`; exactly one, even if the request had to be repeated."""
        return self._send(calls.create_job(spec, idempotency_key))

    def estimate_job(
        self, spec: Mapping[str, Any] | BaseModel, *, machine: Machine | None = None
    ) -> EstimateView:
        """Return what the job would need, on the live workers or on `machine`."""
        return self._send(calls.estimate_job(spec, machine))

    def get_job(self, job_id: str) -> JobView:
        """Return the current state of a job."""
        return self._send(calls.get_job(job_id))

    def list_jobs(self, *, after: str | None = None, limit: int = 20) -> JobList:
        """Return one page of jobs, newest first."""
        return self._send(calls.list_jobs(after, limit))

    def cancel_job(self, job_id: str) -> JobView:
        """Cancel a job, at once or at its next step; cancelling it twice is not an error."""
        try:
            return self._send(calls.cancel_job(job_id))
        except ApiError as error:
            if not calls.is_conflict(error):
                raise
            job = self.get_job(job_id)
            if job.status is not JobStatus.CANCELLED:
                raise
            return job

    def delete_job(self, job_id: str) -> None:
        """Delete a job that has ended and was never published, with its files."""
        self._send(calls.delete_job(job_id))

    def delete_artifacts(self, job_id: str) -> None:
        """Delete the files of a job that has ended; what was published from it stays."""
        self._send(calls.delete_artifacts(job_id))

    def iter_events(self, job_id: str, *, after: int = 0) -> Iterator[EventView]:
        """Yield each event after `after` as it happens, once, until the job has ended."""
        cursor = EventCursor(job_id, after)
        retries = Retries(self.patience_seconds)
        while True:
            check_open(self._http)
            try:
                with connect_sse(
                    self._http, "GET", cursor.path, headers=cursor.headers, timeout=STREAM_TIMEOUT
                ) as source:
                    if source.response.is_success:
                        for message in source.iter_sse():
                            retries = Retries(self.patience_seconds)
                            if is_last(message):
                                return
                            if (event := cursor.read(message)) is not None:
                                yield event
                    else:
                        source.response.read()
                    failure = find_stream_failure(self.url, source.response)
            except (httpx.TransportError, SSEError) as error:
                failure = describe_loss(self.url, error)
            time.sleep(retries.find_pause(failure))

    def fetch_report(
        self, job_id: str, report_format: ReportFormat | str = ReportFormat.JSON
    ) -> bytes:
        """Return the job's report; `excise.read_report` parses it."""
        return self._send(calls.fetch_report(job_id, report_format))

    def fetch_artifact(self, job_id: str, name: str) -> bytes:
        """Return the content of one of the job's files."""
        return self._send(calls.fetch_artifact(job_id, name))

    def download_artifact(self, job_id: str, artifact: ArtifactView, folder: Path) -> Path:
        """Save a file in `folder`, complete and with the listed hash, or not at all."""
        with placing(artifact, folder) as (partial, path):
            self._download(calls.build_artifact_path(job_id, artifact.name), partial)
            check_hash(partial, artifact)
        return path

    def download_artifacts(self, job: JobView, folder: Path) -> list[Path]:
        """Save every file that the job lists in `folder`; return their paths."""
        return [self.download_artifact(job.id, artifact, folder) for artifact in job.artifacts]

    def publish(
        self,
        job_id: str,
        *,
        alias: str | None = None,
        reason: str | None = None,
        override: str | None = None,
        idempotency_key: str | None = None,
    ) -> VersionView:
        """Publish the job's correction; one version, even if the request had to be repeated."""
        call = serving_calls.publish(job_id, alias, reason, override, idempotency_key)
        return self._send(call)

    def wait_until_settled(
        self, version_id: str, on_change: Callable[[VersionView], None]
    ) -> VersionView:
        """Return the version once it is live or never will be; `on_change` sees each change."""
        last = None
        while True:
            version = self.get_version(version_id)
            if version.status != last:
                last = version.status
                on_change(version)
            if serving_calls.is_settled(version):
                return version
            time.sleep(serving_calls.POLL_SECONDS)

    def get_version(self, version_id: str) -> VersionView:
        """Return the current state of a version."""
        return self._send(serving_calls.get_version(version_id))

    def list_versions(self, *, after: str | None = None, limit: int = 20) -> VersionList:
        """Return one page of versions, newest first."""
        return self._send(serving_calls.list_versions(after, limit))

    def list_version_events(self, version_id: str) -> ServingEventList:
        """Return the events of a version, oldest first."""
        return self._send(serving_calls.list_version_events(version_id))

    def retire(self, version_id: str, reason: str | None = None) -> VersionView:
        """Take a version off its server; return its state."""
        return self._send(serving_calls.retire(version_id, reason))

    def list_aliases(self) -> AliasList:
        """Return all aliases."""
        return self._send(serving_calls.list_aliases())

    def find_alias_target(self, alias: str) -> str | None:
        """Return the id of the version that an alias points at; None if there is no such alias."""
        try:
            return self._send(serving_calls.get_alias(alias)).version
        except ApiError as error:
            if serving_calls.is_missing(error):
                return None
            raise

    def promote(self, alias: str, version_id: str, reason: str | None = None) -> AliasView:
        """Point an alias at a version."""
        return self._send(serving_calls.promote(alias, version_id, reason))

    def roll_back(self, alias: str, reason: str | None = None) -> AliasView:
        """Undo an alias's latest change. Never repeated, because that would go back twice."""
        return self._send(serving_calls.roll_back(alias, reason))

    def split(
        self, alias: str, version_id: str | None, percent: int, reason: str | None = None
    ) -> AliasView:
        """Send `percent` per cent of an alias's requests to a second version."""
        return self._send(serving_calls.split(alias, version_id, percent, reason))

    def list_alias_events(self, alias: str) -> ServingEventList:
        """Return the events of an alias, oldest first."""
        return self._send(serving_calls.list_alias_events(alias))

    def list_pools(self) -> PoolList:
        """Return all serving pools."""
        return self._send(serving_calls.list_pools())

    def audit(self, *, after: int = 0, action: str | None = None) -> Iterator[AuditEntryView]:
        """Yield the changes in the key's tenant after the last known id, oldest first."""
        while True:
            found = self._send(calls.list_audit(after, action))
            yield from found.data
            if not found.has_more:
                return
            after = found.data[-1].id

    def create_webhook(
        self, url: str, events: Sequence[str] | None = None, description: str = ""
    ) -> NewWebhookView:
        """Create a webhook and return it with its secret; it gets all events if none are given."""
        return self._send(webhook_calls.create_webhook(url, events, description))

    def get_webhook(self, webhook_id: str) -> WebhookView:
        """Return the current state of a webhook."""
        return self._send(webhook_calls.get_webhook(webhook_id))

    def list_webhooks(self, *, after: str | None = None, limit: int = 20) -> WebhookList:
        """Return one page of webhooks, newest first."""
        return self._send(webhook_calls.list_webhooks(after, limit))

    def change_webhook(self, webhook_id: str, **changes: Any) -> WebhookView:
        """Change a webhook's `url`, `events`, `description` or `status`."""
        return self._send(webhook_calls.change_webhook(webhook_id, changes))

    def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook and its deliveries."""
        self._send(webhook_calls.delete_webhook(webhook_id))

    def rotate_webhook_secret(self, webhook_id: str) -> NewWebhookView:
        """Give a webhook a new secret; for a day, the old one signs messages as well."""
        return self._send(webhook_calls.rotate_webhook_secret(webhook_id))

    def ping_webhook(self, webhook_id: str) -> DeliveryView:
        """Send a test message to a webhook; return its delivery."""
        return self._send(webhook_calls.ping_webhook(webhook_id))

    def list_deliveries(
        self, webhook_id: str, *, after: str | None = None, limit: int = 20
    ) -> DeliveryList:
        """Return one page of a webhook's deliveries, newest first."""
        return self._send(webhook_calls.list_deliveries(webhook_id, after, limit))

    def retry_delivery(self, webhook_id: str, delivery_id: str) -> DeliveryView:
        """Send a message again; return its delivery."""
        return self._send(webhook_calls.retry_delivery(webhook_id, delivery_id))

    def _send(self, call: Call[_Answer]) -> _Answer:
        """Return the answer to a request, which is repeated if that may help."""
        retries = Retries(self.patience_seconds)
        while True:
            try:
                response = self._http.request(call.method, call.path, **call.options)
            except httpx.TransportError as error:
                failure = describe_loss(self.url, error)
            else:
                if (refusal := find_failure(response)) is None:
                    return call.parse(response)
                failure = refusal
            time.sleep(retries.find_pause(failure, is_repeatable=call.is_repeatable))

    def _download(self, path: str, target: Path) -> None:
        """Write an answer to `target`, starting over when the connection breaks."""
        retries = Retries(self.patience_seconds)
        while True:
            try:
                with self._http.stream("GET", path) as response:
                    if not response.is_success:
                        response.read()
                    if (refusal := find_failure(response)) is None:
                        with target.open("wb") as file:
                            for chunk in response.iter_bytes():
                                file.write(chunk)
                            settle(file)
                        return
                    failure = refusal
            except httpx.TransportError as error:
                failure = describe_loss(self.url, error)
            time.sleep(retries.find_pause(failure))
