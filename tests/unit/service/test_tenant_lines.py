"""Whoever asks for much keeps only the own requests waiting."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

from service.tenant_lines import TenantLines

GUARD_SECONDS = 30
CALLER: ContextVar[str] = ContextVar("CALLER")


def test_another_tenant_s_work_overtakes_the_line_of_the_first() -> None:
    is_open, done = threading.Event(), []

    def work() -> str:
        if CALLER.get() == "slow":
            assert is_open.wait(GUARD_SECONDS)
        done.append(CALLER.get())
        return CALLER.get()

    async def ask(lines: TenantLines, tenant: str) -> str:
        CALLER.set(tenant)  # a task has variables of its own, and its thread sees them
        async with lines.turn(tenant), lines.place():
            return await lines.run(work)

    async def run() -> list[str]:
        lines = TenantLines(2, "it is done")
        try:
            slow = [asyncio.create_task(ask(lines, "slow")) for _ in range(3)]
            await asyncio.sleep(0)
            async with asyncio.timeout(GUARD_SECONDS):
                quick = await asyncio.create_task(ask(lines, "quick"))
                assert done == ["quick"]
                is_open.set()
                answers = [quick, *await asyncio.gather(*slow)]
                assert not lines._waiting
                assert not lines._lines
                return answers
        finally:
            is_open.set()
            lines.close()

    assert asyncio.run(run()) == ["quick", "slow", "slow", "slow"]
