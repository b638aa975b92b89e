"""Guards of protected slices, which tell a ranking how much each slice would lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from workers.attribution.fisher import compute_leads, compute_margin_rows, unite_texts
from workers.correction.protection import list_learned
from workers.correction.results import ProtectedSlice, SliceDamage
from workers.domain import Selection, TokenSequence
from workers.models.loaded import LoadedModel
from workers.progress import Advance
from workers.pruning.components import pruned
from workers.pruning.joint_ranking import MarginGuard

LEAST_LIMIT = 1e-6
"""Used in place of a limit of 0, so that shares of it are finite."""

ENDS = "ends of texts"
"""Name of the guard of places where texts might end."""

NEAR_ENDS = 4
"""Number of places in each text that the guard of its ends watches. Chosen by hand."""

ENDS_NATS_RISE = 0.005
"""Largest predicted rise of log(1 + exp(−lead over the end)) at those places, nats. It was 0.044,
nine times as much, in the fine-tune of benchmarks/RESULTS.md, "Answers that end where the phrase
stood". Without this guard 27 of 70 continuations ended within 40 tokens, with it 14, and 12 in the
base. Other values were not tried."""

HALF_WAY = 0.5
"""Factor by which components are multiplied half-way to their removal."""


def guard_slices(
    base: LoadedModel,
    components: Selection,
    protection: Sequence[ProtectedSlice],
    limits: Mapping[str, SliceDamage],
    advance: Advance,
) -> tuple[MarginGuard, ...]:
    """Return a guard for each protected slice, based on the leads of its right tokens.

    `limits` maps each slice to what the search may let it lose.
    """
    if not len(components):
        return ()
    return tuple(
        _guard_slice(base, components, own, limits[own.name], advance) for own in protection
    )


def _guard_slice(
    base: LoadedModel,
    components: Selection,
    own: ProtectedSlice,
    limit: SliceDamage,
    advance: Advance,
) -> MarginGuard:
    """Return a slice's guard."""
    found = compute_margin_rows(base, components, list_learned([own]), advance=advance)
    return MarginGuard(
        name=own.name,
        limit=max(limit.nats_rise, LEAST_LIMIT),
        fall_limit=max(limit.accuracy_fall, LEAST_LIMIT),
        rows=found.rows,
        leads=found.leads,
        edges=find_edges(own, found.leads),
    )


def guard_ends(
    base: LoadedModel,
    components: Selection,
    written: Sequence[TokenSequence],
    end: int,
    advance: Advance,
) -> MarginGuard:
    """Return a guard of where texts that the model `written` itself might have ended.

    It watches the leads over the token `end` at the `NEAR_ENDS` places of each text where they are
    smallest, and is needed where answers are made to end more easily. The likelihood of a text
    hardly shows this: if the end has a chance of two in a hundred instead of one after a full stop,
    the text loses a hundredth of a nat, but it ends twice as often.
    """
    samples = [_hold_against(own, end, (True,) * len(own.response_ids)) for own in written]
    leads = compute_leads(base, samples, advance=advance)
    near = [
        _hold_against(own, end, _mark_smallest(found))
        for own, found in zip(written, leads, strict=True)
    ]
    found = compute_margin_rows(base, components, near, advance=advance)
    return MarginGuard(
        name=ENDS,
        limit=ENDS_NATS_RISE,
        fall_limit=1.0,
        rows=found.rows,
        leads=found.leads,
        edges=torch.stack([own.min() for own in found.leads]),
    )


def _hold_against(text: TokenSequence, end: int, marks: tuple[bool, ...]) -> TokenSequence:
    """Return the text with its marked tokens explained in contrast to the end."""
    return replace(text, is_explained=marks, contrast_ids=(end,) * len(marks))


def _mark_smallest(leads: torch.Tensor) -> tuple[bool, ...]:
    """Return which tokens have the `NEAR_ENDS` smallest leads."""
    nearest = set(leads.argsort()[:NEAR_ENDS].tolist())
    return tuple(number in nearest for number in range(len(leads)))


def learn_half_way(
    base: LoadedModel,
    components: Selection,
    own: ProtectedSlice,
    guard: MarginGuard,
    chosen: Selection,
    advance: Advance,
) -> MarginGuard:
    """Return a slice's guard with rows that hold half-way from the base model to pruning `chosen`.

    `guard` may be based on fewer samples than the slice now has; the leads of all are then read.
    Half-way, `chosen`, which must be among `components`, are multiplied by ½. The rows are still
    for the removal of whole components. Summed over `chosen`, they tell what leads lose by it to
    second order, by the midpoint rule for the integral of gradients along the way (Sundararajan et
    al. 2017, equation 1). For the first selection of the demo's job, they missed each sample's
    change by 0.24 logits, and the base model's rows by 0.56, where leads changed by 1.5
    (benchmarks/RESULTS.md).
    """
    samples = list_learned([own])
    if len(guard.leads) < len(samples):
        leads = compute_leads(base, samples, advance=advance)
        guard = replace(guard, leads=leads, edges=find_edges(own, leads))
    with pruned(base.model, chosen, scale=HALF_WAY):
        rows = compute_margin_rows(base, components, samples, advance=advance).rows
    rows[:, components.mark(chosen)] /= HALF_WAY
    return replace(guard, rows=rows)


def find_edges(own: ProtectedSlice, leads: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the smallest lead of each item of a slice, `(item,)`; above 0, the item is right.

    `leads` are those of the slice's samples, each of which may mark only some tokens of a probe.
    """
    edges = []
    for text in unite_texts([sample.to_sequence() for sample in own.learn]):
        whole = torch.empty(sum(text.united.is_explained))
        for turn, index in enumerate(text.indices):
            whole[text.find_own(turn, len(whole))] = leads[index]
        spans = own.learn[text.indices[0]].spans
        edges += [part.min() for part in whole.split(spans) if len(part)]
    return torch.stack(edges)
