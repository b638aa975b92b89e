"""What a worker takes from the broker: messages of the relay, and nothing else.

Celery ends over a message that it cannot read, after it has given it back: the next worker to start
would end over it as well. What is dropped here is sent again if there is work that waits.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from typing import Any

from kombu.transport import redis

from service.outbox import JOB_TASK, PUBLISH_TASK, SHARD_TASK
from service.tracing import HEADER

logger = logging.getLogger(__name__)

QUEUE = "celery"
"""The queue that carries the relay's messages; others are Celery's own."""

_TASKS = (JOB_TASK, SHARD_TASK, PUBLISH_TASK)
_ROW_ID = re.compile(r"[a-z]+_[0-9a-f]{24}")
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class Channel(redis.Channel):
    """A channel on which what is no JSON is dropped."""

    def _brpop_read(self, **options: Any) -> Any:
        """Deliver the message that has arrived, which is no longer in the queue."""
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError):
            _tell_of_dropping()
            return True


class Transport(redis.Transport):
    """The Redis transport, which delivers only messages that name a row for one of our tasks."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        """Pass on what the relay could have sent; it is not among the unacknowledged ones yet."""
        if queue == QUEUE and (message := rebuild_message(message)) is None:
            _tell_of_dropping()
            return
        super()._deliver(message, queue)  # type: ignore[no-untyped-call]


def rebuild_message(message: Any) -> dict[str, Any] | None:
    """Return the message with nothing but what the relay writes; None if that is not there.

    In other headers Celery would find postponements, limits of time and further tasks.
    """
    try:
        headers, properties = message["headers"], message["properties"]
        task, task_id, trace = headers["task"], headers["id"], headers.get(HEADER)
        (row_id,), *_ = json.loads(base64.b64decode(message["body"], validate=True))
        tag = properties["delivery_tag"]
        texts = (task_id, tag, "" if trace is None else trace)
        is_text = all(isinstance(one, str) for one in texts)
        if task not in _TASKS or not is_text or not _ROW_ID.fullmatch(row_id):
            return None
    except _UNREADABLE:
        return None
    kept = {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0}
    return {
        "body": base64.b64encode(json.dumps([[row_id], {}, {}]).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": kept if trace is None else {**kept, HEADER: trace},
        "properties": {
            "delivery_tag": tag,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "body_encoding": "base64",
            "correlation_id": task_id,
            "delivery_mode": 2,
            "priority": 0,
        },
    }


def _tell_of_dropping() -> None:
    logger.warning("a message in the broker's queue is not Excise's; it was dropped")
