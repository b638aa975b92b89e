"""The verdict on a compression: its gate, and the sentence that says why."""

from __future__ import annotations

from excise.names import Verdict
from excise.reports.compression import CorpusPerplexity
from excise.reports.gates import GateResult
from workers.gates.remedies import judge_with_remedy
from workers.gates.rows import Figure
from workers.gates.table import COMPRESSED_PERPLEXITY


def judge_compression(
    perplexity: CorpusPerplexity, limit: float | None
) -> tuple[Verdict, str, list[GateResult]]:
    """Return the verdict on a compression, the sentence that explains it, and its gates.

    `limit` is the largest allowed relative increase of the corpus's perplexity; without a limit
    every compression passes.
    """
    cost = (
        f"Perplexity of the corpus {perplexity.corpus} goes from {perplexity.before:.2f} to "
        f"{perplexity.after:.2f} ({perplexity.increase:+.1%})"
    )
    if limit is None:
        return Verdict.PASSED, f"{cost}; no limit was asked for.", []
    gate = judge_with_remedy(COMPRESSED_PERPLEXITY, limit, Figure(perplexity.increase))
    if gate.passed:
        return Verdict.PASSED, f"{cost}, within the limit of {limit:+.1%}.", [gate]
    return Verdict.REJECTED, f"{cost}, over the limit of {limit:+.1%}.", [gate]
