"""Following a job: one bar per stage at a terminal, occasional plain lines anywhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from queue import Empty, SimpleQueue

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from excise.cli.output import clean
from excise.client import Client, ClientError
from excise.names import StageStatus
from excise.resources.jobs import EventView, JobView, StageView

_ENDED = frozenset({StageStatus.SUCCEEDED, StageStatus.SKIPPED})
_POLL_SECONDS = 1.0
_PLAIN_SECONDS = 10.0
_LAST_EVENTS_SECONDS = 5.0
_HIDDEN_EVENTS = frozenset({"stage.progress"})


def follow_job(
    client: Client, job: JobView, console: Console, *, started: float | None = None
) -> JobView:
    """Show the job's progress and events until it has ended; return the ended job.

    Elapsed times count from `started`, on the monotonic clock, or else from now.
    """
    started = time.monotonic() if started is None else started
    display = (_Bars if console.is_terminal else _Lines)(console, started)
    events: SimpleQueue[EventView] = SimpleQueue()
    reader = threading.Thread(
        target=_read_events, args=(client, job.id, events.put), name="events", daemon=True
    )
    reader.start()
    with display.shown():
        while True:
            job = client.get_job(job.id)
            _show_events(display, events)
            display.show_job(job)
            if not job.status.is_open:
                break
            time.sleep(_POLL_SECONDS)
        reader.join(timeout=_LAST_EVENTS_SECONDS)
        _show_events(display, events)
    return job


class _Display:
    """Base class of displays of a job."""

    def __init__(self, console: Console, started: float) -> None:
        self._console = console
        self._started = started

    def shown(self) -> AbstractContextManager[object]:
        """Return the context within which the display is on."""
        return nullcontext()

    def show_event(self, event: EventView) -> None:
        """Show one event as a line."""
        if event.type not in _HIDDEN_EVENTS:
            stamp = format_seconds(time.monotonic() - self._started)
            self._print(f"[{stamp}] {clean(event.message or event.type)}")

    def show_job(self, job: JobView) -> None:
        """Show the job's current state."""
        raise NotImplementedError

    def _print(self, line: str) -> None:
        self._console.print(Text(line))


class _Lines(_Display):
    """Plain lines; a stage's progress is shown at most every ten seconds."""

    def __init__(self, console: Console, started: float) -> None:
        super().__init__(console, started)
        self._last_shown = time.monotonic()

    def show_job(self, job: JobView) -> None:
        """Print a line about the running stage if one is due."""
        now = time.monotonic()
        if now - self._last_shown < _PLAIN_SECONDS:
            return
        self._last_shown = now
        stamp = format_seconds(now - self._started)
        running = next((stage for stage in job.stages if stage.status is StageStatus.RUNNING), None)
        if running is None:
            self._print(f"[{stamp}] {job.status}")
            return
        name = " ".join(filter(None, [clean(running.name), _count(running)]))
        parts = [name, clean(running.message or ""), _remaining(running, job)]
        self._print(f"[{stamp}] {', '.join(filter(None, parts))}")


class _Bars(_Display):
    """One bar per stage, with the events scrolling by above."""

    def __init__(self, console: Console, started: float) -> None:
        super().__init__(console, started)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._live = Live(self._progress, console=console, refresh_per_second=4)
        self._tasks: dict[str, TaskID] = {}
        self._overall = self._progress.add_task("total", total=None, count="", note="")

    def shown(self) -> AbstractContextManager[object]:
        """Return the context within which the bars are drawn."""
        return self._live

    def show_job(self, job: JobView) -> None:
        """Update every bar."""
        for stage in job.stages:
            if stage.name not in self._tasks:
                self._tasks[stage.name] = self._progress.add_task(
                    clean(stage.name), count="", note=""
                )
            has_ended = stage.status in _ENDED
            total = stage.total or (1 if has_ended or stage.status is StageStatus.PENDING else None)
            seconds = format_seconds(stage.seconds) if stage.seconds is not None else ""
            note = seconds if has_ended else _tell(stage)
            self._progress.update(
                self._tasks[stage.name],
                completed=total if has_ended else stage.done,
                total=total,
                count=_count(stage) if stage.status is not StageStatus.PENDING else "",
                note="skipped" if stage.status is StageStatus.SKIPPED else note,
            )
        elapsed = format_seconds(time.monotonic() - self._started)
        ended = sum(stage.status in _ENDED for stage in job.stages)
        self._progress.update(
            self._overall,
            completed=ended,
            total=len(job.stages) or None,
            count=elapsed,
            note=_tell_left(job.estimated_finish) if job.status.is_open else job.status,
        )


def format_seconds(seconds: float) -> str:
    """Return the time as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _read_events(client: Client, job_id: str, put: Callable[[EventView], None]) -> None:
    """Pass on every event; a lasting outage is noticed and reported by the polling loop."""
    try:
        for event in client.iter_events(job_id):
            put(event)
    except ClientError:
        return


def _show_events(display: _Display, events: SimpleQueue[EventView]) -> None:
    """Show the events that have arrived."""
    while True:
        try:
            display.show_event(events.get_nowait())
        except Empty:
            return


def _count(stage: StageView) -> str:
    """Return the completed share, or "" if it is not known."""
    return f"{stage.done / stage.total:.0%}" if stage.total else ""


def _remaining(stage: StageView, job: JobView) -> str:
    """Return how much longer the service expects the running stage and the job to take."""
    own, whole = _find_left(stage.estimated_finish), _find_left(job.estimated_finish)
    if own and whole:
        return f"about {own} left in this stage, {whole} in the job"
    return f"about {own or whole} left" if own or whole else ""


def _tell(stage: StageView) -> str:
    """Return the stage's progress and the time left for it."""
    return ", ".join(filter(None, [clean(stage.message or ""), _tell_left(stage.estimated_finish)]))


def _tell_left(finish: datetime | None) -> str:
    left = _find_left(finish)
    return f"{left} left" if left else ""


def _find_left(finish: datetime | None) -> str:
    """Return the time until `finish`, or "" if it is not known."""
    return format_seconds(finish.timestamp() - time.time()) if finish else ""
