"""The joint effect of removing components on predictions: a row per text, a column per component.

The sum of squared relevance tells what each removal costs by itself. Many removals together mostly
move predictions in the same direction: 16,000 weights of SmolLM2 cost thirteen times the sum of
their single costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from typing import NamedTuple

import torch
from torch import nn

from excise.names import Granularity
from workers.attribution.attribution import choose_batch_tokens
from workers.attribution.composites import GRADIENT, attribution_rules
from workers.attribution.matrices import ChosenPlaces
from workers.attribution.memory import HalvingRunner, OnHalved, Overwritten, log_halved
from workers.attribution.observation import Site, observed_gradients, observed_outputs
from workers.attribution.relevance import predict
from workers.attribution.targets import Target, find_target_positions
from workers.domain import Selection, TokenSequence
from workers.models.batches import TokenBatch, build_batches
from workers.models.loaded import LoadedModel
from workers.progress import Advance, ignore

PIECE_TOKENS = 32
"""Longest piece of text per row, in tokens; 64 took nearly twice the time for no better rows."""

MOST_ROWS = 1024
"""Largest number of rows, which predict the Kullback-Leibler divergence to a few per cent."""

MOST_ENTRIES = 1 << 28
"""Largest number of entries of all rows together, 512 MiB: with more components there are fewer
rows."""

ROW_DTYPE = torch.bfloat16
"""The dtype of rows; they take half the memory of float32. Each number is rounded by at most 0.2 %,
which does not matter: rows predict the change of a sample's lead to within 24 %
(`learn_half_way`). float16 would lose components whose effect is below 6e-8."""

CPU_ROW_TOKENS = 128
"""Padded tokens per batch on the CPU. With 256, a backward pass keeps twice as much (300 MiB for
SmolLM2) and is only about 6 % faster (benchmarks/RESULTS.md)."""

LEAD_SCALE = 3.0
"""If a lead rises by so many logits, its token weighs e times less. Tokens of which SmolLM2 is sure
lead by 5 to 15. Chosen by hand."""


def compute_fisher_rows(
    loaded: LoadedModel,
    components: Selection,
    samples: Sequence[TokenSequence],
    *,
    seed: int = 0,
    most_rows: int = MOST_ROWS,
    batch_tokens: int | None = None,
    advance: Advance = ignore,
    on_halved: OnHalved = log_halved,
) -> torch.Tensor:
    """Return G, `(row, component)` bfloat16 on the CPU: removing m costs ½‖G·m‖² nats a token.

    The cost is KL(base ‖ pruned) to second order; m is 0 or 1 for each of
    `components`, in the order of their modules and indices. A row is the gradient of the summed
    log-likelihood of tokens that the model itself draws for a piece of text, times the values;
    as draws are independent, their outer products add up to the Fisher information (Martens,
    "New insights and perspectives on the natural gradient method", 2020, section 5). If there
    are few pieces, tokens are drawn several times for each. `seed` decides what is drawn. `advance`
    is called with the number of rows of each batch.

    Without components there are no rows. Raises `ValueError` if the samples predict nothing, and
    `SampleTooLargeError`.
    """
    if not len(components):
        return torch.zeros(0, 0, dtype=ROW_DTYPE)
    most = max(1, min(most_rows, MOST_ENTRIES // len(components)))
    pieces = _spread(_cut(samples), most)
    if not pieces:
        raise ValueError("reference text has no sample of two tokens or more")
    draws = most // len(pieces)
    rows = _Rows(loaded, components, draws * len(pieces))

    def step(batch: TokenBatch) -> None:
        rows.fill(batch, range(draws), len(pieces), seed)

    runner: HalvingRunner[TokenBatch] = HalvingRunner(step, rows, on_halved)
    with rows.observed():
        size = _choose_tokens(batch_tokens, loaded)
        for batch in build_batches(pieces, size, loaded.pad_id):
            runner.run(batch)
            advance(draws * len(batch.sample_indices))
    predicted = draws * sum(len(piece.token_ids) - 1 for piece in pieces)
    return rows.values.div_(predicted**0.5)


@dataclass(frozen=True, eq=False)
class MarginRows:
    """The leads of the right tokens of some samples, and what each component adds to them."""

    rows: torch.Tensor
    """`(sample, component)` bfloat16, on the CPU: relevance for the mean lead of a sample's
    explained tokens, weighted by `weigh_leads`, in logits: to first order, what the lead loses if
    the component is removed. If a sample marks no tokens, all predicted ones are explained."""
    leads: tuple[torch.Tensor, ...]
    """For each sample `(token,)` float32: logit of each explained token minus the best other."""


def compute_margin_rows(
    loaded: LoadedModel,
    components: Selection,
    samples: Sequence[TokenSequence],
    *,
    batch_tokens: int | None = None,
    advance: Advance = ignore,
    on_halved: OnHalved = log_halved,
) -> MarginRows:
    """Return how each component supports the lead of the right tokens over the best other ones.

    A row is the gradient of the leads of a sample's explained tokens times the values (gradient
    × input), as a mean over these tokens, weighted by `weigh_leads`. Leads are linear in the last
    hidden states, so they show harm where the likelihood hardly changes: a token that is almost
    certain keeps its probability until its lead is gone. Samples that explain different tokens of
    one text share its forward pass. `advance` is called with the number of samples of each batch.
    Raises `SampleTooLargeError`.
    """
    rows = _Rows(loaded, components, len(samples))
    size = _choose_tokens(batch_tokens, loaded)
    reader = _TextReader(loaded, size, advance, on_halved)
    with rows.observed():
        leads = reader.run(samples, rows.fill_leads, rows)
    return MarginRows(rows.values, leads)


def compute_leads(
    loaded: LoadedModel,
    samples: Sequence[TokenSequence],
    *,
    advance: Advance = ignore,
) -> tuple[torch.Tensor, ...]:
    """Return the leads that `compute_margin_rows` returns, without rows: by forward passes alone.

    Raises `SampleTooLargeError`.
    """
    reader = _TextReader(loaded, _choose_tokens(None, loaded), advance, log_halved)

    def find(batch: TokenBatch, _: Sequence[SharedText]) -> torch.Tensor:
        return _predict_leads(loaded, batch).leads

    with torch.no_grad():
        return reader.run(samples, find, Overwritten())


def _choose_tokens(asked: int | None, loaded: LoadedModel) -> int:
    """Return the padded tokens per batch: `asked`, or the default for the device if it is None."""
    if asked is None and loaded.device.type == "cpu":
        return CPU_ROW_TOKENS
    return choose_batch_tokens(asked, loaded.device)


FindLeads = Callable[[TokenBatch, Sequence["SharedText"]], torch.Tensor]
"""Returns the leads at each explained position of a batch of texts, `(position,)` on the CPU."""


@dataclass(frozen=True)
class _TextReader:
    """Reads texts in batches; all texts of a batch have the same number of samples."""

    loaded: LoadedModel
    batch_tokens: int
    advance: Advance
    on_halved: OnHalved

    def run(
        self, samples: Sequence[TokenSequence], find: FindLeads, results: Overwritten
    ) -> tuple[torch.Tensor, ...]:
        """Return each sample's leads, as `find` reads them text by text; it may fill `results`."""
        leads = [torch.empty(0)] * len(samples)
        for turns, texts in _group_by_samples(unite_texts(samples)).items():
            step = partial(_deal_leads, find, texts, leads)
            runner: HalvingRunner[TokenBatch] = HalvingRunner(step, results, self.on_halved)
            united = [text.united for text in texts]
            for batch in build_batches(united, self.batch_tokens, self.loaded.pad_id):
                runner.run(batch)
                self.advance(turns * len(batch.sample_indices))
        return tuple(leads)


