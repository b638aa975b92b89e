"""What estimates count with is what the engine does: the client's package cannot import it."""

from __future__ import annotations

from excise.estimates import cost, memory
from excise.names import Granularity
from workers.attribution.attribution import BATCH_TOKENS, CPU_BATCH_TOKENS
from workers.attribution.fisher import MOST_ENTRIES, PIECE_TOKENS, ROW_DTYPE
from workers.attribution.segments import MODEL_SHARE
from workers.correction.amounts import MOST_SHARES, find_range
from workers.correction.candidates import POOL_RATIO, REFERENCE_ROWS
from workers.correction.preparation import EXPLORING_DRAWS
from workers.correction.search import DEFAULT_ROUNDS
from workers.kinds.correction.validate import CONTROL_DRAWS
from workers.models.generation import CPU_ROWS


def test_estimates_count_with_the_engine_s_numbers() -> None:
    assert (memory.PASS_TOKENS, memory.CPU_PASS_TOKENS) == (BATCH_TOKENS, CPU_BATCH_TOKENS)
    assert memory.GENERATED_AT_ONCE == CPU_ROWS
    assert memory.SUMS_SHARE == MODEL_SHARE
    assert memory.POOL_RATIO == POOL_RATIO
    assert (memory.REFERENCE_ROWS, memory.MOST_ENTRIES) == (REFERENCE_ROWS, MOST_ENTRIES)
    assert ROW_DTYPE.itemsize == memory.ROW_BYTES
    assert memory.MOST_SHARES == MOST_SHARES
    assert find_range([10, 20], Granularity.WEIGHT, 100, refines=True)[1] == 20 * memory.REFINED
    assert cost.FISHER_TOKENS == REFERENCE_ROWS * PIECE_TOKENS
    assert cost.EXPLORING_DRAWS == EXPLORING_DRAWS
    assert cost.ROUNDS == DEFAULT_ROUNDS
    assert cost.CONTROLS == CONTROL_DRAWS
