"""Stages cut into shards: every sample once, each shard knowing its place among all samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from excise.names import Attributor, Granularity
from excise.specs import CircuitSpec
from tests.tiny import MODULES, as_loaded, build_tiny_model, draw_samples
from tests.unit.workers.correction.cases import (
    GREEDY,
    FunctionScorer,
    build_behaviour,
    build_outcome,
    respond_with,
)
from tests.unit.workers.kinds.correction.correction_inputs import (
    FakeInputs,
    build_prepared,
    build_slice,
)
from workers.attribution.attribution import Attribution
from workers.attribution.attributors import compute_relevance
from workers.attribution.contrastive import Side
from workers.attribution.sums import merge_sums, parse_sums
from workers.attribution.targets import Target
from workers.correction.results import PreparedBehaviour, PreparedCorrection, PromptOutcome
from workers.domain import GeneralCost, TokenSequence
from workers.kinds.circuit import discover
from workers.kinds.compression import compress
from workers.kinds.compression.results import Measured, PreparedCompression
from workers.kinds.correction import attribute
from workers.progress import ignore
from workers.stages.context import StageOutput

LENGTHS = (9, 4, 7, 7, 3, 8, 2)


TUNE = tuple(
    build_outcome("", [respond_with(1.0, ids=sample.response_ids)], prompt_ids=sample.prompt_ids)
    for sample in draw_samples([(n, 5) for n in LENGTHS], seed=1)
)


def build_inputs(**changes: Any) -> FakeInputs:
    """Two behaviours: one greedy, one sampled, whose second prompt got a clean response too."""
    scorer = FunctionScorer()
    behaviours = (
        build_behaviour(scorer, name="greedy", decoding=GREEDY),
        build_behaviour(scorer, name="sampled"),
    )
    return FakeInputs(behaviours, **changes)


def build_two() -> PreparedCorrection:
    clean = respond_with(0.0, ids=(5, 6, 7))
    second = TUNE[1].model_copy(update={"screened": (clean,)})
    held_out = TUNE[0].model_copy(update={"held_out": True})
    return build_prepared(
        PreparedBehaviour(name="greedy", prompts=(held_out, *TUNE)),
        PreparedBehaviour(name="sampled", prompts=(TUNE[0], second)),
    )


def sequences_of(outcomes: Sequence[PromptOutcome]) -> list[tuple[int, ...]]:
    return [outcome.prompt_ids + outcome.responses[0].token_ids for outcome in outcomes]


def test_a_part_knows_where_among_its_question_s_samples_it_begins(monkeypatch) -> None:
    monkeypatch.setattr(attribute, "SHARD_TOKENS", 12)
    prepared = build_two()
    parts = attribute.cut_parts(build_inputs(), prepared)  # type: ignore[arg-type]
    general = list(prepared.reference.attribute)
    expected = {
        (None, Side.LOSS): general,
        (None, Side.DIVERGENCE): general,
        (0, Side.UNDESIRED): sequences_of(TUNE),
        (1, Side.UNDESIRED): sequences_of(TUNE[:2]),
        (1, Side.CLEAN): [(*TUNE[1].prompt_ids, 5, 6, 7)],
    }
    keys = [(part.subject.behaviour, part.subject.question.side) for part in parts]
    assert list(dict.fromkeys(keys)) == list(expected)
    for key, samples in expected.items():
        own = [part for part, its in zip(parts, keys, strict=True) if its == key]
        assert len(own) == len(samples) or key[0] is None
        assert own[0].first_index == 0
        for one, following in pairwise(own):
            assert following.first_index == one.first_index + len(one.samples)
        assert [sample.token_ids for part in own for sample in part.samples] == samples


@pytest.mark.parametrize("attributor", [Attributor.RANDOM, Attributor.MAGNITUDE])
def test_what_reads_no_samples_is_not_asked_of_clean_ones(attributor: Attributor) -> None:
    inputs = build_inputs(attributor=attributor)
    parts = attribute.cut_parts(inputs, build_two())  # type: ignore[arg-type]
    assert Side.CLEAN not in {part.subject.question.side for part in parts}


def compute_direct(
    inputs: FakeInputs,
    granularity: Granularity,
    samples: Sequence[TokenSequence],
    explained: int,
) -> dict[str, torch.Tensor]:
    """Summed relevance of responses over a number of explained tokens."""
    relevance = compute_relevance(
        inputs.base,
        Attribution(inputs.attributor, granularity, Target.EMITTED_MINUS_RUNNER_UP),
        samples,
    )
    return {name: values * relevance.tokens / explained for name, values in relevance.mean.items()}


def test_shards_add_up_to_the_relevance_of_every_behaviour_and_granularity(monkeypatch) -> None:
    monkeypatch.setattr(attribute, "SHARD_TOKENS", 12)
    granularities = (Granularity.NEURON, Granularity.HEAD)
    inputs: Any = build_inputs(granularities=granularities)
    parts = attribute.cut_parts(inputs, build_two())
    work = attribute.build_work(inputs, build_two())
    counts: list[int] = []
    found = attribute.combine(
        parts, [work.compute(place, counts.append) for place in range(len(parts))]
    )
    assert sum(counts) == sum(work.sizes)
    undesired = [
        TokenSequence(outcome.prompt_ids, outcome.responses[0].token_ids) for outcome in TUNE
    ]
    clean = [TokenSequence(TUNE[1].prompt_ids, (5, 6, 7))]
    for kind in granularities:
        greedy, sampled = found[kind].behaviours
        expected = (
            (greedy.undesired, compute_direct(inputs, kind, undesired, 5 * len(TUNE))),
            (sampled.undesired, compute_direct(inputs, kind, undesired[:2], 10)),
            (sampled.clean, compute_direct(inputs, kind, clean, 3)),
        )
        for mine, theirs in expected:
            for name, values in theirs.items():
                torch.testing.assert_close(mine[name], values, rtol=1e-3, atol=1e-5)
        assert greedy.clean == {}
        assert found[kind].general.tokens == 28


def read_general(inputs: Any, prepared: PreparedCorrection) -> GeneralCost:
    parts = attribute.cut_parts(inputs, prepared)
    work = attribute.build_work(inputs, prepared)
    found = attribute.combine(parts, [work.compute(n, ignore) for n in range(len(parts))])
    general = found[Granularity.NEURON].general
    assert isinstance(general, GeneralCost)
    return general


def test_what_protected_slices_lose_counts_with_the_reference_text_token_by_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attribute, "SHARD_TOKENS", 12)
    inputs: Any = build_inputs()
    prepared = build_two()
    plain = read_general(inputs, prepared)
    words, lists = build_slice("words"), build_slice("lists", seed=9)
    guarded = read_general(inputs, prepared.model_copy(update={"protection": (words, lists)}))
    samples = [one.to_sequence() for own in (words, lists) for one in own.learn]
    loss = compute_relevance(
        inputs.base,
        Attribution(
            Attributor.GRADIENT_X_INPUT, Granularity.NEURON, Target.EMITTED_LOG_PROBABILITY
        ),
        samples,
    )
    reference = sum(map(len, prepared.reference.attribute))
    assert reference != loss.tokens
    for name in MODULES:
        expected = plain.first_order[name] + loss.mean[name] * (loss.tokens / reference)
        torch.testing.assert_close(guarded.first_order[name], expected, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(guarded.first_order[name], plain.first_order[name])
        # The divergence is that of the reference text alone.
        torch.testing.assert_close(guarded.fisher[name], plain.fisher[name])


def answer(inputs: FakeInputs, samples: Sequence[TokenSequence]) -> dict[str, torch.Tensor]:
    return attribute.answer_undesired(
        inputs,  # type: ignore[arg-type]
        {},
        Granularity.NEURON,
        0,
        samples,
        None,
        ignore,
    )


def test_relevance_is_averaged_over_the_tokens_that_are_explained() -> None:
    inputs = build_inputs()
    (sample,) = draw_samples(((9, 10),), 4)
    flags = tuple(place in (2, 7) for place in range(10))
    marked = TokenSequence(sample.prompt_ids, sample.response_ids, flags)
    expected = compute_direct(inputs, Granularity.NEURON, [marked], 2)
    found = answer(inputs, [marked])
    # Once more the same says the same, and a response explained whole weighs by its tokens.
    whole = compute_direct(inputs, Granularity.NEURON, [sample], 10)
    twice, both = answer(inputs, [marked, marked]), answer(inputs, [marked, sample])
    for name in MODULES:
        torch.testing.assert_close(found[name], expected[name])
        torch.testing.assert_close(twice[name], expected[name])
        mixed = (2 * expected[name] + 10 * whole[name]) / 12
        torch.testing.assert_close(both[name], mixed, rtol=1e-3, atol=1e-5)


def test_what_explains_nothing_is_averaged_over_all_tokens() -> None:
    inputs = build_inputs(attributor=Attributor.ACTIVATION)
    (sample,) = draw_samples(((9, 10),), 4)
    flags = tuple(place in (2, 7) for place in range(10))
    marked = answer(inputs, [TokenSequence(sample.prompt_ids, sample.response_ids, flags)])
    plain = answer(inputs, [sample])
    for name in MODULES:
        torch.testing.assert_close(marked[name], plain[name])


def prepare_compression(method: str) -> tuple[Any, PreparedCompression]:
    spec = SimpleNamespace(
        method=method,
        statistic="mean_absolute",
        pattern="unstructured",
        target_sparsity=0.5,
        sequential=False,
        seed=0,
    )
    samples = draw_samples([(n + 1, 0) for n in LENGTHS])
    prepared = PreparedCompression(
        model_sha256="",
        calibration=tuple(sample.token_ids for sample in samples),
        corpus=(),
        before=Measured(perplexity=1.0, tokens=1, tasks={}),
    )
    return SimpleNamespace(spec=spec, base=as_loaded(build_tiny_model())), prepared


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


class Finished:
    """A job whose every stage has a stored result."""

    def run_stage(self, name: str, inputs: Any, work: Any) -> StageOutput:
        return StageOutput(b"stored", f"sha-{name}")


def refuse(*_: Any) -> None:
    raise AssertionError("work was built for a stage that is done")


def test_nothing_is_built_for_a_stage_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribute, "cut_parts", refuse)
    monkeypatch.setattr(discover, "build_work", refuse)
    context: Any = Finished()
    upstream = StageOutput(b"", "sha-prepare")
    inputs: Any = build_inputs()
    attributed = attribute.run(context, inputs, build_two(), upstream)
    assert attributed == StageOutput(b"stored", "sha-attribute")
    spec = CircuitSpec(kind="circuit", model="tiny", task="ioi")
    circuit: Any = SimpleNamespace(spec=spec)
    prepared: Any = None
    assert discover.run(context, circuit, prepared, upstream).sha256 == "sha-discover"
