"""Measuring states of tiny models: what is kept, what fails alone, and what real damage does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from excise.names import Direction, GatedSet
from excise.specs.abilities import AbilitiesGateSpec
from tests.tiny import (
    MODULES,
    NEURONS,
    as_loaded,
    build_tiny_model,
    build_tiny_tokenizer,
    draw_samples,
    select_neurons,
)
from tests.unit.workers.gates.limits import LIMITS
from tests.unit.workers.measuring.test_encodings import swap_tokens
from workers.abilities.catalogue import SLICES
from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import Abilities
from workers.domain import TokenSequence
from workers.families import LLAMA
from workers.gates.abilities import compare_states, judge_abilities
from workers.gates.gates import GateRequest, judge_gates
from workers.measuring.measurement import Baseline, CheckPlan, PromptSet
from workers.measuring.probes import measure_probes
from workers.measuring.state import (
    BehaviourScores,
    ModelState,
    Responses,
    RightAnswers,
    TextDivergences,
    TextLosses,
    Unmeasured,
)
from workers.measuring.text_damage import ReferenceText, compute_perplexity
from workers.measuring.zero_shot_tasks import Choice, Question
from workers.models.encoding import Chat
from workers.models.generation import Decoding
from workers.models.loaded import LoadedModel
from workers.pruning.components import pruned
from workers.scorers.detector import Detector
from workers.scorers.scorer import Answer
from workers.scorers.uniqueness import UniquenessScorer

TOKENIZER = build_tiny_tokenizer()
TEXT = tuple(sample.token_ids for sample in draw_samples([(30, 0)] * 8))
PROMPTS = tuple(
    " ".join(f"w{id_}" for id_ in sample.token_ids) for sample in draw_samples([(6, 0)] * 12)
)
QUESTIONS = tuple(
    Question((Choice(f"w{i} w{i + 1}", f" w{i + 2}"), Choice(f"w{i} w{i + 1}", f" w{i + 9}")), 0)
    for i in range(10)
)
LOOPS = PromptSet(PROMPTS[:4], Decoding(6), chat=False)
PLAN = CheckPlan(
    corpus=TEXT,
    reference=TEXT[:5],
    prompt_sets={GatedSet.GENERAL: PromptSet(PROMPTS, Decoding(10)), "loops": LOOPS},
    zero_shot={"boolq": QUESTIONS},
    behaviours={"loops": Detector((UniquenessScorer(),), 0.5, 1)},
)
ALL_GATES = [
    *(GateRequest(name, LIMITS[name]) for name in ("perplexity", "kl", "uniqueness", "emptiness")),
    *(GateRequest(name, LIMITS[name]) for name in ("shorter", "longer", "diversity")),
    GateRequest("zero_shot", LIMITS["zero_shot"], "boolq"),
    GateRequest("behaviour", LIMITS["behaviour"], "loops"),
]


def subject(seed: int = 0, **changes: object) -> LoadedModel:
    return LoadedModel(build_tiny_model(seed, **changes), TOKENIZER, LLAMA, 0)


class BrokenScorer:
    name = "broken"
    direction = Direction.HIGHER_IS_BETTER

    def __init__(self, scores: Sequence[float] | None) -> None:
        self._scores = scores

    def score(self, answers: Sequence[Answer]) -> list[float]:
        if self._scores is None:
            raise RuntimeError("out of cheese\nand more")
        return list(self._scores)


def failed(state: ModelState, requests: Sequence[GateRequest] = ALL_GATES) -> set[str]:
    baseline = Baseline(PLAN, subject())
    return {
        result.name for result in judge_gates(requests, baseline.state, state) if not result.passed
    }


def count_units(plan: CheckPlan, *, is_base: bool) -> int:
    """What measuring a state reports, as announced."""
    return sum(part.units for part in plan.list_parts("a state", is_base=is_base))


def test_everything_asked_for_is_measured_a_value_a_prompt() -> None:
    units: list[int] = []
    state = Baseline(PLAN, subject(), units.append).measure(subject(), units.append)
    assert isinstance(state.perplexity, TextLosses)
    assert isinstance(state.divergence, TextDivergences)
    general, scores = state.responses[GatedSet.GENERAL], state.behaviours["loops"]
    answers = state.zero_shot["boolq"]
    assert isinstance(general, Responses)
    assert isinstance(scores, BehaviourScores)
    assert isinstance(answers, RightAnswers)
    assert general.prompts == PROMPTS
    assert len(general.texts) == len(general.token_ids) == 12
    assert len(state.perplexity.losses) == 8
    assert len(state.divergence.divergences) == 5
    assert (len(scores.scores), len(answers.right)) == (4, 10)
    assert sum(units) == pytest.approx(
        count_units(PLAN, is_base=True) + count_units(PLAN, is_base=False)
    )


class PositionScorer:
    """Scores a response by its place among those it is scored with."""

    name = "position"
    direction = Direction.LOWER_IS_BETTER

    def __init__(self, shift: float = 0.0) -> None:
        self.asked: list[Answer] = []
        self._shift = shift

    def score(self, answers: Sequence[Answer]) -> list[float]:
        self.asked = list(answers)
        return [self._shift + position for position in range(len(answers))]


def test_several_responses_to_a_prompt_are_summed_up_by_prompt() -> None:
    scorers = (PositionScorer(), PositionScorer(shift=-4))
    drawn = PromptSet(PROMPTS[:2], Decoding(6, 3, 1.0), chat=False, seed=7)
    plan = CheckPlan(prompt_sets={"it": drawn}, behaviours={"it": Detector(scorers, 1, 2)})
    units: list[int] = []
    state = Baseline(plan, subject(), units.append).state
    found, responses = state.behaviours["it"], state.responses["it"]
    assert isinstance(found, BehaviourScores)
    assert isinstance(responses, Responses)
    assert sum(units) == pytest.approx(count_units(plan, is_base=True)) == 6
    assert responses.prompts == (PROMPTS[0],) * 3 + (PROMPTS[1],) * 3
    assert len(set(responses.token_ids)) > 2
    # Scores are 0 … 5 and −4 … 1: both are at 1 or beyond in the last response alone.
    assert (found.scores, found.shown, found.samples) == ((-1.0, 2.0), (0, 1), 3)
    assert found.shares == [0.0, pytest.approx(1 / 3)]
    assert Baseline(plan, subject()).state == state


def test_chats_go_through_the_template_whatever_texts_do() -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} w91 {% endfor %}w92"
    base = LoadedModel(build_tiny_model(), tokenizer, LLAMA, 0)
    chat = Chat((("system", "w1 w2"), ("user", "w3")))
    plan = CheckPlan(
        prompt_sets={
            "chat": PromptSet((chat,), Decoding(8), chat=False),
            "text": PromptSet(("w1 w2 w91 w3 w91 w92",), Decoding(8), chat=False),
            "flat": PromptSet((chat.text,), Decoding(8), chat=False),
        },
    )
    found = Baseline(plan, base).state.responses
    by_chat, by_text, flat = found["chat"], found["text"], found["flat"]
    assert isinstance(by_chat, Responses)
    assert isinstance(by_text, Responses)
    assert isinstance(flat, Responses)
    assert by_chat.token_ids == by_text.token_ids != flat.token_ids
    assert by_chat.prompts == flat.prompts == ("w1 w2\nw3",)


def test_the_same_model_again_meets_every_gate_exactly() -> None:
    base = subject()
    baseline = Baseline(PLAN, base)
    results = judge_gates(ALL_GATES, baseline.state, baseline.measure(base))
    assert all(result.passed for result in results)
    assert {result.value for result in results} == {0.0, 1.0}
    assert baseline.state.divergence is None


def test_nothing_asked_for_is_nothing_measured() -> None:
    baseline = Baseline(CheckPlan(), subject())
    assert baseline.state == baseline.measure(subject()) == ModelState()


def test_pruned_states_are_measured_in_place() -> None:
    base = subject()
    baseline = Baseline(PLAN, base)
    with pruned(base.model, select_neurons({MODULES[0]: range(0, NEURONS, 2)})):
        state = baseline.measure(base)
        expected = compute_perplexity(as_loaded(base.model), draw_samples([(30, 0)] * 8))
    assert isinstance(state.perplexity, TextLosses)
    assert state.perplexity.losses == pytest.approx(expected.losses)
    assert baseline.measure(base) == baseline.measure(base)


def test_many_random_neurons_are_rejected_for_damage() -> None:
    base = subject()
    baseline = Baseline(PLAN, base)
    generator = torch.Generator().manual_seed(5)
    chosen = {
        name: sorted(torch.randperm(NEURONS, generator=generator)[:30].tolist()) for name in MODULES
    }
    with pruned(base.model, select_neurons(chosen)):
        state = baseline.measure(base)
    results = {found.name: found for found in judge_gates(ALL_GATES, baseline.state, state)}
    assert not results["kl"].passed
    assert results["kl"].ci_low is not None
    assert results["kl"].ci_low > results["kl"].limit


def test_a_silenced_model_is_rejected_for_emptiness() -> None:
    end = 100
    base = subject(eos_token_id=end)
    baseline = Baseline(PLAN, base)
    silenced = subject(eos_token_id=end)
    # Whatever the last hidden state is, the head gives the end token the largest logit.
    silenced.model.model.norm.weight.data.zero_()
    silenced.model.lm_head.weight.data.zero_()
    silenced.model.lm_head.register_forward_hook(
        lambda module, inputs, output: output.index_fill(-1, torch.tensor(end), 9.0)
    )
    state = baseline.measure(silenced)
    results = {found.name: found for found in judge_gates(ALL_GATES, baseline.state, state)}
    assert not results["emptiness"].passed
    assert results["emptiness"].after == 1.0
    assert not results["shorter"].passed


@pytest.mark.parametrize("scores", [None, [1.0], [float("nan")] * 4])
def test_one_failure_leaves_the_rest_measured(scores: Sequence[float] | None) -> None:
    plan = CheckPlan(
        corpus=TEXT,
        prompt_sets={
            **PLAN.prompt_sets,
            "empty": PromptSet((), Decoding(5)),
            "long": PromptSet(PROMPTS, Decoding(251)),
        },
        zero_shot={"boolq": ()},
        behaviours={"loops": Detector((BrokenScorer(scores),), 0.5, 1)},
    )
    state = Baseline(plan, subject()).state
    assert isinstance(state.perplexity, TextLosses)
    assert isinstance(state.responses[GatedSet.GENERAL], Responses)
    for lost in (
        state.behaviours["loops"],
        state.responses["empty"],
        state.responses["long"],
        state.zero_shot["boolq"],
    ):
        assert isinstance(lost, Unmeasured)
        assert "\n" not in lost.reason
    assert failed(state) >= {"zero_shot:boolq", "behaviour:loops", "kl"}


def test_a_model_without_sound_weights_is_not_measured_rather_than_passed() -> None:
    base, broken = subject(), subject()
    broken.model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    state = Baseline(PLAN, base).measure(broken)
    assert isinstance(state.perplexity, Unmeasured)
    assert isinstance(state.divergence, Unmeasured)
    assert {"perplexity", "kl", "zero_shot:boolq"} <= failed(state)


def test_a_lack_of_memory_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    base, other = subject(), subject()
    baseline = Baseline(PLAN, base)

    def run_out(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(other.model.model.layers[0], "forward", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        baseline.measure(other)


class StopError(Exception):
    pass


def test_what_the_listener_raises_goes_through() -> None:
    def stop(units: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        Baseline(PLAN, subject(), stop)
    baseline = Baseline(PLAN, subject())
    with pytest.raises(StopError):
        baseline.measure(subject(), stop)


def test_another_vocabulary_makes_figures_per_token_incomparable() -> None:
    first, second = TEXT[0][:2]
    other = swap_tokens(f"w{first}", f"w{second}")
    state = Baseline(PLAN, subject()).measure(LoadedModel(build_tiny_model(), other, LLAMA, 0))
    assert isinstance(state.perplexity, Unmeasured)
    assert isinstance(state.divergence, Unmeasured)
    assert "vocabulary" in state.perplexity.reason
    assert isinstance(state.responses[GatedSet.GENERAL], Responses)
    larger = build_tiny_tokenizer()
    larger.add_tokens(["extra"])  # a larger vocabulary with the same ids is none
    enlarged = LoadedModel(build_tiny_model(), larger, LLAMA, 0)
    for base, judged in ((subject(), enlarged), (enlarged, subject())):
        same = Baseline(PLAN, base).measure(judged)
        assert isinstance(same.divergence, TextDivergences)


def test_text_beyond_the_context_is_not_measured() -> None:
    short = subject(max_position_embeddings=20)
    state = Baseline(CheckPlan(corpus=TEXT, reference=TEXT), short).measure(short)
    assert isinstance(state.perplexity, Unmeasured)
    assert "context 20" in state.perplexity.reason
    assert isinstance(state.divergence, Unmeasured)


def test_another_checkpoint_is_compared_with_its_own_head() -> None:
    base, other = build_tiny_model(0), build_tiny_model(1)
    samples = draw_samples([(20, 0)] * 3)
    damage = ReferenceText(as_loaded(base), samples).measure(as_loaded(other))
    with torch.no_grad():
        parts = []
        for sample in samples:
            ids = torch.tensor([sample.token_ids])
            before = base(ids).logits[0, :-1].log_softmax(-1)
            after = other(ids).logits[0, :-1].log_softmax(-1)
            parts.append((before.exp() * (before - after)).sum(-1))
    expected = torch.cat(parts)
    assert damage.kl_mean == pytest.approx(float(expected.mean()), rel=1e-4)
    assert damage.divergences == pytest.approx([float(part.sum()) for part in parts], rel=1e-4)
    assert damage.lengths == (19, 19, 19)


def test_a_larger_vocabulary_is_fine_and_a_smaller_one_is_not() -> None:
    base = build_tiny_model()
    samples = draw_samples([(20, 0)] * 3)
    enlarged = build_tiny_model(vocab_size=111)
    enlarged.load_state_dict(
        {
            name: torch.cat([weight, torch.zeros_like(weight[:10])])
            if name == "lm_head.weight"
            else torch.cat([weight, weight[:10]])
            if "embed" in name
            else weight
            for name, weight in base.state_dict().items()
        }
    )
    found = ReferenceText(as_loaded(base), samples).measure(as_loaded(enlarged))
    with torch.no_grad():
        ids = torch.tensor([samples[0].token_ids])
        before = base(ids).logits[0, :-1].log_softmax(-1)
        after = enlarged(ids).logits[0, :-1].log_softmax(-1)[:, :101]
    expected = (before.exp() * (before - after)).sum(-1).clamp(min=0)
    assert found.divergences[0] == pytest.approx(float(expected.sum()), rel=1e-4, abs=1e-6)
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens([f"x{index}" for index in range(10)])
    larger = as_loaded(enlarged, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="predicts 101 tokens, the base 111"):
        ReferenceText(larger, samples).measure(as_loaded(base))


# --- abilities ----------------------------------------------------------------------------------


def build_probe(length: int, seed: int = 0) -> EncodedProbe:
    (sample,) = draw_samples([(length - 4, 4)], seed)
    marked = TokenSequence(sample.prompt_ids, sample.response_ids, (True, True, False, True))
    return EncodedProbe(marked, (2, 1))


PROBES = {
    "words": tuple(build_probe(9 + place, place) for place in range(3)),
    "lists": (build_probe(12, 7),),
}
ABLE = CheckPlan(abilities=PROBES)


def test_abilities_are_measured_of_both_states_slice_by_slice() -> None:
    units: list[int] = []
    baseline = Baseline(ABLE, subject(), units.append)
    other = subject(1)
    state = baseline.measure(other, units.append)
    assert sum(units) == 2 * count_units(ABLE, is_base=True) == 8
    for found, own in ((baseline.state, subject()), (state, other)):
        assert isinstance(found.abilities, Abilities)
        assert found.abilities.slices == measure_probes(own, PROBES)
        assert found.abilities.slices["words"].tokens == (2, 1) * 3
    assert ModelState.model_validate_json(state.to_bytes()) == state
    assert Baseline(CheckPlan(), subject()).state.abilities is None


def test_abilities_of_another_vocabulary_are_unmeasured() -> None:
    lost = max(PROBES["lists"][0].sample.token_ids)
    words = {token: id_ for token, id_ in TOKENIZER.get_vocab().items() if id_ != lost}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    other = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0")
    changed = LoadedModel(build_tiny_model(), other, LLAMA, 0)
    baseline = Baseline(ABLE, subject())
    state = baseline.measure(changed)
    assert isinstance(state.abilities, Unmeasured)
    assert "another id" in state.abilities.reason
    gate = judge_abilities(compare_states(SLICES, baseline.state, state, {}, AbilitiesGateSpec()))
    assert not gate.passed
    assert gate.unmeasured


def test_a_checkpoint_of_a_shorter_context_is_not_asked_beyond_it() -> None:
    baseline = Baseline(ABLE, subject())
    assert isinstance(baseline.state.abilities, Abilities)
    state = baseline.measure(subject(max_position_embeddings=11))
    assert isinstance(state.abilities, Unmeasured)
    assert "has 12 tokens, the model's context 11" in state.abilities.reason


def test_figures_that_are_no_numbers_are_no_abilities() -> None:
    broken = subject()
    with torch.no_grad():
        broken.model.lm_head.weight[3] = math.nan
    state = Baseline(ABLE, subject()).measure(broken)
    assert isinstance(state.abilities, Unmeasured)
    assert "not finite" in state.abilities.reason
