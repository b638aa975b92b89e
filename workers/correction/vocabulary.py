"""The tokens that make a behaviour's responses undesired, and the responses they may come up in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from workers.attribution.targets import TokenMass
from workers.batches import build_batches
from workers.correction.behaviour import BaseModel, Behaviour
from workers.correction.results import Response
from workers.domain import TokenSequence
from workers.families import head_weight

LEAST_PRECISION = 0.25
"""Share of a token's occurrences that must be marked for it to be one of the tokens."""

MOST_ASKED = 8192
"""Tokens whose own score is asked for."""

BATCH_TOKENS = 2048
POSITIONS = 512
"""Positions whose logits exist at one time."""


def learn_token_mass(responses: Iterable[Response]) -> TokenMass | None:
    """Return the tokens that undesired responses are marked at, with their precision as weight.

    A token's precision is the share of its occurrences in all `responses`, undesired or not,
    that are marked. None when no token is precise enough: then it is not single tokens that
    make a response undesired.
    """
    marked: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    for response in responses:
        seen.update(response.token_ids)
        if response.marks:
            pairs = zip(response.token_ids, response.marks, strict=True)
            marked.update(token for token, is_marked in pairs if is_marked)
    return _as_mass(
        {
            token: count / seen[token]
            for token, count in marked.items()
            if count / seen[token] >= LEAST_PRECISION
        }
    )


def find_telling_tokens(
    base: BaseModel, behaviour: Behaviour, samples: Sequence[TokenSequence]
) -> TokenMass | None:
    """Return the tokens that the scorers find undesired by themselves, their mean score as weight.

    The undesired tokens of a few responses are never all there are. Asked are the tokens that
    the model is likeliest to emit anywhere in the responses of `samples`, whether it did or not.
    None without such a token.
    """
    likely = find_likely_tokens(base, samples, MOST_ASKED)
    texts = [base.tokenizer.decode([token]).strip() for token in likely]
    asked = [(token, text) for token, text in zip(likely, texts, strict=True) if text]
    sequences = [[TokenSequence((), (token,))] for token, _ in asked]
    scored = behaviour.score([""] * len(asked), sequences, base.tokenizer)
    weights = {
        token: behaviour.compute_undesiredness([[response]])
        for (token, _), (response,) in zip(asked, scored, strict=True)
        if behaviour.is_undesired(response)
    }
    return _as_mass(weights)


def merge_masses(one: TokenMass | None, other: TokenMass | None) -> TokenMass | None:
    """Return the tokens of both, each with the larger of its weights; None when both are."""
    weights: dict[int, float] = {}
    for mass in (one, other):
        if mass is not None:
            for token, weight in zip(mass.token_ids, mass.weights, strict=True):
                weights[token] = max(weight, weights.get(token, 0.0))
    return _as_mass(weights)


def _as_mass(weights: Mapping[int, float]) -> TokenMass | None:
    ordered = dict(sorted(weights.items()))
    return TokenMass(tuple(ordered), tuple(ordered.values())) if ordered else None


def choose_by_mass(
    base: BaseModel, samples: Sequence[TokenSequence], mass: TokenMass, most: int
) -> tuple[TokenSequence, ...]:
    """Return the `most` samples in whose responses the tokens are likeliest, in their own order.

    The others say next to nothing about the tokens, and cost as much to explain.
    """
    usable = [sample for sample in samples if sample.response_ids]
    masses = compute_masses(base, usable, mass)
    best = sorted(range(len(usable)), key=lambda index: (-masses[index], index))[:most]
    return tuple(usable[index] for index in sorted(best))


def compute_masses(
    base: BaseModel, samples: Sequence[TokenSequence], mass: TokenMass
) -> list[float]:
    """Return for each sample the tokens' weighted probability, summed over its response."""
    device = head_weight(base.model, base.family).device
    ids = torch.tensor(mass.token_ids, device=device)
    weights = torch.tensor(mass.weights, device=device)
    masses = [0.0] * len(samples)
    for owners, probabilities in _predict_responses(base, samples):
        found = (probabilities[:, ids] @ weights).tolist()
        for owner, value in zip(owners, found, strict=True):
            masses[owner] += value
    return masses


def find_likely_tokens(base: BaseModel, samples: Sequence[TokenSequence], most: int) -> list[int]:
    """Return the `most` tokens of largest summed probability over the responses' positions."""
    head = head_weight(base.model, base.family)
    total = torch.zeros(len(head), device=head.device)
    for _, probabilities in _predict_responses(base, samples):
        total += probabilities.sum(dim=0)
    return sorted(total.topk(min(most, len(total))).indices.tolist())


@torch.inference_mode()
def _predict_responses(
    base: BaseModel, samples: Sequence[TokenSequence]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield next-token distributions `(position, vocabulary)` that predict response tokens.

    With each come the samples' indices, one a position.
    """
    head = head_weight(base.model, base.family)
    backbone = base.model.get_submodule(base.family.backbone)
    for batch in build_batches(samples, BATCH_TOKENS, base.pad_id):
        placed = batch.to(next(base.model.parameters()).device)
        hidden = backbone(input_ids=placed.token_ids, use_cache=False).last_hidden_state
        predicts = placed.is_explained.roll(-1, dims=1)
        predicts[:, -1] = False
        owners = [batch.sample_indices[row] for row in predicts.nonzero()[:, 0].tolist()]
        states = hidden[predicts].to(head.device)
        for start in range(0, len(states), POSITIONS):
            part = slice(start, start + POSITIONS)
            yield owners[part], torch.softmax((states[part] @ head.T).float(), dim=-1)
