"""What removing single weights does to predictions together: rows of the Fisher information.

The sum of squared relevance tells what each removal costs by itself. Many at a time mostly move
predictions the same way: 16,000 weights of SmolLM2 cost thirteen times the sum of their own costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from workers.attribution.accumulation import FoldKey
from workers.attribution.attributors import BATCH_TOKENS
from workers.attribution.composites import GRADIENT, attribution_rules
from workers.attribution.memory import HalvingRunner, OnHalved, log_halved
from workers.attribution.observation import Site, observed_outputs
from workers.attribution.relevance import predict
from workers.attribution.targets import Target
from workers.batches import TokenBatch, build_batches
from workers.domain import Granularity, Selection, TokenSequence
from workers.families import Family, find_components, is_transposed, linear_weight
from workers.progress import Advance, ignore

PIECE_TOKENS = 32
"""Longest piece of text that one row is about; 64 cost nearly twice the time for no better rows."""

MOST_ROWS = 1024
"""Rows; the Kullback-Leibler divergence that they predict is good to a few per cent."""

MOST_ENTRIES = 1 << 28
"""Of all rows together, 1 GiB: with more weights there are fewer rows."""

COLUMNS_AT_ONCE = 4096
"""Weights of a module of which the products at every token exist at one time."""


def compute_fisher_rows(
    model: nn.Module,
    family: Family,
    weights: Selection,
    samples: Sequence[TokenSequence],
    pad_id: int,
    *,
    seed: int = 0,
    most_rows: int = MOST_ROWS,
    batch_tokens: int = BATCH_TOKENS,
    advance: Advance = ignore,
    on_halved: OnHalved = log_halved,
) -> torch.Tensor:
    """Return float32 `(row, weight)` G, on the CPU, of which ½‖G·m‖² is the cost of removing m.

    The cost is KL(base ‖ pruned) to second order, nats a token; m is 0 or 1 for each of
    `weights`, in the order of their modules and indices. A row is the gradient of the summed
    log-likelihood of tokens that the model itself draws for a piece of text, times the weights;
    as draws are independent, their outer products add up to the Fisher information (Martens,
    "New insights and perspectives on the natural gradient method", 2020, section 5). Pieces are
    drawn for several times where there are few. `seed` decides what is drawn. `advance` is called
    with the number of rows of each batch.

    Without weights there are no rows. Raises `ValueError` where nothing is predicted,
    `SampleTooLargeError`.
    """
    if not len(weights):
        return torch.zeros(0, 0)
    most = max(1, min(most_rows, MOST_ENTRIES // len(weights)))
    pieces = _spread(_cut(samples), most)
    if not pieces:
        raise ValueError("reference text has no sample of two tokens or more")
    draws = most // len(pieces)
    rows = _Rows(model, family, weights, draws * len(pieces))
    runner = HalvingRunner(
        lambda batch: rows.add(batch, range(draws), len(pieces), seed), rows, on_halved
    )
    with observed_outputs(rows.modules, rows.see), attribution_rules(model, family, GRADIENT):
        for batch in build_batches(pieces, batch_tokens, pad_id):
            runner.run(batch)
            advance(draws * len(batch.sample_indices))
    predicted = draws * sum(len(piece.token_ids) - 1 for piece in pieces)
    return rows.values.div_(predicted**0.5)


def _cut(samples: Sequence[TokenSequence]) -> list[TokenSequence]:
    """Return the samples in pieces that predict something."""
    pieces = [
        TokenSequence(tuple(sample.token_ids[start : start + PIECE_TOKENS]))
        for sample in samples
        for start in range(0, len(sample.token_ids), PIECE_TOKENS)
    ]
    return [piece for piece in pieces if len(piece.token_ids) > 1]


def _spread(pieces: list[TokenSequence], most: int) -> list[TokenSequence]:
    """Return at most `most` of the pieces, from everywhere among them."""
    count = min(most, len(pieces))
    return [pieces[number * len(pieces) // count] for number in range(count)]


class _Rows:
    """The rows, and what fills them; a batch that is repeated in halves fills the same again."""

    folded: frozenset[FoldKey] = frozenset()

    def __init__(self, model: nn.Module, family: Family, weights: Selection, count: int) -> None:
        modules = find_components(model, family, Granularity.WEIGHT)
        self.modules: Mapping[str, nn.Module] = {name: modules[name] for name in weights.indices}
        self.values = torch.zeros(count, len(weights))
        self._model, self._family = model, family
        self._places: dict[str, tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        start = 0
        for name, indices in weights.indices.items():
            weight = linear_weight(modules[name]).detach()
            chosen = indices.to(weight.device)
            first, second = chosen // weight.shape[1], chosen % weight.shape[1]
            outputs, inputs = (second, first) if is_transposed(modules[name]) else (first, second)
            columns = slice(start, start + len(indices))
            self._places[name] = (columns, outputs, inputs, weight[first, second].float())
            start += len(indices)
        self._targets = torch.empty(0, dtype=torch.int64)

    def begin(self, skipped: frozenset[FoldKey]) -> None:
        """Nothing is added up, so nothing need be skipped."""

    def end(self, batch: TokenBatch) -> None:
        """Nothing is counted either."""

    def add(self, batch: TokenBatch, draws: range, pieces: int, seed: int) -> None:
        """Fill the rows of a batch: one forward pass, and a backward one for every draw."""
        states, find_directions = predict(self._model, self._family, batch)
        for draw in draws:
            self._targets = torch.tensor(batch.sample_indices) + draw * pieces
            directions = find_directions(Target.SAMPLED_LOG_PROBABILITY, seed * len(draws) + draw)
            torch.autograd.backward([states], [directions], retain_graph=draw < draws[-1])

    def see(self, site: Site, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Keep each piece's gradient of the chosen weights of a module, times the weights."""
        columns, left, right, weight = self._places[site.module]
        samples = len(self._targets)
        gradient = gradient.float().view(samples, -1, gradient.shape[-1])
        inputs = inputs.float().view(samples, -1, inputs.shape[-1])
        for start in range(0, len(weight), COLUMNS_AT_ONCE):
            part = slice(start, start + COLUMNS_AT_ONCE)
            products = (gradient[:, :, left[part]] * inputs[:, :, right[part]]).sum(dim=1)
            target = self.values[:, columns][:, part]
            target[self._targets] = (products * weight[part]).cpu()
