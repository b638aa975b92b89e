"""What people read of a job while it runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from excise.cli import progress
from excise.resources.jobs import JobView

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock the test moves: seconds since the job was submitted, at noon."""
    clock = SimpleNamespace(now=0.0)
    times = SimpleNamespace(
        monotonic=lambda: clock.now, time=lambda: NOW.timestamp() + clock.now, sleep=None
    )
    monkeypatch.setattr(progress, "time", times)
    return clock


def build_job(finish: float | None = 700.0, **stage: Any) -> JobView:
    own = {
        "name": "search",
        "status": "running",
        "done": 34,
        "total": 100,
        "message": "round 2 of at most 8: 30 of 52 responses",
        "estimated_finish": NOW + timedelta(seconds=250),
        "seconds": None,
    }
    done = {"name": "prepare", "status": "succeeded", "done": 9, "total": 9, "message": None}
    nothing = ("verdict", "started_at", "finished_at", "error")
    return JobView.model_validate(
        {
            "id": "job_1",
            "kind": "correction",
            "status": "running",
            "model": "m",
            "spec": {},
            "metadata": {},
            "created_at": NOW,
            "estimated_finish": None if finish is None else NOW + timedelta(seconds=finish),
            "attempts": 1,
            "cancel_requested": False,
            "stage": "search",
            "stages": [done | {"seconds": 36.4}, own | stage],
            "artifacts": [],
        }
        | dict.fromkeys(nothing)
    )


def show(kind: Any, job: JobView, clock: SimpleNamespace) -> str:
    """What a display shows of a job 120 seconds after it was submitted."""
    out = StringIO()
    console = Console(file=out, width=200, force_terminal=kind is progress._Bars)
    display = kind(console, 0.0)
    clock.now = 120.0
    with display.shown():
        display.show_job(job)
    return out.getvalue()


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (
            build_job(),
            "[2:00] search 34%, round 2 of at most 8: 30 of 52 responses, about 2:10 left in "
            "this stage, 9:40 in the job\n",
        ),
        (
            build_job(None),
            "[2:00] search 34%, round 2 of at most 8: 30 of 52 responses, about 2:10 left\n",
        ),
        (
            build_job(message=None, estimated_finish=None),
            "[2:00] search 34%, about 9:40 left\n",  # of a service that does not tell of stages
        ),
        (
            build_job(None, done=0, total=None, message=None, estimated_finish=None),
            "[2:00] search\n",
        ),
    ],
)
def test_a_line_says_units_and_what_is_left(
    job: JobView, line: str, clock: SimpleNamespace
) -> None:
    assert show(progress._Lines, job, clock) == line


@pytest.mark.parametrize("kind", [progress._Lines, progress._Bars])
def test_the_name_of_a_stage_is_text(kind: Any, clock: SimpleNamespace) -> None:
    shown = show(kind, build_job(name="[red]sea[/red]\a[/b]rch"), clock)
    assert "[red]sea[/red] [/b]rch" in shown
    assert "\a" not in shown


def test_bars_say_the_same(clock: SimpleNamespace) -> None:
    shown = show(progress._Bars, build_job(message="30 of 52 [responses]"), clock)
    assert "34%" in shown
    assert "30 of 52 [responses], 2:10 left" in shown
    assert "9:40 left" in shown
    assert "0:36" in shown