def _group_by_samples(texts: Sequence[SharedText]) -> dict[int, list[SharedText]]:
    """Return number of samples → the texts with so many; each sample takes a backward pass."""
    groups: dict[int, list[SharedText]] = {}
    for text in texts:
        groups.setdefault(len(text.indices), []).append(text)
    return groups


def _deal_leads(
    find: FindLeads, texts: Sequence[SharedText], leads: list[torch.Tensor], batch: TokenBatch
) -> None:
    """Put the leads of all samples of a batch of `texts` in their places."""
    asked = [texts[index] for index in batch.sample_indices]
    found = find(batch, asked)
    counts = find_target_positions(batch).sum(dim=1).tolist()
    for text, part in zip(asked, found.split(counts), strict=True):
        for turn, index in enumerate(text.indices):
            leads[index] = part[text.find_own(turn, len(part))]


class _Predicted(NamedTuple):
    """The predicting states of a batch, and their leads."""

    states: torch.Tensor
    """`(position, hidden)`."""
    directions: torch.Tensor
    """`(position, hidden)`: along it, the right token's logit minus the best other one rises."""
    leads: torch.Tensor
    """`(position,)` float32 on the CPU."""


def _predict_leads(loaded: LoadedModel, batch: TokenBatch) -> _Predicted:
    states, find_directions = predict(loaded, batch)
    directions = find_directions(Target.EMITTED_MINUS_RUNNER_UP, 0)
    leads = (states.detach().float() * directions.float()).sum(dim=-1).cpu()
    return _Predicted(states, directions, leads)


