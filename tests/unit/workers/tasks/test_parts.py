"""Stages cut into shards: every sample once, each shard knowing its place among all samples."""

from __future__ import annotations

from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tiny import build_tiny_model, draw_samples
from workers.attribution.attributors import Attributor
from workers.attribution.contrastive import Side
from workers.attribution.sums import merge_sums, parse_sums
from workers.correction.behaviour import Behaviour, Headline, Marking
from workers.correction.results import (
    PreparedBehaviour,
    PreparedCorrection,
    PromptOutcome,
    ReferenceSplit,
    Response,
)
from workers.domain import Granularity
from workers.families import LLAMA
from workers.pruning.scoring import Score
from workers.tasks import attribute
from workers.tasks.compression import compress
from workers.tasks.compression.results import Measured, PreparedCompression
from workers.validation.generation import Decoding
from workers.validation.scorers.uniqueness import UniquenessScorer

LENGTHS = (9, 4, 7, 7, 3, 8, 2)


def prepare_correction() -> PreparedCorrection:
    texts = tuple(sample.token_ids for sample in draw_samples([(n, 0) for n in LENGTHS]))
    prompts = tuple(
        PromptOutcome(
            prompt="",
            prompt_ids=sample.prompt_ids,
            held_out=False,
            screened=(),
            triggering=True,
            responses=(Response(text="", token_ids=sample.response_ids, scores=(0.1,)),),
        )
        for sample in draw_samples([(n, 5) for n in LENGTHS], seed=1)
    )
    return PreparedCorrection(
        model_sha256="",
        components={},
        behaviours=(PreparedBehaviour(name="loops", prompts=prompts),),
        reference=ReferenceSplit(attribute=texts, tune=(), held_out=()),
        corpus=(),
        too_weak=None,
    )


def test_a_part_knows_where_among_its_question_s_samples_it_begins(monkeypatch) -> None:
    monkeypatch.setattr(attribute, "SHARD_TOKENS", 12)
    spec = SimpleNamespace(attribution=SimpleNamespace(score=Score.BENEFIT_DAMAGE.value))
    behaviour = Behaviour(
        name="loops",
        kind="repetition",
        decoding=Decoding(5),
        scorers=(UniquenessScorer(),),
        threshold=0.5,
        agreeing=1,
        headline=Headline.MEAN_SCORE,
        min_effect=0.1,
        marking=Marking.REPEATED,
    )
    inputs: Any = SimpleNamespace(
        attributor=Attributor.ATTNLRP,
        spec=spec,
        behaviours=(behaviour,),
        granularities=(Granularity.NEURON, Granularity.HEAD),
    )
    prepared = prepare_correction()
    parts = attribute.cut_parts(inputs, prepared)
    sides = (Side.LOSS, Side.DIVERGENCE, Side.UNDESIRED)
    for granularity, side in product(inputs.granularities, sides):
        own = [
            part
            for part in parts
            if part.subject.granularity is granularity and part.subject.question.side is side
        ]
        assert len(own) > 2
        assert own[0].first_index == 0
        for one, following in pairwise(own):
            assert following.first_index == one.first_index + len(one.samples)
        samples = [sample.token_ids for part in own for sample in part.samples]
        undesired = [
            outcome.prompt_ids + outcome.responses[0].token_ids
            for outcome in prepared.behaviours[0].prompts
        ]
        expected = undesired if side is Side.UNDESIRED else list(prepared.reference.attribute)
        assert samples == expected


def prepare_compression(method: str) -> tuple[Any, PreparedCompression]:
    spec = SimpleNamespace(
        method=method,
        statistic="mean_absolute",
        pattern="unstructured",
        target_sparsity=0.5,
        sequential=False,
        seed=0,
    )
    checkpoint = SimpleNamespace(model=build_tiny_model(), pad_id=0)
    samples = draw_samples([(n + 1, 0) for n in LENGTHS])
    prepared = PreparedCompression(
        model_sha256="",
        calibration=tuple(sample.token_ids for sample in samples),
        corpus=(),
        before=Measured(perplexity=1.0, tokens=1, tasks={}),
    )
    return SimpleNamespace(spec=spec, checkpoint=checkpoint, family=LLAMA), prepared


@pytest.mark.parametrize("method", ["attnlrp", "gradient_x_input"])
def test_a_compression_s_shards_add_up(monkeypatch, method: str) -> None:
    inputs, prepared = prepare_compression(method)
    whole = compress.build_work(inputs, prepared)
    assert whole.sizes == (len(LENGTHS),)
    monkeypatch.setattr(compress, "SHARD_TOKENS", 16)
    shared = compress.build_work(inputs, prepared)
    assert len(shared.sizes) > 2
    assert sum(shared.sizes) == len(LENGTHS)
    counted: list[int] = []
    results = [shared.compute(index, counted.append) for index in range(len(shared.sizes))]
    assert sum(counted) == len(LENGTHS)
    found = merge_sums([parse_sums(data) for data in results])
    expected = parse_sums(whole.compute(0, counted.append))
    for name, values in expected.absolute_sums.items():
        torch.testing.assert_close(found.absolute_sums[name], values, rtol=1e-4, atol=1e-5)
