"""Reading a job's events from a stream: where to resume, and which were seen already."""

from __future__ import annotations

from collections.abc import Mapping

from httpx_sse import ServerSentEvent
from pydantic import ValidationError

from excise.client.calls import build_job_path
from excise.resources.jobs import EventView


class EventCursor:
    """A position in a job's events, kept across connections so that each is returned once."""

    def __init__(self, job_id: str, after: int) -> None:
        self.path = f"{build_job_path(job_id)}/events"
        self._after = after

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that ask for the events not seen yet."""
        return {"Last-Event-ID": str(self._after)}

    def read(self, message: ServerSentEvent) -> EventView | None:
        """Return the message's event if it is new and its type is known; otherwise None."""
        try:
            event = EventView.model_validate_json(message.data)
        except ValidationError:
            return None
        if event.id <= self._after:
            return None
        self._after = event.id
        return event


def is_last(message: ServerSentEvent) -> bool:
    """Return whether no event follows, because the job has ended."""
    return message.event == "done"