def weigh_leads(leads: torch.Tensor) -> torch.Tensor:
    """Return each token's weight in the mean of a sample's leads; the weights add up to 1.

    They fall exponentially with a lead, `LEAD_SCALE` logits at a time, because a continuation is
    right only if all of its tokens are, and tokens with a small lead are lost first. Every token
    with a negative lead weighs as much as one with lead 0.
    """
    return (-leads.clamp(min=0) / LEAD_SCALE).softmax(dim=0)


@dataclass(frozen=True)
class SharedText:
    """A text, and the samples that explain tokens of it."""

    united: TokenSequence
    """The text, with every token explained that any of the samples explains."""
    indices: tuple[int, ...]
    """The samples' places among all samples."""
    marks: tuple[tuple[bool, ...], ...]
    """For each of the samples, which response tokens it explains; none means all."""

    def find_own(self, turn: int, explained: int) -> torch.Tensor:
        """Return which of the text's `explained` tokens its sample number `turn` explains.

        Samples count from 0; the result is bool `(explained,)`.
        """
        if not any(self.united.is_explained):
            return torch.ones(explained, dtype=torch.bool)
        return torch.tensor(list(compress(self.marks[turn], self.united.is_explained)))

    def weigh(self, turn: int, leads: torch.Tensor) -> torch.Tensor:
        """Return the weight of each of the text's leads in the mean of its sample number `turn`.

        Both are `(explained,)`; tokens that the sample does not explain weigh nothing.
        """
        own = self.find_own(turn, len(leads))
        weights = torch.zeros_like(leads)
        weights[own] = weigh_leads(leads[own])
        return weights


