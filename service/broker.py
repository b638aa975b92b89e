"""The message broker: sends ids to the workers, and detects that the broker was wiped."""

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
        """Yield a function that sends one id to a task, on a new connection.

        kombu remembers, per connection, which queues it has bound. After a FLUSHALL has removed a
        binding, messages for it are lost without an error; a new connection binds again. A message
        carries the current trace.
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
        """Return the number of messages that no worker has taken yet."""
        return self._client.llen(self._celery.conf.task_default_queue)

    def has_epoch(self) -> bool:
        """Return whether the broker still has the marker, and so all messages since it was set."""
        return bool(self._client.exists(EPOCH_KEY))

    def set_epoch(self) -> None:
        """Set the marker, which disappears if the broker is wiped or replaced."""
        self._client.set(EPOCH_KEY, uuid4().hex, nx=True)

    def ping(self) -> None:
        """Raise unless the broker answers."""
        self._client.ping()

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        self._celery.close()
