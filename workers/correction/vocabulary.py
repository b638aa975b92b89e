"""The tokens that make responses of a behaviour undesired, and responses where they are likely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from workers.attribution.targets import TokenMass
from workers.correction.results import Response
from workers.domain import TokenSequence
from workers.models.batches import build_batches
from workers.models.loaded import LoadedModel
from workers.progress import Advance, ignore

LEAST_PRECISION = 0.25
"""A token is one of them if at least this share of its occurrences is marked. Chosen by hand."""

BATCH_TOKENS = 2048
POSITIONS = 512
"""Positions whose logits are held at a time. Chosen by hand; affects memory and time only."""


def learn_token_mass(responses: Iterable[Response]) -> TokenMass | None:
    """Return the tokens marked in undesired responses, with their precision as weight.

    A token's precision is the share of its occurrences in all `responses`, undesired or not, that
    are marked. Returns None if no token is precise enough; responses are then not undesired
    because of single tokens. Reasoning is not judged, so its tokens do not count.
    """
    marked: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    for response in responses:
        seen.update(response.answer_ids)
        if response.marks:
            pairs = zip(response.token_ids, response.marks, strict=True)
            marked.update(token for token, is_marked in pairs if is_marked)
    precise = {
        token: count / seen[token]
        for token, count in sorted(marked.items())
        if count / seen[token] >= LEAST_PRECISION
    }
    return TokenMass(tuple(precise), tuple(precise.values())) if precise else None


def choose_by_mass(
    base: LoadedModel,
    samples: Sequence[TokenSequence],
    mass: TokenMass,
    most: int,
    advance: Advance = ignore,
) -> tuple[TokenSequence, ...]:
    """Return the `most` samples in whose responses the tokens are most probable, in original order.

    The others say next to nothing about the tokens, and cost as much to explain. `advance` is
    called with the number of samples of each batch.
    """
    usable = [sample for sample in samples if sample.response_ids]
    masses = compute_masses(base, usable, mass, advance)
    best = sorted(range(len(usable)), key=lambda index: (-masses[index], index))[:most]
    return tuple(usable[index] for index in sorted(best))


@torch.inference_mode()
def compute_masses(
    base: LoadedModel,
    samples: Sequence[TokenSequence],
    mass: TokenMass,
    advance: Advance = ignore,
) -> list[float]:
    """Return, for each sample, the tokens' weighted probability, summed over its response."""
    head = base.head
    device = head.device
    ids = torch.tensor(mass.token_ids, device=device)
    weights = torch.tensor(mass.weights, device=device)
    masses = [0.0] * len(samples)
    for batch in build_batches(samples, BATCH_TOKENS, base.pad_id):
        placed = batch.to(base.device)
        hidden = base.run(placed.token_ids)
        predicts = placed.is_explained.roll(-1, dims=1)
        predicts[:, -1] = False
        rows = predicts.nonzero()[:, 0].tolist()
        states = hidden[predicts].to(device)
        for start in range(0, len(states), POSITIONS):
            probabilities = torch.softmax(
                (states[start : start + POSITIONS] @ head.T).float(), dim=-1
            )
            found = (probabilities[:, ids] @ weights).tolist()
            for row, value in zip(rows[start : start + POSITIONS], found, strict=True):
                masses[batch.sample_indices[row]] += value
        advance(len(batch.sample_indices))
    return masses
