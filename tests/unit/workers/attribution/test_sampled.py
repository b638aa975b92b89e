"""The sampled target draws the same tokens for a sample, however the samples are batched."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from excise.names import Attributor, Granularity
from tests.tiny import as_loaded, build_tiny_model, draw_samples
from workers.attribution import targets
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import sum_relevance
from workers.attribution.sums import RelevanceSums, merge_sums
from workers.attribution.targets import Target
from workers.domain import TokenSequence

SAMPLES = draw_samples([(8, 0)] * 4 + [(5, 3)] * 3 + [(12, 0), (3, 1)])


class Drawn:
    """Every token drawn since the last look, by (sample, token)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: dict[tuple[int, int], int] = {}
        self._batch: list[tuple[int, int]] = []
        uniforms, tokens = targets._draw_uniforms, targets._draw_tokens

        def watch_uniforms(seed, batch, positions):
            places = positions.nonzero().tolist()
            self._batch = [(batch.sample_indices[row], token) for row, token in places]
            return uniforms(seed, batch, positions)

        def watch_tokens(probabilities, numbers):
            found = tokens(probabilities, numbers)
            self.tokens |= dict(zip(self._batch, found.tolist(), strict=True))
            return found

        monkeypatch.setattr(targets, "_draw_uniforms", watch_uniforms)
        monkeypatch.setattr(targets, "_draw_tokens", watch_tokens)

    def look(self) -> dict[tuple[int, int], int]:
        found, self.tokens = self.tokens, {}
        return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return Drawn(monkeypatch)


def attribute(
    samples: Sequence[TokenSequence], batch_tokens: int = 1000, first_index: int = 0, model=None
) -> RelevanceSums:
    return sum_relevance(
        as_loaded(model or build_tiny_model(initializer_range=0.05)),
        Attribution(
            Attributor.GRADIENT_X_INPUT, Granularity.NEURON, Target.SAMPLED_LOG_PROBABILITY, seed=5
        ),
        samples,
        Pass(batch_tokens=batch_tokens, first_index=first_index),
    )


def assert_close(found: RelevanceSums, expected: RelevanceSums) -> None:
    for one, other in zip(found.statistics, expected.statistics, strict=True):
        for name, values in other.items():
            atol = 1e-5 * float(values.abs().max())
            torch.testing.assert_close(one[name], values, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("batch_tokens", [1, 16, 40])
def test_batches_of_any_size_draw_the_same(drawn: Drawn, batch_tokens: int) -> None:
    expected = attribute(SAMPLES)
    tokens = drawn.look()
    assert len(set(tokens.values())) > len(tokens) // 3
    assert_close(attribute(SAMPLES, batch_tokens), expected)
    assert drawn.look() == tokens


def test_halves_of_a_batch_that_did_not_fit_draw_the_same(drawn: Drawn) -> None:
    expected = attribute(SAMPLES)
    tokens = drawn.look()
    model = build_tiny_model(initializer_range=0.05)

    def fail(module, gradients, outputs) -> None:
        if outputs[0].shape[0] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    # In the middle of the backward pass: the upper layer's sums are complete already.
    model.model.layers[0].mlp.down_proj.register_full_backward_hook(fail)
    assert_close(attribute(SAMPLES, model=model), expected)
    assert drawn.look() == tokens


def test_shards_that_know_their_place_draw_the_same(drawn: Drawn) -> None:
    expected = attribute(SAMPLES)
    tokens = drawn.look()
    parts = [attribute(SAMPLES[:5]), attribute(SAMPLES[5:], first_index=5)]
    assert_close(merge_sums(parts), expected)
    assert drawn.look() == tokens
    attribute(SAMPLES[5:])  # as if its samples were the first ones
    misplaced = {(sample + 5, token): drawn for (sample, token), drawn in drawn.look().items()}
    assert misplaced != {place: drawn for place, drawn in tokens.items() if place[0] >= 5}
