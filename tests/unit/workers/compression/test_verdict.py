"""The verdict on a compression: a limit is a gate, and without one it passes."""

from __future__ import annotations

import pytest

from excise.names import GateBound, GateGroup, Verdict
from excise.reports.compression import CorpusPerplexity
from workers.compression.verdict import judge_compression


def perplexity(
    before: float = 20.0, after: float = 25.0, corpus: str = "prose"
) -> CorpusPerplexity:
    return CorpusPerplexity(corpus=corpus, context=128, tokens=508, before=before, after=after)


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [(0.25, Verdict.PASSED), (0.2499, Verdict.REJECTED), (0.0, Verdict.REJECTED)],
)
def test_a_limit_is_a_gate(limit: float, verdict: Verdict) -> None:
    found, reason, (gate,) = judge_compression(perplexity(), limit)
    assert found is verdict
    assert gate.passed is (verdict is Verdict.PASSED)
    assert (gate.name, gate.limit, gate.value) == ("perplexity", limit, 0.25)
    assert "20.00 to 25.00 (+25.0%)" in reason
    assert ("over the limit" in reason) is (verdict is Verdict.REJECTED)


def test_without_a_limit_it_passes_and_says_so() -> None:
    verdict, reason, gates = judge_compression(perplexity(after=1e5), None)
    assert (verdict, gates) == (Verdict.PASSED, [])
    assert "no limit was asked for" in reason


def test_a_better_perplexity_is_within_any_limit() -> None:
    assert perplexity(after=19.0).increase == pytest.approx(-0.05)
    assert judge_compression(perplexity(after=19.0), 0.0)[0] is Verdict.PASSED


def test_the_gate_says_what_it_watches_and_what_to_do() -> None:
    _, _, (met,) = judge_compression(perplexity(), 0.3)
    assert (met.group, met.bound, met.unit) == (GateGroup.DAMAGE, GateBound.AT_MOST, "relative")
    assert met.remedy is None
    _, _, (unmet,) = judge_compression(perplexity(), 0.1)
    assert "raise budget.perplexity_increase" in (unmet.remedy or "")
