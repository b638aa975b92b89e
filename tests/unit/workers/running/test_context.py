"""A stage's key, its reuse, and how often progress is written; the database is left out."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.specs import CorrectionSpec
from service.jobs.execution import (
    attach_artifact,
    file_finding,
    finish_stage,
    report_progress,
    skip_stage,
    start_stage,
)
from workers.progress import Progress, Standing
from workers.running import context as context_module
from workers.running.context import PROGRESS_SECONDS, CancelledJobError, JobContext
from workers.stages.context import StageOutput, compute_key

INPUTS = {"model": "abc", "seed": 1, "amounts": [8, 16], "budget": {"kl": 0.05}}


class MemoryStore:
    """Content-addressed bytes, counted."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def put_bytes(self, data: bytes) -> str:
        self.content[f"sha-{data.decode()}"] = data
        return f"sha-{data.decode()}"

    def exists(self, sha256: str) -> bool:
        return sha256 in self.content


class RecordingContext(JobContext):
    """A context that keeps what it would write, and finds stages of an earlier attempt."""

    def __init__(self, earlier: dict[str, StageOutput] | None = None) -> None:
        claim = SimpleNamespace(
            spec=SimpleNamespace(kind="correction", stages=CorrectionSpec.stages),
            job_id="job",
            tenant_id="tenant",
            token=1,
        )
        super().__init__(None, None, claim)  # type: ignore[arg-type]
        self.store = MemoryStore()  # type: ignore[assignment]
        self.earlier = earlier or {}
        self.writes: list[tuple[Any, ...]] = []
        self.estimates: list[float] = []
        self.cancelled = False

    def load_stage_seconds(self) -> dict[str, float]:
        return {"prepare": 12.0}

    def estimate_remaining(self, seconds: float) -> None:
        self.estimates.append(seconds)

    def check_cancelled(self) -> None:
        if self.cancelled:
            raise CancelledJobError

    def _find_earlier(self, name: str, key: str) -> StageOutput | None:
        return self.earlier.get(key)

    def _write(self, operation: Callable[..., Any], *arguments: Any) -> None:
        self.writes.append((operation, *arguments))


