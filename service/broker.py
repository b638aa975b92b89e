"""The message broker: sending ids to the workers and noticing that the broker was wiped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from celery import Celery
from redis import Redis

from service.outbox import Publish
from service.tracing import build_trace_headers

EPOCH_KEY = "excise:epoch"
_TIMEOUT_SECONDS = 5


class Broker:
    """A Redis or Valkey server that carries ids to the workers."""

    def __init__(self, url: str) -> None:
        self._celery = Celery("excise-service", broker=url, set_as_current=False)
        self._celery.conf.update(
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            task_publish_retry=False,
            broker_connection_timeout=_TIMEOUT_SECONDS,
            broker_transport_options={
                "socket_timeout": _TIMEOUT_SECONDS,
                "socket_connect_timeout": _TIMEOUT_SECONDS,
            },
        )
        self._client: Redis = Redis.from_url(
            url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
        )

    @contextmanager
    def publisher(self) -> Iterator[Publish]:
        """A function that sends one id to a task, on a connection of its own.

        kombu remembers per connection which queues it has bound, and a message for a binding that
        a FLUSHALL took away is lost without an error. A new connection binds again.
        A message carries the trace it is sent in.
        """
        with (
            self._celery.connection_for_write() as connection,
            self._celery.amqp.Producer(connection) as producer,
        ):

            def publish(task: str, row_id: str) -> None:
                self._celery.send_task(
                    task,
                    args=[row_id],
                    producer=producer,
                    retry=False,
                    headers=build_trace_headers(),
                )

            yield publish

    def count_messages(self) -> int:
        """How many messages no worker has taken yet."""
        return self._client.llen(self._celery.conf.task_default_queue)

    def has_epoch(self) -> bool:
        """Whether the broker still holds the marker, and so everything sent since it was set."""
        return bool(self._client.exists(EPOCH_KEY))

    def set_epoch(self) -> None:
        """Leave the marker; it is gone as soon as the broker is wiped or replaced."""
        self._client.set(EPOCH_KEY, uuid4().hex, nx=True)

    def ping(self) -> None:
        """Raise unless the broker answers."""
        self._client.ping()

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        self._celery.close()
