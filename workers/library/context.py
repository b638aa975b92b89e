"""The stage context of the library: all work is done and all results are kept in this process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from workers.progress import Counter, Progress, Standing
from workers.stages.context import ShardedStage, ShardedWork, StageContext, StageOutput


class Listener(Protocol):
    """Is told the progress of each stage."""

    def hear(self, stage: str, standing: Standing) -> None:
        """Receive how far a stage has got."""


@dataclass(frozen=True)
class Event:
    """A message from a stage."""

    type: str
    message: str
    data: Mapping[str, Any]


class Silence:
    """A listener that shows nothing."""

    def hear(self, stage: str, standing: Standing) -> None:
        """Ignore it."""


class StageBars:
    """A listener that shows a progress bar per stage, in a terminal or below a notebook's cell."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def hear(self, stage: str, standing: Standing) -> None:
        """Move the stage's bar."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, note="")
        self._bars.update(
            self._tasks[stage],
            completed=standing.done,
            total=max(standing.total, 1),
            note=escape(_join(standing.message, _tell_left(standing))),
        )


class StageLines:
    """A listener that prints a line per stage and tenth of it, where no bar can be shown."""

    def __init__(self) -> None:
        self._told: set[tuple[str, int]] = set()

    def hear(self, stage: str, standing: Standing) -> None:
        """Print how far the stage has got, unless this tenth of it was printed."""
        tenth = int(10 * standing.done / max(standing.total, 1))
        if (stage, tenth) not in self._told:
            self._told.add((stage, tenth))
            print(_join(f"{stage} {10 * tenth} %", _tell_left(standing)), flush=True)


def _tell_left(standing: Standing) -> str:
    left = standing.remaining_seconds
    return "" if left is None else f"{timedelta(seconds=round(left))} left"


def _join(*parts: str) -> str:
    return ", ".join(filter(None, parts))


@contextmanager
def listening(*, shows_progress: bool) -> Iterator[Listener]:
    """Within the context, provide a listener that shows progress bars, or nothing if not wanted.

    A notebook without ipywidgets can show no bars, and gets lines.
    """
    if not shows_progress:
        yield Silence()
        return
    console = Console()
    if console.is_jupyter and find_spec("ipywidgets") is None:
        yield StageLines()
        return
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=console) as bars:
        yield StageBars(bars)


class MemoryContext(StageContext):
    """Runs stages one after another and keeps their results."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._seconds: dict[str, float] = {}
        self._findings: dict[tuple[str, str], bytes] = {}
        self.events: list[Event] = []
        self.files: dict[str, bytes] = {}

    def run_stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Progress], bytes]
    ) -> StageOutput:
        """Return the stage's result; results of earlier runs are never reused."""
        del inputs
        started = time.monotonic()

        def hear(standing: Standing) -> None:
            self._listener.hear(name, standing)

        hear(Standing(0, 1))
        data = work(hear)
        hear(Standing(1, 1))
        self._seconds[name] = time.monotonic() - started
        return StageOutput(data, hashlib.sha256(data).hexdigest())

    def run_shards(self, stage: ShardedStage, work: ShardedWork, counter: Counter) -> list[bytes]:
        """Return every shard's result, computed here one after another."""
        del stage
        return [work.compute(position, counter) for position in range(len(work.sizes))]

    def remember(self, name: str, key: str, work: Callable[[], bytes]) -> bytes:
        """Return the result of `work`, or its earlier result in this run."""
        if (name, key) not in self._findings:
            self._findings[name, key] = work()
        return self._findings[name, key]

    def recall(self, name: str, key: str) -> bytes | None:
        """Return what was last saved in this run; None if nothing was."""
        return self._findings.get((name, key))

    def save(self, name: str, key: str, data: bytes) -> None:
        """Save the intermediate state of a stage."""
        self._findings[name, key] = data

    def forget(self, name: str, key: str) -> None:
        """Delete the intermediate state of a stage."""
        self._findings.pop((name, key), None)

    def skip_stage(self, name: str, message: str) -> None:
        """Keep the message why a stage is skipped."""
        self.event(f"{name}.skipped", message)

    def check_cancelled(self) -> None:
        """Do nothing, because a keyboard interrupt stops the work by itself."""

    def event(
        self,
        type: str,  # noqa: A002 - the name the API uses
        message: str,
        data: Mapping[str, Any] | None = None,
        *,
        once: bool = False,
    ) -> None:
        """Keep a message from a stage."""
        told = Event(type, message, data or {})
        if not (once and told in self.events):
            self.events.append(told)

    def load_stage_seconds(self) -> dict[str, float]:
        """Return stage → its duration in seconds."""
        return dict(sorted(self._seconds.items()))

    def publish_file(self, name: str, data: bytes, media_type: str) -> None:
        """Keep a file of the result."""
        del media_type
        self.files[str(name)] = data
