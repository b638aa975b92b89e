"""What a model gives right continuations: nats a token, and how many are its first choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import SliceFigures
from workers.batches import TokenBatch, build_batches
from workers.families import head_weight
from workers.progress import Advance, ignore
from workers.validation.subject import Subject

POSITIONS_AT_ONCE = 512
"""Positions whose whole next-token distribution is held in memory at a time."""

BATCH_TOKENS = 4096
"""Padded tokens a batch."""


def measure_probes(
    subject: Subject,
    slices: Mapping[str, Sequence[EncodedProbe]],
    advance: Advance = ignore,
) -> dict[str, SliceFigures]:
    """Return slice → figures of its items, in their order, under teacher forcing.

    Greedy decoding writes a continuation exactly where each of its tokens is the first choice
    after the ones before it. Probes of all slices are batched by length together. `advance` is
    called with the number of probes of each batch.
    """
    probes = [probe for own in slices.values() for probe in own]
    found: list[tuple[torch.Tensor, torch.Tensor]] = [_NOTHING] * len(probes)
    for batch in build_batches([probe.sample for probe in probes], BATCH_TOKENS, subject.pad_id):
        losses, hits, counts = _read(subject, batch)
        parts = zip(batch.sample_indices, losses.split(counts), hits.split(counts), strict=True)
        for index, lost, hit in parts:
            found[index] = lost, hit
        advance(len(batch.sample_indices))
    results = iter(zip(probes, found, strict=True))
    return {name: _collect([next(results) for _ in own]) for name, own in slices.items()}


_NOTHING = (torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.bool))


def _collect(
    results: Sequence[tuple[EncodedProbe, tuple[torch.Tensor, torch.Tensor]]],
) -> SliceFigures:
    """Return a slice's figures item by item; an item without tokens of its own is left out."""
    nats, right, tokens = [], [], []
    for probe, (losses, hits) in results:
        spans = list(probe.spans)
        for lost, hit in zip(losses.split(spans), hits.split(spans), strict=True):
            if len(lost):
                nats.append(float(lost.sum()))
                right.append(int(hit.sum()))
                tokens.append(len(lost))
    return SliceFigures(nats=tuple(nats), right=tuple(right), tokens=tuple(tokens))


@torch.inference_mode()
def _read(subject: Subject, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Return each target token's loss and whether it is the first choice, and targets a sample."""
    model, family = subject.model, subject.family
    placed = batch.to(next(model.parameters()).device)
    backbone = model.get_submodule(family.backbone)
    hidden = backbone(input_ids=placed.token_ids, use_cache=False).last_hidden_state
    positions = torch.zeros_like(placed.is_explained)  # that predict a target
    positions[:, :-1] = placed.is_explained[:, 1:]
    states, next_ids = hidden[positions], placed.token_ids.roll(-1, dims=1)[positions]
    head = head_weight(model, family)
    losses = [states.new_empty(0, dtype=torch.float32)]  # a batch may have no target
    hits = [states.new_empty(0, dtype=torch.bool)]
    for start in range(0, len(states), POSITIONS_AT_ONCE):
        span = slice(start, start + POSITIONS_AT_ONCE)
        logits = (states[span] @ head.T).float()
        losses.append(functional.cross_entropy(logits, next_ids[span], reduction="none"))
        hits.append(logits.argmax(dim=-1) == next_ids[span])
    counts = positions.sum(dim=1).tolist()
    return torch.cat(losses).double().cpu(), torch.cat(hits).cpu(), counts
