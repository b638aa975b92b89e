"""What estimates count with is what the engine does: the client's package cannot import it."""

from __future__ import annotations

from excise.estimates import cost
from workers.attribution.attribution import BATCH_TOKENS, CPU_BATCH_TOKENS
from workers.attribution.fisher import PIECE_TOKENS
from workers.attribution.segments import MODEL_SHARE
from workers.correction.candidates import POOL_SHARE, REFERENCE_ROWS
from workers.correction.preparation import EXPLORING_DRAWS
from workers.correction.search import DEFAULT_ROUNDS
from workers.kinds.correction.validate import CONTROL_DRAWS


def test_estimates_count_with_the_engine_s_numbers() -> None:
    assert (cost.PASS_TOKENS, cost.CPU_PASS_TOKENS) == (BATCH_TOKENS, CPU_BATCH_TOKENS)
    assert cost.SUMS_SHARE == MODEL_SHARE
    assert cost.POOL_SHARE == POOL_SHARE
    assert cost.FISHER_TOKENS == REFERENCE_ROWS * PIECE_TOKENS
    assert cost.EXPLORING_DRAWS == EXPLORING_DRAWS
    assert cost.ROUNDS == DEFAULT_ROUNDS
    assert cost.CONTROLS == CONTROL_DRAWS
