"""Behaviours with scorers made of a function, and stage results made of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from excise.names import Direction, Granularity, MeasureName
from tests.tiny import build_tiny_tokenizer
from workers.correction.behaviour import Behaviour, Marking
from workers.correction.results import (
    PreparedBehaviour,
    PromptOutcome,
    Response,
    Responses,
    SliceDamage,
    StoredSelection,
    Trial,
    TrialSettings,
)
from workers.families import LLAMA
from workers.models.generation import Decoding
from workers.models.loaded import LoadedModel
from workers.scorers.scorer import Answer

HIGHER, LOWER = Direction.HIGHER_IS_BETTER, Direction.LOWER_IS_BETTER
GREEDY = Decoding(8)
SAMPLED = Decoding(8, samples=3, temperature=1.0, top_p=0.95)


@dataclass
class FunctionScorer:
    """A scorer that applies a function to each answer, and keeps what it was asked."""

    function: Callable[[Answer], float] = lambda answer: 0.0
    direction: Direction = LOWER
    name: str = "function"
    asked: list[Answer] = field(default_factory=list)

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return the function's values."""
        self.asked += answers
        return [self.function(answer) for answer in answers]


def build_behaviour(*scorers: FunctionScorer, **changes: Any) -> Behaviour:
    """A behaviour of one or more scorers; lower is better, 0.5 shows it, unless told."""
    settings: dict[str, Any] = {
        "name": "rudeness",
        "kind": "toxicity",
        "decoding": SAMPLED,
        "threshold": 0.5,
        "agreeing": 1,
        "headline": MeasureName.SHARE,
        "min_effect": 0.4,
        "marking": Marking.RISING,
    }
    return Behaviour(scorers=scorers or (FunctionScorer(),), **(settings | changes))


def base_of(model: Any) -> LoadedModel:
    """The tiny model as what behaviours are looked at in."""
    return LoadedModel(model, build_tiny_tokenizer(), LLAMA, 0)


def respond_with(*scores: float, ids: tuple[int, ...] = (1,), text: str = "") -> Response:
    """A response with the given scores, one a scorer."""
    return Response(text=text, token_ids=ids, scores=scores)


def responses_of(rows: Sequence[Sequence[float]], label: str = "") -> Responses:
    """For each prompt one response a score, by one scorer; texts number them."""
    return tuple(
        tuple(
            respond_with(score, text=f"{label}{prompt}.{sample}")
            for sample, score in enumerate(scores)
        )
        for prompt, scores in enumerate(rows)
    )


def build_outcome(
    prompt: str,
    responses: Sequence[Response] = (),
    *,
    held_out: bool = False,
    triggering: bool = True,
    screened: Sequence[Response] = (),
    prompt_ids: tuple[int, ...] = (7,),
) -> PromptOutcome:
    """An outcome of one prompt."""
    return PromptOutcome(
        prompt=prompt,
        prompt_ids=prompt_ids,
        held_out=held_out,
        screened=tuple(screened),
        triggering=triggering,
        responses=tuple(responses),
    )


def prepare(tune: Responses, held_out: Responses, name: str = "rudeness") -> PreparedBehaviour:
    """A behaviour that every prompt brings out: `t0`, `t1` … and, held out, `h0`, `h1` …"""
    return PreparedBehaviour(
        name=name,
        prompts=(
            *(build_outcome(f"t{place}", samples) for place, samples in enumerate(tune)),
            *(
                build_outcome(f"h{place}", samples, held_out=True)
                for place, samples in enumerate(held_out)
            ),
        ),
    )


def build_trial(
    gains: Sequence[float] = (0.5,),
    *,
    indices: dict[str, list[int]] | None = None,
    responses: tuple[Responses, ...] = ((),),
    perplexity: float = 10.1,
    kl: float = 0.01,
    within: bool = True,
    slices: dict[str, SliceDamage] | None = None,
    bound_by: str = "kl",
    use: float | None = None,
    **settings: Any,
) -> Trial:
    """A trial of neurons, `m0`'s first unless told; the base model's perplexity is 10.

    It uses half of what binds it where it is within budget, else twice as much.
    """
    chosen = {"m0": [0]} if indices is None else indices
    fields: dict[str, Any] = {
        "origin": "round 1",
        "granularity": Granularity.NEURON,
        "amount": sum(map(len, chosen.values())),
    }
    return Trial(
        settings=TrialSettings(**(fields | settings)),
        selection=StoredSelection(granularity=Granularity.NEURON, indices=chosen),
        responses=responses,
        gains=tuple(gains),
        perplexity=perplexity,
        base_perplexity=10.0,
        kl_mean=kl,
        slices=slices or {},
        bound_by=bound_by,
        use=(0.5 if within else 2.0) if use is None else use,
        within_budget=within,
    )
