"""Which single weights a search may prune: the same however many layers are computed at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from excise.names import Attributor, Granularity, Score
from tests.tiny import draw_samples
from tests.tiny_families import SETTINGS
from tests.unit.workers.attribution.test_segments import LAYERS, build_model
from tests.unit.workers.correction.cases import (
    FunctionScorer,
    build_behaviour,
    build_outcome,
    respond_with,
)
from tests.unit.workers.kinds.correction.correction_inputs import (
    FakeContext,
    FakeInputs,
    build_prepared,
    build_slice,
    build_spec,
)
from workers.attribution.attributors import compute_relevance
from workers.attribution.contrastive import (
    BehaviourRelevance,
    ContrastiveRelevance,
    parse_relevance,
    serialise_relevance,
)
from workers.correction.candidates import POOL_RATIO
from workers.correction.results import PreparedBehaviour, PreparedCorrection
from workers.correction.shortlist import Shortlisting
from workers.domain import GeneralCost, Selection, TokenSequence
from workers.kinds.correction import attribute, weights
from workers.kinds.correction.subjects import combine_contrast, list_subjects
from workers.progress import Counter, Progress, Standing, ignore, pass_over
from workers.pruning.ranking import rank_components
from workers.pruning.scoring import combine_benefits, compute_floor, compute_scores, sum_positive
from workers.running.context import CancelledJobError
from workers.stages.context import StageOutput

WEIGHT = Granularity.WEIGHT
MOST = 100
SIZE = POOL_RATIO * MOST


@pytest.fixture(autouse=True)
def _keep_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few beside a tiny model's weights."""
    monkeypatch.setattr(weights, "LEAST_KEPT", 1)


def build_inputs(model: PreTrainedModel, behaviours: int = 2, **changes: Any) -> FakeInputs:
    """A job that prunes at most `MOST` single weights of a model."""
    spec: dict[str, Any] = {
        "attribution": {"granularity": "weight"},
        "search": {"amounts": [10, MOST]},
        "serving": {"max_rank": None},  # so that the best of all weights are kept
    }
    for name, own in changes.pop("spec", {}).items():
        spec[name] = spec.get(name, {}) | own
    scorer = FunctionScorer()
    return FakeInputs(
        tuple(build_behaviour(scorer, name=f"b{number}") for number in range(behaviours)),
        build_spec(**spec),
        model,  # type: ignore[arg-type]
        granularities=(WEIGHT,),
        **changes,
    )


def build_prompts(inputs: FakeInputs) -> PreparedCorrection:
    """Undesired responses to each behaviour's prompts; some have clean ones, too."""
    clean = respond_with(0.0, ids=(5, 6, 7))
    behaviours = []
    for number, behaviour in enumerate(inputs.behaviours):
        outcomes = [
            build_outcome(
                "", [respond_with(1.0, ids=sample.response_ids)], prompt_ids=sample.prompt_ids
            )
            for sample in draw_samples([(n, 5) for n in (9, 4, 7)], seed=number + 1)
        ]
        outcomes[0] = outcomes[0].model_copy(update={"screened": (clean,) if number else ()})
        behaviours.append(PreparedBehaviour(name=behaviour.name, prompts=tuple(outcomes)))
    counts = inputs.base.count_components(WEIGHT)
    prepared = build_prepared(*behaviours, protection=[build_slice()])
    return prepared.model_copy(update={"components": {WEIGHT: sum(counts.values())}})


def shortlist(
    inputs: FakeInputs,
    prepared: PreparedCorrection,
    context: FakeContext | None = None,
    progress: Progress = pass_over,
) -> ContrastiveRelevance:
    own: Any = inputs
    plan = weights.build_plan(own, prepared)
    given: Any = context or FakeContext()
    counter = Counter(progress, plan.list_parts(inputs.base.layers))
    return weights.shortlist(given, own, plan, "key", counter)


def compute_dense(inputs: FakeInputs, prepared: PreparedCorrection) -> ContrastiveRelevance:
    """The relevance of every weight, from plain passes."""
    own: Any = inputs
    subjects = {subject.key: subject for subject in list_subjects(own, prepared, WEIGHT)}
    answers = {
        key: compute_relevance(inputs.base, subject.ask(inputs.spec.seed), subject.samples)
        for key, subject in subjects.items()
    }
    return combine_contrast(answers, subjects, WEIGHT)


def rank_dense(dense: ContrastiveRelevance, score: Score) -> Selection:
    """The best weights by a score of them all."""
    benefits = [own.compute_benefit(own.undesired) for own in dense.behaviours]
    scores = compute_scores(dense.general, combine_benefits(benefits), score)
    return rank_components(scores, WEIGHT, SIZE).top(SIZE)


def list_places(selection: Selection) -> set[tuple[str, int]]:
    return {(name, place) for name, own in selection.indices.items() for place in own.tolist()}


