"""Paired batches of task rows, and the task metric of a model run on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from excise.names import CircuitMetric
from workers.attribution.memory import (
    HalvingRunner,
    Overwritten,
    Results,
    log_halved,
)
from workers.circuits.tasks import TaskRow
from workers.models.loaded import LoadedModel

OVERWRITTEN = Overwritten()


@dataclass(frozen=True)
class RowBatch:
    """Right-padded rows. With causal attention no real token sees a pad, so no mask is needed."""

    rows: tuple[TaskRow, ...]
    clean_ids: torch.Tensor
    """`(row, token)`."""
    corrupted_ids: torch.Tensor
    """`(row, token)`, aligned with `clean_ids`."""
    is_token: torch.Tensor
    """`(row, token)`, True at real tokens, False at pads."""
    last: torch.Tensor
    """`(row,)`: index of each row's last real token."""
    sample_indices: tuple[int, ...]
    """Position of each row in the sequence of all rows."""

    @property
    def token_ids(self) -> torch.Tensor:
        """The clean prompts; their size is the size of the batch."""
        return self.clean_ids

    def halves(self) -> tuple[RowBatch, RowBatch]:
        """Return the first and second half of the rows, each padded only to its own longest row.

        Raises `ValueError` for a batch of one row.
        """
        count = len(self.rows)
        if count < 2:
            raise ValueError("one row cannot be halved; shorten it")
        return self._cut(0, count // 2), self._cut(count // 2, count)

    def _cut(self, start: int, stop: int) -> RowBatch:
        longest = int(self.last[start:stop].max()) + 1
        return RowBatch(
            self.rows[start:stop],
            self.clean_ids[start:stop, :longest],
            self.corrupted_ids[start:stop, :longest],
            self.is_token[start:stop, :longest],
            self.last[start:stop],
            self.sample_indices[start:stop],
        )


def run_row_batches(
    loaded: LoadedModel,
    rows: Sequence[TaskRow],
    batch_tokens: int,
    step: Callable[[RowBatch], None],
    results: Results[RowBatch] = OVERWRITTEN,
) -> None:
    """Run `step` on batches of all rows; if memory runs out, repeat the batch in halves.

    `results` says what a repeated batch must skip; by default it writes everything again.
    Raises `SampleTooLargeError` if a single row does not fit in memory.
    """
    runner = HalvingRunner(step, results, log_halved)
    for batch in build_row_batches(rows, batch_tokens, loaded):
        runner.run(batch)


def build_row_batches(
    rows: Sequence[TaskRow], batch_tokens: int, loaded: LoadedModel
) -> Iterator[RowBatch]:
    """Yield batches of at most `batch_tokens` padded tokens (but at least one row), longest first.

    Batches are on the model's device. Their order depends on the input only.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].clean_ids), i))
    start = 0
    while start < len(order):
        longest = len(rows[order[start]].clean_ids)
        chosen = order[start : start + max(1, batch_tokens // longest)]
        yield _pad([rows[index] for index in chosen], tuple(chosen), loaded)
        start += len(chosen)


def _pad(rows: Sequence[TaskRow], indices: tuple[int, ...], loaded: LoadedModel) -> RowBatch:
    device = loaded.device
    lengths = torch.tensor([len(row.clean_ids) for row in rows], device=device)
    longest = int(lengths.max())

    def pad(sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        padded = [[*ids, *[loaded.pad_id] * (longest - len(ids))] for ids in sequences]
        return torch.tensor(padded, device=device)

    return RowBatch(
        rows=tuple(rows),
        clean_ids=pad([row.clean_ids for row in rows]),
        corrupted_ids=pad([row.corrupted_ids for row in rows]),
        is_token=torch.arange(longest, device=device) < lengths[:, None],
        last=lengths - 1,
        sample_indices=indices,
    )


def compute_last_states(
    loaded: LoadedModel, token_ids: torch.Tensor, last: torch.Tensor
) -> torch.Tensor:
    """Return the hidden states after the final norm at each row's last token, `(row, hidden)`."""
    hidden: torch.Tensor = loaded.run(token_ids)
    return hidden[torch.arange(len(last), device=last.device), last]


def compute_metric(
    loaded: LoadedModel, states: torch.Tensor, rows: Sequence[TaskRow], metric: CircuitMetric
) -> torch.Tensor:
    """Return the metric of each row, `(row,)` float32, from its last state, `(row, hidden)`."""
    logits = loaded.model.get_submodule(loaded.family.head)(states).float()
    values = logits
    if metric is CircuitMetric.PROBABILITY_DIFFERENCE:
        values = torch.softmax(logits, dim=-1)
    right = [_gather(values[index], row.answer_ids, metric) for index, row in enumerate(rows)]
    wrong = [_gather(values[index], row.wrong_ids, metric) for index, row in enumerate(rows)]
    return torch.stack(right) - torch.stack(wrong)


def _gather(values: torch.Tensor, ids: Sequence[int], metric: CircuitMetric) -> torch.Tensor:
    chosen = values[torch.tensor(ids, dtype=torch.long, device=values.device)]
    return chosen.sum() if metric is CircuitMetric.PROBABILITY_DIFFERENCE else chosen.mean()


def compute_metric_directions(
    loaded: LoadedModel, states: torch.Tensor, rows: Sequence[TaskRow], metric: CircuitMetric
) -> torch.Tensor:
    """Return the metric's gradient with respect to the last states, `(row, hidden)`.

    Relevance of "right rather than wrong answer" starts from it. For the logit difference it is
    W[right] − W[wrong] of the unembedding; for probabilities, the linearised softmax.
    """
    with torch.enable_grad():
        leaf = states.detach().requires_grad_()
        total = compute_metric(loaded, leaf, rows, metric).sum()
        (directions,) = torch.autograd.grad(total, [leaf])
    return directions


@torch.no_grad()
def measure_rows(
    loaded: LoadedModel,
    rows: Sequence[TaskRow],
    metric: CircuitMetric,
    *,
    corrupted: bool = False,
    batch_tokens: int = 1024,
) -> torch.Tensor:
    """Return the model's metric on each clean (or corrupted) row, `(row,)` float32 on the CPU."""
    values = torch.empty(len(rows))

    def step(batch: RowBatch) -> None:
        token_ids = batch.corrupted_ids if corrupted else batch.clean_ids
        states = compute_last_states(loaded, token_ids, batch.last)
        measured = compute_metric(loaded, states, batch.rows, metric)
        values[list(batch.sample_indices)] = measured.cpu()

    run_row_batches(loaded, rows, batch_tokens, step)
    return values
