"""Costly patterns of one tenant keep no other waiting, and nobody's work is done for nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from excise.patterns.searching import Expression
from service.errors import InvalidRequestError, RateLimitedError, UnavailableError
from service.jobs import pattern_lines
from service.jobs.pattern_lines import (
    MAX_CHILDREN,
    MAX_REPEATS,
    FieldPattern,
    PatternLines,
    check_repeats,
)
from service.tenant_lines import MAX_WAITING

GUARD_SECONDS = 30


def build(*patterns: str) -> list[FieldPattern]:
    return [
        FieldPattern(f"behaviours[{index}].pattern", Expression(pattern))
        for index, pattern in enumerate(patterns)
    ]


class Gate:
    """Stands in for the child: it notes what is tried, and keeps it until the gate opens."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.open = threading.Event()

    def __call__(self, expression: Expression) -> None:
        self.tried.append(expression.pattern)
        if not expression.pattern.startswith("quick"):
            assert self.open.wait(GUARD_SECONDS)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(pattern_lines, "check_expression", made)
    yield made
    made.open.set()


async def until_tried(gate: Gate, count: int) -> None:
    async with asyncio.timeout(GUARD_SECONDS):
        while len(gate.tried) < count:
            await asyncio.sleep(0.01)


def stay() -> bool:
    return False


def test_a_tenant_with_many_costly_patterns_keeps_no_other_waiting(gate: Gate) -> None:
    async def run() -> None:
        lines = PatternLines()
        slow = [
            asyncio.ensure_future(lines.check("ten_a", build("slow"), stay))
            for _ in range(2 * MAX_CHILDREN)
        ]
        await until_tried(gate, 1)
        async with asyncio.timeout(GUARD_SECONDS):
            await lines.check("ten_b", build("quick"), stay)
        assert gate.tried == ["slow", "quick"]
        gate.open.set()
        await asyncio.gather(*slow)

    asyncio.run(run())


def test_tenants_take_turns_pattern_by_pattern(gate: Gate) -> None:
    async def run() -> None:
        lines = PatternLines()
        many = [
            asyncio.ensure_future(lines.check(name, build("slow", "quick more"), stay))
            for name in ("ten_a", "ten_b")
        ]
        await until_tried(gate, MAX_CHILDREN)
        late = asyncio.ensure_future(lines.check("ten_c", build("quick"), stay))
        await asyncio.sleep(0.05)
        gate.open.set()
        await asyncio.gather(*many, late)

    asyncio.run(run())
    assert gate.tried.index("quick") < len(gate.tried) - 1


def test_nothing_is_tried_for_a_client_that_has_gone(gate: Gate) -> None:
    async def run() -> None:
        lines = PatternLines()
        left = threading.Event()
        first = asyncio.ensure_future(lines.check("ten_a", build("slow"), stay))
        await until_tried(gate, 1)
        second = asyncio.ensure_future(
            lines.check("ten_a", build("slow too", "slow three"), left.is_set)
        )
        await asyncio.sleep(0.05)
        left.set()
        gate.open.set()
        await first
        with pytest.raises(InvalidRequestError, match="left"):
            await second

    asyncio.run(run())
    assert gate.tried == ["slow"]


def test_a_tenants_line_is_limited(gate: Gate) -> None:
    async def run() -> None:
        lines = PatternLines()
        held = [
            asyncio.ensure_future(lines.check("ten_a", build("slow"), stay))
            for _ in range(MAX_WAITING)
        ]
        await until_tried(gate, 1)
        with pytest.raises(RateLimitedError) as caught:
            await lines.check("ten_a", build("slow"), stay)
        assert caught.value.retry_after_seconds
        gate.open.set()
        await asyncio.gather(*held)

    asyncio.run(run())


def test_a_request_has_limited_time(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern_lines, "MAX_SECONDS", 0.0)
    with pytest.raises(UnavailableError) as caught:
        asyncio.run(PatternLines().check("ten_a", build("quick", "quick"), stay))
    assert caught.value.param == "behaviours[1].pattern"
    assert gate.tried == ["quick"]


@pytest.mark.parametrize(
    ("patterns", "param"),
    [
        (["a{400000}"], "behaviours[0].pattern"),
        (["x", "a{1,60000}", "b{60000}"], "behaviours[2].pattern"),
        (["a{60000,}b{60000,}"], "behaviours[0].pattern"),
        (["a{" + "9" * 900 + "}"], "behaviours[0].pattern"),
    ],
)
def test_counts_are_limited_per_request(gate: Gate, patterns: list[str], param: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{MAX_REPEATS} repetitions") as caught:
        asyncio.run(PatternLines().check("ten_a", build(*patterns), stay))
    assert caught.value.param == param
    assert gate.tried == []


def test_ordinary_counts_pass() -> None:
    check_repeats(build(*[r"(\bas an AI\b.{0,80}){2}|[0-9]{4}-[0-9]{2}|\{[0-9]+\}"] * 8))