def places_of(found: ContrastiveRelevance) -> set[tuple[str, int]]:
    assert found.shortlist is not None
    return list_places(found.shortlist.components)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_best_of_all_weights_are_found_in_any_number_of_segments(name: str) -> None:
    inputs = build_inputs(build_model(name))
    prepared = build_prompts(inputs)
    dense = compute_dense(inputs, prepared)
    expected = rank_dense(dense, Score.BENEFIT_DAMAGE)
    found = [shortlist(replace(inputs, segments=count), prepared) for count in (1, 2, LAYERS)]
    for own in found:
        assert own.shortlist is not None
        assert len(own.shortlist.components) == SIZE
        # Equal scores apart, rounding may exchange a few at the end.
        assert len(places_of(own) & list_places(expected)) >= SIZE - 3
        floor = compute_floor(dense.general, Score.BENEFIT_DAMAGE)
        assert own.shortlist.floor == pytest.approx(floor, rel=1e-4)
        scales = [sum_positive(each.compute_benefit(each.undesired)) for each in dense.behaviours]
        assert own.shortlist.scales == pytest.approx(scales, rel=1e-4)
        assert len(places_of(own) & places_of(found[0])) >= SIZE - 1
    assert_values(found[0], dense)


def assert_values(found: ContrastiveRelevance, dense: ContrastiveRelevance) -> None:
    """What is kept of each weight is what plain passes say of it."""
    assert found.shortlist is not None
    at = dense.take(dict(found.shortlist.components.indices))
    assert isinstance(found.general, GeneralCost)
    assert isinstance(at.general, GeneralCost)
    pairs = [
        (found.general.first_order, at.general.first_order),
        (found.general.fisher, at.general.fisher),
    ]
    for mine, theirs in zip(found.behaviours, at.behaviours, strict=True):
        pairs += [(mine.undesired, theirs.undesired), (mine.clean, theirs.clean)]
    assert found.behaviours[1].clean
    assert not found.behaviours[0].clean
    for one, other in pairs:
        assert list(one) == list(other)
        for name, values in other.items():
            scale = max(float(values.abs().max()), 1e-12)
            torch.testing.assert_close(one[name], values, rtol=4e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_moe"])
def test_bfloat16_models_keep_the_same_weights_in_any_number_of_segments(name: str) -> None:
    inputs = build_inputs(build_model(name).bfloat16())
    prepared = build_prompts(inputs)
    found = [
        places_of(shortlist(replace(inputs, segments=count), prepared)) for count in (1, 2, LAYERS)
    ]
    for own in found[1:]:
        assert len(own & found[0]) >= SIZE - 3


@pytest.mark.parametrize("score", ["benefit_cost", "signed_difference"])
@pytest.mark.parametrize("attributor", [Attributor.ATTNLRP, Attributor.WANDA, Attributor.MAGNITUDE])
def test_other_scores_are_ranked_the_same_way(score: str, attributor: Attributor) -> None:
    spec = {"attribution": {"score": score}}
    inputs = build_inputs(build_model("llama"), attributor=attributor, spec=spec)
    prepared = build_prompts(inputs)
    expected = rank_dense(compute_dense(inputs, prepared), Score(score))
    for count in (1, 3):
        found = shortlist(replace(inputs, segments=count), prepared)
        assert len(places_of(found) ^ list_places(expected)) <= 6


def test_a_single_behaviour_is_weighed_against_nothing() -> None:
    inputs = build_inputs(build_model("llama"), behaviours=1)
    prepared = build_prompts(inputs)
    found = shortlist(inputs, prepared)
    assert found.shortlist is not None
    assert found.shortlist.scales == ()
    expected = rank_dense(compute_dense(inputs, prepared), Score.BENEFIT_DAMAGE)
    assert len(places_of(found) & list_places(expected)) >= SIZE - 3


class Killed(Exception):
    """The worker died."""


@pytest.mark.parametrize("count", [1, 2, LAYERS])
def test_a_job_killed_in_the_middle_goes_on_after_the_last_finished_segment(count: int) -> None:
    inputs = build_inputs(build_model("llama"), segments=LAYERS)
    prepared = build_prompts(inputs)
    expected = shortlist(inputs, prepared)
    context = FakeContext()

    def kill(standing: Standing) -> None:
        if standing.message.startswith("segment 3") and " 0 of" not in standing.message:
            raise Killed

    with pytest.raises(Killed):
        shortlist(inputs, prepared, context, kill)
    assert len(context.memory) == 1  # what was saved last, and nothing else
    # Whoever takes it up may have memory for more layers at once, or for fewer.
    seen: list[Standing] = []
    later = replace(inputs, segments=count)
    found = shortlist(later, prepared, context, seen.append)
    left = len([segment for segment in range(count) if segment * LAYERS // count < LAYERS - 2])
    begun = [one.message for one in seen if " 0 of" in one.message]
    assert {one.partition(":")[0] for one in begun[1:]} == {
        f"segment {count - number} of {count}" for number in range(left)
    }
    assert seen[-1].done == seen[-1].total
    assert places_of(found) == places_of(expected)
    assert_values(found, compute_dense(inputs, prepared))


class StageRunner(FakeContext):
    """A job's memory that also runs a stage."""

    def run_stage(self, name: str, inputs: Any, work: Any) -> StageOutput:
        """Its result, and how far it said it came."""
        self.told: list[tuple[int, int]] = []
        return StageOutput(
            work(lambda standing: self.told.append((standing.done, standing.total))), f"sha-{name}"
        )


def run_stage(inputs: FakeInputs, prepared: PreparedCorrection, context: StageRunner) -> bytes:
    own: Any = context
    given: Any = inputs
    return attribute.run(own, given, prepared, StageOutput(b"", "sha-prepare")).data


def test_the_stage_hands_on_the_shortlist_and_forgets_its_segments() -> None:
    inputs = build_inputs(build_model("llama"), segments=3)
    prepared, context = build_prompts(inputs), StageRunner()
    data = run_stage(inputs, prepared, context)
    names = {WEIGHT: list(inputs.base.count_components(WEIGHT))}
    found = parse_relevance(data, names)[WEIGHT]
    expected = shortlist(inputs, prepared)
    assert places_of(found) == places_of(expected)
    assert found.shortlist is not None
    assert expected.shortlist is not None
    assert found.shortlist.scales == expected.shortlist.scales
    assert found.modules == expected.modules
    assert context.memory == {}
    done, total = context.told[-1]
    assert done == total > 0
    assert [one[0] for one in context.told] == sorted(one[0] for one in context.told)
    assert len(data) < 80 * SIZE + 20_000  # of the pool's size, whatever the model's


def test_a_cancelled_stage_stops_between_two_batches() -> None:
    inputs = build_inputs(build_model("llama"), segments=3)
    prepared, context = build_prompts(inputs), FakeContext(looks_left=2)

    def look(standing: Standing) -> None:
        context.check_cancelled()

    with pytest.raises(CancelledJobError):
        shortlist(inputs, prepared, context, look)


def test_new_responses_are_explained_at_the_kept_places() -> None:
    inputs: Any = build_inputs(build_model("gpt2"))
    found = shortlist(inputs, build_prompts(inputs))
    assert found.shortlist is not None
    places = {WEIGHT: found.shortlist.components}
    undesired = [TokenSequence((1, 2), (3, 4, 5), (False, True, False))]
    mine = attribute.answer_undesired(inputs, places, WEIGHT, 0, undesired, None, ignore)
    theirs = attribute.answer_undesired(inputs, {}, WEIGHT, 0, undesired, None, ignore)
    assert list(mine) == list(found.modules)
    for name, indices in found.shortlist.components.indices.items():
        expected = theirs[name].flatten()[indices]
        torch.testing.assert_close(mine[name], expected, rtol=1e-3, atol=1e-6)


def test_few_are_pruned_from_many(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: Any = build_inputs(build_model("llama"))
    prepared = build_prompts(inputs)
    assert weights.build_plan(inputs, prepared).size == SIZE
    monkeypatch.setattr(weights, "LEAST_KEPT", SIZE + 1)
    assert weights.build_plan(inputs, prepared).size == SIZE + 1


def test_where_nothing_has_a_benefit_nothing_is_kept() -> None:
    inputs = build_inputs(build_model("llama"), behaviours=1)
    own: Any = inputs
    prepared = build_prompts(inputs)
    modules = tuple(inputs.base.find_components(WEIGHT))
    chosen = Shortlisting(Score.BENEFIT_DAMAGE, SIZE, modules)
    dense = compute_dense(own, prepared)
    for values in dense.behaviours[0].undesired.values():
        values.clamp_(max=0)
    chosen.add_layer(0, dense)
    found = chosen.finish()
    assert places_of(found) == set()
    again = Shortlisting(Score.BENEFIT_DAMAGE, SIZE, modules)
    again.restore(chosen.to_bytes())
    assert places_of(again.finish()) == set()
    assert len(again.finish().behaviours) == 1


def test_a_kept_weight_takes_few_bytes_in_the_store() -> None:
    generator = torch.Generator().manual_seed(0)
    first_order, fisher, undesired = torch.randn(3, 1000, 1000, generator=generator)
    dense = ContrastiveRelevance(
        GeneralCost({"down": first_order}, {"down": fisher.square()}, 1, 1),
        (BehaviourRelevance({"down": undesired}, {}),),
    )
    chosen = Shortlisting(Score.BENEFIT_DAMAGE, 20_000, ("down",))
    chosen.add_layer(0, dense)
    stored = serialise_relevance({WEIGHT: chosen.finish()})
    kept = parse_relevance(stored, {WEIGHT: ("down",)})[WEIGHT]
    assert len(places_of(kept)) == 20_000
    assert len(stored) < 8 * 20_000  # three figures and an index are 16 bytes
