"""Stages run one after another in memory."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest

from workers.library import context as contexts
from workers.library.context import MemoryContext, Silence, listening
from workers.progress import Advance, Counter, Standing
from workers.stages.context import ShardedStage, ShardedWork


class Ears:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, int]] = []

    def hear(self, stage: str, standing: Standing) -> None:
        self.heard.append((stage, standing.done, standing.total))


def test_a_stage_is_run_timed_and_heard() -> None:
    ears = Ears()
    context = MemoryContext(ears)

    def work(progress: object) -> bytes:
        progress(Standing(2, 4))  # type: ignore[operator]
        return b"result"

    output = context.run_stage("prepare", {}, work)
    assert output == (b"result", hashlib.sha256(b"result").hexdigest())
    assert ears.heard == [("prepare", 0, 1), ("prepare", 2, 4), ("prepare", 1, 1)]
    assert list(context.load_stage_seconds()) == ["prepare"]


def test_shards_are_computed_in_order_and_counted_together() -> None:
    counted: list[Standing] = []

    def compute(position: int, advance: Advance) -> bytes:
        advance((3, 5)[position])
        return bytes([position])

    stage = ShardedStage("attribute", "key", "sha")
    work = ShardedWork((3, 5), compute, "rows", cost=2.0)
    results = MemoryContext(Ears()).run_shards(stage, work, Counter(counted.append, [work.part]))
    assert results == [b"\0", b"\1"]
    told = [(standing.done, standing.total, standing.message) for standing in counted]
    assert told == [(0, 16, "0 of 8 rows"), (6, 16, "3 of 8 rows"), (16, 16, "8 of 8 rows")]


def test_what_was_found_out_once_is_remembered() -> None:
    context, calls = MemoryContext(Ears()), []

    def find() -> bytes:
        calls.append(1)
        return b"found"

    assert context.remember("search.measured", "a", find) == b"found"
    assert context.remember("search.measured", "a", find) == b"found"
    assert context.remember("search.measured", "b", find) == b"found"
    assert len(calls) == 2


def test_events_and_files_are_kept() -> None:
    context = MemoryContext(Ears())
    context.event("search.trial", "one", {"amount": 1}, once=True)
    context.event("search.trial", "one", {"amount": 1}, once=True)
    context.skip_stage("validate", "nothing to validate")
    context.publish_file("report.md", b"text", "text/markdown")
    told = [(event.type, event.message) for event in context.events]
    assert told == [
        ("search.trial", "one"),
        ("validate.skipped", "nothing to validate"),
    ]
    assert context.files == {"report.md": b"text"}
    context.check_cancelled()


def test_bars_are_drawn_where_wanted(capsys) -> None:
    with listening(shows_progress=True) as listener:
        listener.hear("prepare", Standing(1, 2, "1 of 2 [answers]", 75.2))
        listener.hear("prepare", Standing(1, 2, "1 of 2 [answers]", 75.2))
    shown = capsys.readouterr().out
    assert "prepare" in shown
    assert "1 of 2 [answers], 0:01:15 left" in shown
    with listening(shows_progress=False) as listener:
        listener.hear("prepare", Standing(1, 2))
    assert capsys.readouterr().out == ""


def test_how_far_a_stage_came_is_kept_until_it_is_done() -> None:
    context = MemoryContext(Silence())
    assert context.recall("attribute.segments", "key") is None
    for data in (b"one", b"two"):
        context.save("attribute.segments", "key", data)
        assert context.recall("attribute.segments", "key") == data
    context.forget("attribute.segments", "key")
    context.forget("attribute.segments", "key")
    assert context.recall("attribute.segments", "key") is None


def test_a_notebook_without_widgets_gets_a_line_per_tenth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contexts, "Console", lambda: SimpleNamespace(is_jupyter=True))
    monkeypatch.setattr(contexts, "find_spec", lambda name: None)
    with listening(shows_progress=True) as listener:
        for done in (0, 1, 9, 10, 55, 59, 100):
            listener.hear("search", Standing(done, 100, remaining_seconds=100.0 - done))
    assert capsys.readouterr().out.splitlines() == [
        "search 0 %, 0:01:40 left",
        "search 10 %, 0:01:30 left",
        "search 50 %, 0:00:45 left",
        "search 100 %, 0:00:00 left",
    ]
