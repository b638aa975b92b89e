"""Messages are the relay's, reduced to what it writes, or nothing."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from service.outbox import JOB_TASK
from workers.running.messages import rebuild_message

ROW_ID = "job_" + "0" * 24
TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def encode(document: object) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def decode(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))


def write_as_the_relay_does(**headers: Any) -> dict[str, Any]:
    """The message that Celery makes of what the relay sends, as a channel gives it back."""
    app = Celery("test", broker="memory://", set_as_current=False)
    app.conf.update(task_serializer="json")
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        app.send_task(JOB_TASK, args=[ROW_ID], producer=producer, headers=headers)
        found = connection.default_channel._get("celery")
    assert isinstance(found, dict)
    return found


MESSAGE = write_as_the_relay_does(traceparent=TRACE)


def test_what_the_relay_sends_keeps_its_row_and_its_trace() -> None:
    rebuilt = rebuild_message(MESSAGE)
    assert rebuilt is not None
    assert decode(rebuilt)[0] == [ROW_ID]
    assert rebuilt["headers"]["task"] == JOB_TASK
    assert rebuilt["headers"]["traceparent"] == TRACE
    assert rebuilt["properties"]["delivery_tag"] == MESSAGE["properties"]["delivery_tag"]
    assert rebuild_message(rebuilt) == rebuilt, "as given back by a worker that died"
    without = rebuild_message(write_as_the_relay_does())
    assert without is not None
    assert "traceparent" not in without["headers"]


@pytest.mark.parametrize(
    "header",
    [{"eta": "soon"}, {"expires": 7}, {"timelimit": "x"}, {"compression": "x"}, {"retries": "x"}],
)
def test_nothing_else_is_kept(header: dict[str, Any]) -> None:
    forged = MESSAGE | {"headers": MESSAGE["headers"] | header, "content-type": "x/pickle"}
    assert rebuild_message(forged) == rebuild_message(MESSAGE)
    chained = [[ROW_ID], {"x": 1}, {"chain": [{"task": JOB_TASK, "args": ["x"]}]}]
    assert rebuild_message(MESSAGE | {"body": encode(chained)}) == rebuild_message(MESSAGE)


@pytest.mark.parametrize(
    "part",
    [
        {"body": "%%%"},
        {"body": base64.b64encode(b"\x80\x04N.").decode()},
        {"body": encode([[], {}, {}])},
        {"body": encode([[ROW_ID, ROW_ID], {}, {}])},
        {"body": encode([["job_\0"], {}, {}])},
        {"body": encode([[2**70], {}, {}])},
        {"body": base64.b64encode(b"[" * 100_000).decode()},
        {"headers": None},
        {"headers": MESSAGE["headers"] | {"task": "other"}},
        {"headers": MESSAGE["headers"] | {"task": [JOB_TASK]}},
        {"headers": MESSAGE["headers"] | {"traceparent": {}}},
        {"properties": {}},
    ],
)
def test_what_the_relay_cannot_have_sent_is_no_message(part: dict[str, Any]) -> None:
    assert rebuild_message(MESSAGE | part) is None


@given(JSON, st.sampled_from([(), ("body",), ("headers",), ("headers", "task"), ("properties",)]))
def test_any_json_is_a_message_or_none(value: Any, place: tuple[str, ...]) -> None:
    message: Any = value
    if place:
        message = {**MESSAGE, place[0]: value}
    if len(place) == 2:
        message = {**MESSAGE, place[0]: {**MESSAGE[place[0]], place[1]: value}}
    assert rebuild_message(message) is None
