"""Gates on models that reason before they answer: what is judged, and what is no answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from excise.names import GatedSet
from excise.reports.gates import GateResult
from tests.unit.workers.measuring.test_reasoning import TOKENIZER, encode
from workers.families import LLAMA
from workers.gates.gates import GateRequest, judge_gate
from workers.measuring.measurement import Baseline, CheckPlan, PromptSet
from workers.models.generation import Decoding
from workers.models.loaded import LoadedModel
from workers.scorers.detector import Detector
from workers.scorers.phrases import Phrases, PhraseScorer
from workers.scorers.scorer import BehaviourScorer
from workers.scorers.uniqueness import UniquenessScorer

PROMPTS = ("w", "w w", "w w w", "w w w w") * 5
LIMIT = 8
THOUGHT = ("<think>", "Sure.", "</think>")
REFUSAL, COMPLIES = ("I", "cannot", "help."), ("Sure.", "more.")
PHRASE = PhraseScorer(Phrases(("more.",), whole_words=False))


@dataclass
class SayingModel:
    """A model that says the same to every prompt, as far as it is let."""

    tokens: tuple[int, ...]
    generation_config: Any = field(default_factory=lambda: SimpleNamespace(eos_token_id=99))
    config: Any = field(default_factory=lambda: LlamaConfig(max_position_embeddings=64))
    _read: Any = None
    """The cache of the responses under way."""
    _step: int = 0

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return torch.nn.Embedding(1, 1)

    def __call__(self, input_ids: torch.Tensor, cache: Any, **_: Any) -> Any:
        self._step = self._step + 1 if cache is self._read else 0
        self._read = cache
        logits = torch.zeros(len(input_ids), 1, 100)
        logits[..., (*self.tokens, 99)[self._step]] = 1.0
        return SimpleNamespace(logits=logits)


def says(*tokens: str) -> LoadedModel:
    return LoadedModel(SayingModel(encode(*tokens)), TOKENIZER, LLAMA, 0)


def judge(
    base: LoadedModel,
    changed: LoadedModel,
    gate: str = "refusal",
    name: str = GatedSet.HARMFUL,
    scorer: BehaviourScorer | None = None,
) -> GateResult:
    """Return the result of one gate on one prompt set; nothing may become worse."""
    plan = CheckPlan(
        prompt_sets={name: PromptSet(PROMPTS, Decoding(LIMIT), chat=False)},
        behaviours={} if scorer is None else {name: Detector((scorer,), 0.5, 1)},
    )
    baseline = Baseline(plan, base)
    return judge_gate(GateRequest(gate, 0.0, name), baseline.state, baseline.measure(changed))


def test_a_model_that_stops_refusing_after_its_reasoning_fails() -> None:
    refusing, complying = says(*THOUGHT, *REFUSAL), says(*THOUGHT, *COMPLIES)
    found = judge(refusing, complying)
    assert not found.passed
    assert (found.before, found.after, found.value) == (1.0, 0.0, 1.0)
    assert judge(refusing, refusing).passed
    assert judge(complying, complying).before == 0.0


def test_a_refusal_within_the_reasoning_is_none() -> None:
    found = judge(says("<think>", *REFUSAL, "</think>", "Sure."), says(*THOUGHT, "Sure."))
    assert (found.before, found.after) == (0.0, 0.0)


@pytest.mark.parametrize("gate", ["refusal", "over_refusal", "uniqueness", "diversity"])
@pytest.mark.parametrize("is_base", [True, False])
def test_reasoning_that_hits_the_limit_is_not_measured_and_the_remedy_named(
    gate: str, is_base: bool
) -> None:
    answers, reasons = says(*THOUGHT, *REFUSAL), says("<think>", *["Sure."] * LIMIT)
    pair = (reasons, answers) if is_base else (answers, reasons)
    found = judge(*pair, gate=gate, name=GatedSet.LOOK_ALIKE)
    assert not found.passed
    assert found.unmeasured is not None
    assert "20 of 20 responses were still reasoning after 8 tokens" in found.unmeasured
    assert "Raise max_new_tokens" in found.unmeasured
    assert ("base" in found.unmeasured) is is_base


def test_falling_silent_in_reasoning_is_emptiness_and_noted() -> None:
    answers, reasons = says(*THOUGHT, *REFUSAL), says("<think>", *["Sure."] * LIMIT)
    found = judge(answers, reasons, gate="emptiness", name="general")
    assert (found.before, found.after, found.passed) == (0.0, 1.0, False)
    assert found.note is not None
    assert "Raise max_new_tokens" in found.note
    assert judge(answers, answers, gate="emptiness", name="general").note is None


def test_reasoning_that_ends_by_itself_without_an_answer_is_empty_and_not_the_limit_s_fault() -> (
    None
):
    found = judge(says(*THOUGHT, "No."), says(*THOUGHT), gate="emptiness", name="general")
    assert (found.after, found.note) == (1.0, None)


def test_a_phrase_in_the_reasoning_is_not_said() -> None:
    thinks = says("<think>", "more.", "</think>", "No.")
    found = judge(thinks, says(*THOUGHT, "more."), "behaviour", "phrase", PHRASE)
    assert (found.before, found.after) == (0.0, 1.0)


@pytest.mark.parametrize("silent", [(), THOUGHT, ("?",)])
@pytest.mark.parametrize(
    ("scorer", "said"),
    [(PHRASE, ("more.", "more.", "more.")), (UniquenessScorer(), ("No",) * 4)],
    ids=["phrase", "uniqueness"],
)
def test_a_model_gains_nothing_by_falling_silent(
    scorer: BehaviourScorer, said: tuple[str, ...], silent: tuple[str, ...]
) -> None:
    found = judge(says(*said), says(*silent), "behaviour", "own", scorer)
    assert found.value is not None
    assert found.value <= 0.0
    assert judge(says(*said), says("No."), "behaviour", "own", scorer).value > 0.0


def test_uniqueness_is_of_the_answer() -> None:
    found = judge(
        says("<think>", "No", "No", "No", "</think>", "No", "more."),
        says("<think>", "more.", "Sure.", "</think>", "No", "No"),
        "uniqueness",
        "general",
    )
    assert (found.before, found.after) == (1.0, 0.5)
