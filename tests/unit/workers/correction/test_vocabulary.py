"""Undesired tokens: how precise each is, and where they are likely to come."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.tiny import draw_samples
from tests.unit.workers.correction.cases import base_of, respond_with
from workers.attribution.targets import TokenMass
from workers.correction import vocabulary
from workers.correction.results import Response
from workers.correction.vocabulary import choose_by_mass, compute_masses, learn_token_mass
from workers.domain import TokenSequence

MASS = TokenMass((3, 60), (1.0, 0.5))
SAMPLES = draw_samples(((5, 4), (2, 9), (7, 1), (1, 3)), 8)


def marked(ids: tuple[int, ...], *marks: int) -> Response:
    return respond_with(1.0, ids=ids).model_copy(update={"marks": tuple(map(bool, marks))})


def test_precision_is_the_share_of_occurrences_that_are_marked() -> None:
    responses = [
        marked((1, 2, 3), 0, 1, 1),
        marked((2, 4), 1, 0),
        respond_with(0.0, ids=(2, 3, 1, 5)),
        respond_with(0.0, ids=(3, 3)),
    ]
    # Token 2: 2 of 3; token 3: 1 of 4; the others are never marked.
    assert learn_token_mass(responses) == TokenMass((2, 3), (2 / 3, 0.25))
    more = [*responses, respond_with(0.0, ids=(3,))]
    assert learn_token_mass(more) == TokenMass((2,), (2 / 3,))  # 1 of 5 is too few


def test_without_a_telling_token_there_is_no_mass() -> None:
    assert learn_token_mass([]) is None
    assert learn_token_mass([respond_with(0.9, ids=(1, 2))]) is None
    assert learn_token_mass([marked((1,), 1), respond_with(0.0, ids=(1,) * 4)]) is None


def compute_slowly(model: LlamaForCausalLM, sample: TokenSequence) -> float:
    """The weighted probability before each response token, one sample at a time."""
    with torch.no_grad():
        logits = model(torch.tensor([sample.token_ids])).logits[0].double()
    start = len(sample.prompt_ids) - 1
    rows = torch.softmax(logits, dim=-1)[start : start + len(sample.response_ids)]
    return float((rows[:, 3] + 0.5 * rows[:, 60]).sum())


@pytest.mark.parametrize(("batch_tokens", "positions"), [(2048, 512), (10, 3), (1, 1)])
def test_masses_are_those_of_each_response_alone(
    model: LlamaForCausalLM,
    monkeypatch: pytest.MonkeyPatch,
    batch_tokens: int,
    positions: int,
) -> None:
    monkeypatch.setattr(vocabulary, "BATCH_TOKENS", batch_tokens)
    monkeypatch.setattr(vocabulary, "POSITIONS", positions)
    found = compute_masses(base_of(model), SAMPLES, MASS)
    assert found == pytest.approx([compute_slowly(model, one) for one in SAMPLES], rel=1e-3)


def test_the_likeliest_responses_are_chosen_in_their_own_order(model: LlamaForCausalLM) -> None:
    base = base_of(model)
    masses = compute_masses(base, SAMPLES, MASS)
    best = sorted(sorted(range(4), key=lambda index: -masses[index])[:2])
    silent = TokenSequence((1, 2), ())
    chosen = choose_by_mass(base, [silent, *SAMPLES], MASS, 2)
    assert chosen == tuple(SAMPLES[index] for index in best)
    assert choose_by_mass(base, [silent, *SAMPLES], MASS, 9) == tuple(SAMPLES)
