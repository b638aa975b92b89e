"""The service's settings, read from the environment and only at entry points."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from excise.logs import LogLevel, configure_logging
from excise.resources.tenants import Quotas
from service.database import parse_database_url
from service.serving.pools import ServingPool, check_pools, load_pool_keys
from service.tracing import configure_tracing
from service.webhooks.retries import PAUSES_SECONDS, TRIES

MEBIBYTE = 1024 * 1024


def split_roots(value: object) -> object:
    """Return the folders in a PATH-like string; other inputs are returned unchanged."""
    if isinstance(value, str):
        return tuple(Path(part).expanduser() for part in value.split(os.pathsep) if part)
    return value


def split_names(value: object) -> object:
    """Return the names in a comma-separated string; other inputs are returned unchanged."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


Roots = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(split_roots)]
"""Folders; in the environment, separated like PATH."""


class Settings(BaseSettings):
    """All settings of the service; each field is read from `EXCISE_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix="EXCISE_", extra="ignore", hide_input_in_errors=True, frozen=True
    )

    database_url: SecretStr
    """PostgreSQL URL; `postgresql://` means psycopg 3. Holds a password: never logged."""
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Redis or Valkey URL. May hold a password: never logged."""
    artifacts: str
    """Where results are kept: a folder, or an `s3://bucket/prefix` URL."""
    log_level: LogLevel = "info"
    """Lowest level that is logged: `debug`, `info`, `warning` or `error`."""
    model_roots: Roots = ()
    """Folders checkpoints may be taken from, separated like PATH."""
    task_data: Path | None = None
    """Folder with `task_<name>.jsonl` for zero-shot tasks whose rows a job does not bring."""
    max_open_jobs_per_key: int = Field(default=20, ge=1)
    """Jobs one API key may have queued or running at once."""
    lease_seconds: int = Field(default=30, ge=2)
    """How long a worker may be silent before its job is given to another one."""
    max_attempts: int = Field(default=3, ge=1)
    """How often a job is started before it is given up as `poison_job`."""
    max_body_bytes: int = Field(default=MEBIBYTE, ge=1024)
    """Largest request body, prompt sets excepted."""
    max_prompt_set_bytes: int = Field(default=8 * MEBIBYTE, ge=1024)
    """Largest prompt set."""
    body_seconds: float = Field(default=60.0, gt=0)
    """How long a request body may take to arrive."""
    max_receiving_bytes: int = Field(default=256 * MEBIBYTE, ge=MEBIBYTE)
    """Bytes of request bodies that an API process may be receiving at once."""
    max_receiving_bytes_per_key: int = Field(default=64 * MEBIBYTE, ge=MEBIBYTE)
    """The same for one API key."""
    max_json_depth: int = Field(default=32, ge=4)
    """Deepest nesting a JSON body may have."""
    request_threads: int = Field(default=8, ge=2)
    """Number of requests in an API process that may use the database at the same time."""
    download_threads: int = Field(default=4, ge=1)
    """Number of downloads read from the artifact store at the same time; others take turns."""
    relay_enabled: bool = True
    """Whether this process sends the outbox and sweeps expired leases."""
    relay_seconds: float = Field(default=0.5, gt=0)
    """Pause between two looks at the outbox."""
    sweep_seconds: float = Field(default=5.0, gt=0)
    """Pause between two sweeps for expired leases and lost messages."""
    resend_seconds: float = Field(default=300.0, gt=0)
    """A job queued and unclaimed for this long is sent again."""
    retention_seconds: float = Field(default=86_400.0, ge=0)
    """How long intermediate results are kept after a job's end; its files are kept longer."""
    stream_poll_seconds: float = Field(default=0.5, gt=0)
    """Pause between two queries for new events while streams are open; one query serves all."""
    max_streams: int = Field(default=1000, ge=1)
    """Event streams that may be open at once in an API process."""
    max_streams_per_key: int = Field(default=50, ge=1)
    """The same for one API key; `quotas` has the limit for one tenant."""
    quotas: Quotas = Quotas()
    """Quotas of each tenant, as a JSON object; `excise tenants quota` changes those of one."""
    hub_organisations: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_names)] = ()
    """Organisations of the hub whose pinned checkpoints jobs may name, separated by commas; `*`
    means any."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts, or `host:port`, that webhooks may use even if they are private or over http; a JSON
    list."""
    webhook_seconds: float = Field(default=1.0, gt=0)
    """Pause between two queries for messages to webhooks."""
    webhook_retry_seconds: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=PAUSES_SECONDS, min_length=1, max_length=TRIES - 1
    )
    """Pauses after failed attempts to send a message, as a JSON list; the last one is repeated."""
    webhook_give_up_seconds: float = Field(default=432_000.0, gt=0)
    """A webhook that has only failed for this long is disabled; by default five days."""
    metrics_token: SecretStr | None = None
    """Bearer token for `/metrics`; without one, only requests from this machine are answered."""
    worker_silent_seconds: float = Field(default=60.0, gt=0)
    """A worker whose heartbeat is older than this does not count as alive."""

    serving_pools: tuple[ServingPool, ...] = ()
    """The vLLM servers corrections are published to, as a JSON list; see docs/guides/serving.md."""
    serving_folder: Path = Path("served")
    """Folder of versions for the vLLM servers; they must see it under the same path."""
    reconciler_enabled: bool = True
    """Whether this process brings the serving pools to the state that the database describes."""
    reconcile_seconds: float = Field(default=1.0, gt=0)
    """Pause between two checks of a serving pool."""
    infer_requests_per_minute: int = Field(default=6000, ge=1)
    """Average rate of requests to the gateway allowed per API key, over all API processes; while
    the broker is down, per process."""
    infer_burst: int = Field(default=200, ge=1)
    """Requests one API key may send to an API process at once after a pause."""
    max_completions_per_key: int = Field(default=256, ge=1)
    """Completions that one API key may have under way at once in an API process."""
    max_completions_per_tenant: int = Field(default=512, ge=1)
    """The same for all keys of a tenant; a process has 1,024 connections to servers."""
    gateway_read_seconds: float = Field(default=120.0, gt=0)
    """How long a vLLM server may be silent before and in the middle of a stream, and how long an
    event, or the whole of an answer that is not streamed, may take to arrive once it has begun."""
    gateway_answer_seconds: float = Field(default=600.0, gt=0)
    """How long a vLLM server may generate an answer that is not streamed; by default, as long as
    OpenAI's client waits."""
    routing_seconds: float = Field(default=1.0, ge=0, le=5)
    """How long the gateway may use an alias or a key that it has looked up."""

    def find_task_file(self, name: str) -> Path | None:
        """Return the server's own file with rows of a zero-shot task, if it has one."""
        path = None if self.task_data is None else self.task_data / f"task_{name}.jsonl"
        return path if path is not None and path.is_file() else None

    def list_secrets(self) -> list[str]:
        """Return the values that no log may show: URLs with passwords, and the servers' keys."""
        keys = (pool.api_key for pool in self.serving_pools)
        secrets = (self.database_url, self.broker_url, self.metrics_token, *keys)
        return [secret.get_secret_value() for secret in secrets if secret is not None]

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower_level(cls, value: object) -> object:
        """Return the level in lower case; other inputs are returned unchanged."""
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: SecretStr) -> SecretStr:
        """Return the URL if it is valid; the error's message quotes nothing of it."""
        parse_database_url(url.get_secret_value())
        return url

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, url: SecretStr) -> SecretStr:
        """Return the URL if it is valid; the error's message quotes nothing of it."""
        try:
            _ = urlsplit(url.get_secret_value()).port
        except ValueError:
            raise ValueError(
                "EXCISE_BROKER_URL is not the URL of a broker. Percent-encode special characters "
                "in user and password, such as / as %2F."
            ) from None
        return url

    @field_validator("serving_pools")
    @classmethod
    def _load_keys(cls, pools: tuple[ServingPool, ...]) -> tuple[ServingPool, ...]:
        """Return the pools with their servers' API keys."""
        check_pools(pools)
        return load_pool_keys(pools)


SettingsType = TypeVar("SettingsType", bound=Settings)


def start_process(kind: type[SettingsType], role: str) -> SettingsType:
    """Return the settings of an entry point, after configuring its logging and tracing.

    `role` is the process's name in traces. Logging is configured first, so that errors in the
    settings are logged as well, without secrets. Raises `ValidationError`.
    """
    configure_logging()
    settings = kind()
    configure_logging(settings.log_level, settings.list_secrets())
    configure_tracing(role)
    return settings
