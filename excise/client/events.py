"""A job's events off the wire: where to go on, and which ones were seen."""

from __future__ import annotations

from collections.abc import Mapping

from httpx_sse import ServerSentEvent
from pydantic import ValidationError

from excise.client.calls import build_job_path
from excise.resources.jobs import EventView


class EventCursor:
    """A place in a job's events, kept across connections, so that each is given once."""

    def __init__(self, job_id: str, after: int) -> None:
        self.path = f"{build_job_path(job_id)}/events"
        self._after = after

    @property
    def headers(self) -> Mapping[str, str]:
        """Ask for the events that were not seen yet."""
        return {"Last-Event-ID": str(self._after)}

    def read(self, message: ServerSentEvent) -> EventView | None:
        """The message's event, if it is new and of a kind that this version knows."""
        try:
            event = EventView.model_validate_json(message.data)
        except ValidationError:
            return None
        if event.id <= self._after:
            return None
        self._after = event.id
        return event


def is_last(message: ServerSentEvent) -> bool:
    """Whether no event follows: the job has ended."""
    return message.event == "done"