def test_a_key_does_not_depend_on_the_order_of_the_inputs() -> None:
    assert compute_key("search", INPUTS) == compute_key(
        "search", dict(reversed(list(INPUTS.items())))
    )


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"amounts": [16, 8]}, {"budget": {"kl": 0.06}}, {"seed": 1.5}, {"more": None}],
)
def test_a_key_depends_on_every_input_and_the_name(change: dict[str, Any]) -> None:
    assert compute_key("search", INPUTS | change) != compute_key("search", INPUTS)
    assert compute_key("validate", INPUTS) != compute_key("search", INPUTS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_key_refuses_what_json_cannot_say(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        compute_key("search", {"budget": value})


@given(st.text(), st.text(min_size=1), st.text())
def test_name_and_inputs_never_run_together(name: str, key: str, value: str) -> None:
    assert compute_key(name, {key: value}) != compute_key(name + key, {"": value})


def test_a_new_stage_is_started_stored_and_finished() -> None:
    context = RecordingContext()
    output = context.run_stage("search", INPUTS, lambda progress: b"result")
    assert output == StageOutput(b"result", "sha-result")
    assert context.store.content == {"sha-result": b"result"}
    key = compute_key("search", INPUTS)
    assert context.writes == [
        (start_stage, "search"),
        (finish_stage, "search", key, "sha-result", False),
    ]


def test_a_stage_of_an_earlier_attempt_is_not_repeated() -> None:
    key = compute_key("search", INPUTS)
    context = RecordingContext({key: StageOutput(b"old", "sha-old")})

    def work(progress: Progress) -> bytes:
        raise AssertionError("the stage ran again")

    assert context.run_stage("search", INPUTS, work) == StageOutput(b"old", "sha-old")
    assert context.writes == [(finish_stage, "search", key, "sha-old", True)]


def test_a_stage_with_other_inputs_runs() -> None:
    context = RecordingContext({compute_key("search", INPUTS): StageOutput(b"old", "sha-old")})
    output = context.run_stage("search", INPUTS | {"seed": 2}, lambda progress: b"new")
    assert output.data == b"new"


def test_a_stage_that_fails_is_not_finished() -> None:
    context = RecordingContext()

    def fail(progress: Progress) -> bytes:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        context.run_stage("search", INPUTS, fail)
    assert context.writes == [(start_stage, "search")]
    assert context.store.content == {}


def test_a_finding_is_stored_and_filed() -> None:
    context = RecordingContext()
    assert context.remember("search.measured", "key", lambda: b"found") == b"found"
    assert context.store.content == {"sha-found": b"found"}
    assert context.writes == [(file_finding, "search.measured", "key", "sha-found")]


def test_a_finding_of_an_earlier_attempt_is_not_made_again() -> None:
    context = RecordingContext({"key": StageOutput(b"old", "sha-old")})

    def work() -> bytes:
        raise AssertionError("it was found out again")

    assert context.remember("search.measured", "key", work) == b"old"
    assert context.writes == []
    assert context.remember("search.measured", "another", lambda: b"new") == b"new"


def test_what_fails_is_not_filed() -> None:
    context = RecordingContext()

    def fail() -> bytes:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        context.remember("search.measured", "key", fail)
    assert context.writes == []
    assert context.store.content == {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock the test moves."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(context_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_progress_is_written_sparsely_but_always_at_the_end(clock: SimpleNamespace) -> None:
    context = RecordingContext()
    advance = context.progress("search")
    for done in range(1, 6):
        advance(Standing(done, 6, f"{done} rows"))
        clock.now += PROGRESS_SECONDS / 2.5
    advance(Standing(6, 6, "6 rows", 0.0))
    assert context.writes == [
        (report_progress, "search", 1, 6, "1 rows", None),
        (report_progress, "search", 4, 6, "4 rows", None),  # at 1.2 s
        (report_progress, "search", 6, 6, "6 rows", 0.0),
    ]


def test_what_there_is_to_do_and_the_first_of_it_are_written(clock: SimpleNamespace) -> None:
    context = RecordingContext()
    advance = context.progress("search")
    for done in (0, 0, 2, 3):
        advance(Standing(done, 9))
    assert [write[2] for write in context.writes] == [0, 2]


def test_progress_says_how_long_the_job_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(context_module.time, "monotonic", lambda: now)
    context = RecordingContext()
    advance = context.progress("package")
    now += 10
    advance(Standing(1, 3))
    now += 1
    advance(Standing(2, 3, "", 20.0))
    advance(Standing(3, 3, "", 0.0))
    assert context.estimates == [20.0, 0.0]


def test_a_job_goes_on_after_its_stage(clock: SimpleNamespace) -> None:
    context = RecordingContext()
    advance = context.progress("attribute")
    clock.now += 3
    advance(Standing(1, 3, "", 5.0))
    stages = CorrectionSpec.stages
    known = stages["prepare"] + stages["attribute"]
    assert context.estimates == pytest.approx([5 + 20 / known * (1 - known)])


def test_a_job_with_an_estimate_is_expected_to_keep_to_it(clock: SimpleNamespace) -> None:
    """A job that searches two granularities spends its time otherwise than the usual one."""
    context = RecordingContext()
    stages = {"prepare": 6.0, "attribute": 10.0, "search": 100.0, "validate": 3.0, "package": 1.0}
    context.file_estimate(SimpleNamespace(stages=stages))  # type: ignore[arg-type]
    advance = context.progress("attribute")
    clock.now += 3
    advance(Standing(1, 3, "", 17.0))  # both took twice as long: 12 and 20 seconds
    assert context.estimates == pytest.approx([17 + 2 * (100 + 3 + 1)])


def test_progress_stops_a_cancelled_job(clock: SimpleNamespace) -> None:
    context = RecordingContext()
    advance = context.progress("search")
    advance(Standing(1, 3))
    context.cancelled = True
    advance(Standing(2, 3))  # too soon after the last look
    clock.now += PROGRESS_SECONDS
    with pytest.raises(CancelledJobError):
        advance(Standing(2, 3))
    assert len(context.writes) == 1


def test_skipping_and_publishing_are_recorded() -> None:
    context = RecordingContext()
    context.skip_stage("search", "not needed")
    context.publish_file("report.json", b"{}", "application/json")
    assert context.writes == [
        (skip_stage, "search", "not needed"),
        (attach_artifact, "report.json", "sha-{}", 2, "application/json"),
    ]
