"""Probes of abilities: the loss of right continuations, and how often they are first choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import SliceFigures
from workers.models.batches import TokenBatch, build_batches
from workers.models.loaded import LoadedModel
from workers.models.positions import split_positions
from workers.progress import Advance, ignore

BATCH_TOKENS = 1024
"""Padded tokens per batch. On a CPU, 4096 took a quarter more time, partly for padding
(benchmarks/RESULTS.md)."""


def measure_probes(
    subject: LoadedModel,
    slices: Mapping[str, Sequence[EncodedProbe]],
    advance: Advance = ignore,
) -> dict[str, SliceFigures]:
    """Return slice → figures of its items, in order, measured under teacher forcing.

    Greedy decoding writes a continuation exactly if each of its tokens is the model's first
    choice after those before it. Probes of all slices are batched together, by length. `advance`
    is called with the number of probes in each batch.
    """
    probes = [probe for own in slices.values() for probe in own]
    found = [(_NOTHING, _NOTHING)] * len(probes)
    for batch in build_batches([probe.sample for probe in probes], BATCH_TOKENS, subject.pad_id):
        losses, leads, counts = _read(subject, batch)
        parts = zip(batch.sample_indices, losses.split(counts), leads.split(counts), strict=True)
        for index, lost, lead in parts:
            found[index] = lost, lead
        advance(len(batch.sample_indices))
    results = iter(zip(probes, found, strict=True))
    return {name: _collect([next(results) for _ in own]) for name, own in slices.items()}


_NOTHING = torch.empty(0, dtype=torch.float64)


def _collect(
    results: Sequence[tuple[EncodedProbe, tuple[torch.Tensor, torch.Tensor]]],
) -> SliceFigures:
    """Return a slice's figures, one value per item; items without target tokens are left out."""
    items = [
        item
        for probe, (losses, leads) in results
        for item in zip(
            losses.split(list(probe.spans)), leads.split(list(probe.spans)), strict=True
        )
        if len(item[0])
    ]
    return SliceFigures(
        nats=tuple(float(losses.sum()) for losses, _ in items),
        right=tuple(int((leads > 0).sum()) for _, leads in items),
        tokens=tuple(len(losses) for losses, _ in items),
        leads=tuple(float(leads.min()) for _, leads in items),
    )


@torch.inference_mode()
def _read(subject: LoadedModel, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Return the targets' losses and leads, both `(target,)`, and the targets per sample.

    A token's loss is in nats; its lead is its logit minus the best other logit.
    """
    placed = batch.to(subject.device)
    hidden = subject.run(placed.token_ids)
    positions = torch.zeros_like(placed.is_explained)  # True where the next token is a target
    positions[:, :-1] = placed.is_explained[:, 1:]
    states, next_ids = hidden[positions], placed.token_ids.roll(-1, dims=1)[positions]
    head = subject.head
    losses = [states.new_empty(0, dtype=torch.float32)]  # a batch may have no target
    leads = [states.new_empty(0, dtype=torch.float32)]
    for span in split_positions(len(states), head):
        logits = (states[span] @ head.T).float()
        losses.append(functional.cross_entropy(logits, next_ids[span], reduction="none"))
        own = logits.gather(1, next_ids[span, None])
        logits.scatter_(1, next_ids[span, None], -torch.inf)
        leads.append(own[:, 0] - logits.max(dim=-1).values)
    counts = positions.sum(dim=1).tolist()
    return torch.cat(losses).double().cpu(), torch.cat(leads).double().cpu(), counts