def unite_texts(samples: Sequence[TokenSequence]) -> list[SharedText]:
    """Return each text once, in the order of their first samples.

    Samples share a text if they have the same prompt and response and mark what they explain.
    """
    places: dict[tuple[object, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        alone = () if any(sample.is_explained) else (index,)
        key = (sample.prompt_ids, sample.response_ids, sample.contrast_ids, *alone)
        places.setdefault(key, []).append(index)
    found = []
    for indices in places.values():
        own = [samples[index] for index in indices]
        marks = tuple(sample.is_explained for sample in own)
        united = tuple(map(any, zip(*marks, strict=True)))
        found.append(SharedText(replace(own[0], is_explained=united), tuple(indices), marks))
    return found


def _cut(samples: Sequence[TokenSequence]) -> list[TokenSequence]:
    """Return the samples cut into pieces, without pieces that predict nothing."""
    pieces = [
        TokenSequence(tuple(sample.token_ids[start : start + PIECE_TOKENS]))
        for sample in samples
        for start in range(0, len(sample.token_ids), PIECE_TOKENS)
    ]
    return [piece for piece in pieces if len(piece.token_ids) > 1]


def _spread(pieces: list[TokenSequence], most: int) -> list[TokenSequence]:
    """Return at most `most` of the pieces, evenly spread over all of them."""
    count = min(most, len(pieces))
    return [pieces[number * len(pieces) // count] for number in range(count)]


Reduce = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From values and gradient `(sample, token, feature)` to each chosen component's `(sample, c)`."""


class _Rows(Overwritten):
    """The rows and how they are filled; a batch repeated in halves fills the same rows again."""

    def __init__(self, loaded: LoadedModel, components: Selection, count: int) -> None:
        modules = loaded.find_components(components.granularity)
        self._modules = {name: modules[name] for name in components.indices}
        self._granularity = components.granularity
        self.values = torch.zeros(count, len(components), dtype=ROW_DTYPE)
        self._loaded = loaded
        self._reductions: dict[str, tuple[slice, Reduce]] = {}
        start = 0
        for name, indices in components.indices.items():
            columns = slice(start, start + len(indices))
            self._reductions[name] = columns, self._build_reduction(modules[name], indices)
            start += len(indices)
        self._targets = torch.empty(0, dtype=torch.int64)

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Within the context, backward passes show the components' values and gradients."""
        is_weight = self._granularity is Granularity.WEIGHT
        observe = observed_outputs if is_weight else observed_gradients
        with (
            observe(self._modules, self._see),
            attribution_rules(self._loaded, GRADIENT),
        ):
            yield

    def fill(self, batch: TokenBatch, draws: range, pieces: int, seed: int) -> None:
        """Fill the rows of a batch: one forward pass, and a backward one for every draw."""
        states, find_directions = predict(self._loaded, batch)
        for draw in draws:
            self._targets = torch.tensor(batch.sample_indices) + draw * pieces
            directions = find_directions(Target.SAMPLED_LOG_PROBABILITY, seed * len(draws) + draw)
            torch.autograd.backward([states], [directions], retain_graph=draw < draws[-1])

    def fill_leads(self, batch: TokenBatch, texts: Sequence[SharedText]) -> torch.Tensor:
        """Fill the rows of all samples of a batch of texts: their leads' relevance.

        All texts have the same number of samples. They are read once; there is a backward pass for
        their first samples, one for their second samples, and so on. Return the leads at each
        explained position, `(position,)` on the CPU.
        """
        states, directions, leads = _predict_leads(self._loaded, batch)
        parts = leads.split(find_target_positions(batch).sum(dim=1).tolist())
        turns = len(texts[0].indices)
        for turn in range(turns):
            self._targets = torch.tensor([text.indices[turn] for text in texts])
            pairs = zip(texts, parts, strict=True)
            weights = torch.cat([text.weigh(turn, part) for text, part in pairs])
            asked = directions * weights[:, None].to(directions)
            torch.autograd.backward([states], [asked], retain_graph=turn < turns - 1)
        return leads

    def _see(self, site: Site, values: torch.Tensor, gradient: torch.Tensor) -> None:
        """Keep each piece's relevance of the chosen components of a module."""
        columns, reduce = self._reductions[site.module]
        samples = len(self._targets)
        found = reduce(
            values.float().view(samples, -1, values.shape[-1]),
            gradient.float().view(samples, -1, gradient.shape[-1]),
        )
        self.values[:, columns][self._targets] = found.to("cpu", ROW_DTYPE)

    def _build_reduction(self, module: nn.Module, indices: torch.Tensor) -> Reduce:
        if self._granularity is Granularity.WEIGHT:
            return _reduce_weights(module, indices)
        heads = self._loaded.heads if self._granularity is Granularity.HEAD else None
        return _reduce_features(indices, heads)


def _reduce_weights(module: nn.Module, indices: torch.Tensor) -> Reduce:
    """Return the reduction for weights: W[o, i] · Σ over tokens of input[i] · gradient[o]."""
    places = ChosenPlaces(module, indices)
    own = places.read().float()

    def reduce(values: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return places.multiply(values, gradient) * own

    return reduce


def _reduce_features(indices: torch.Tensor, heads: int | None) -> Reduce:
    """Return the reduction for neurons or heads: Σ over tokens (and a head) of value · gradient."""

    def reduce(values: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        relevance = (values * gradient).sum(dim=1)
        if heads is not None:
            relevance = relevance.unflatten(-1, (heads, -1)).sum(dim=-1)
        return relevance[:, indices.to(relevance.device)]

    return reduce
