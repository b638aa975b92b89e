"""What a correction asks of attribution: which samples are explained how, and the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from excise.names import Attributor, Granularity, Statistic
from workers.attribution.attribution import DEFAULT_PASS, Attribution, Pass
from workers.attribution.attributors import sum_relevance
from workers.attribution.sums import RelevanceSums
from workers.attribution.targets import Target, TokenMass
from workers.domain import GeneralCost, Relevance, TokenSequence
from workers.models.loaded import LoadedModel


class Side(StrEnum):
    """One half of a contrast, or a part of the general half."""

    GENERAL = "general"
    """General text by the job's own attributor: relevance of the top logits."""
    LOSS = "loss"
    """General text: how its negative log-likelihood changes when a component is removed."""
    DIVERGENCE = "divergence"
    """General text: how far the next-token distribution moves when a component is removed."""
    UNDESIRED = "undesired"
    """A behaviour's undesired responses, by the job's own attributor."""
    CLEAN = "clean"
    """Clean responses to the same prompts, by the job's own attributor."""


@dataclass(frozen=True)
class Question:
    """One attribution: its samples' side, attributor, target, and the statistics needed."""

    side: Side
    attributor: Attributor
    target: Target | TokenMass
    statistics: frozenset[Statistic]

    @property
    def is_general(self) -> bool:
        """Whether its samples are general text."""
        return self.side not in (Side.UNDESIRED, Side.CLEAN)


@dataclass(frozen=True)
class BehaviourRelevance:
    """Mean relevance of every component for one behaviour: module → tensor."""

    undesired: Mapping[str, torch.Tensor]
    clean: Mapping[str, torch.Tensor]
    """The same for clean responses to the same prompts; empty if there are none."""

    def compute_benefit(self, undesired: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return `undesired` relevance minus that of clean responses, as new tensors."""
        if not self.clean:
            return {name: values.clone() for name, values in undesired.items()}
        return {name: values - self.clean[name] for name, values in undesired.items()}


@dataclass(frozen=True)
class ContrastiveRelevance:
    """Relevance of the same components on general text and for each behaviour."""

    general: Relevance | GeneralCost
    """The predicted cost of a removal where that was asked for, else the relevance that the job's
    own attributor gives."""
    behaviours: tuple[BehaviourRelevance, ...]


def list_general_questions(
    attributor: Attributor, *, predicts_damage: bool
) -> tuple[Question, ...]:
    """Return the questions to ask of general text.

    With `predicts_damage` they use the true gradient × input, whatever the attributor, and give
    the first two orders of what removing a component costs (Optimal Brain Damage, LeCun 1989).
    Otherwise there is one question, the attributor's own relevance of the top logit, as in the
    paper.
    """
    mean, square = frozenset({Statistic.MEAN}), frozenset({Statistic.MEAN_SQUARE})
    if not predicts_damage:
        statistics = frozenset({Statistic.MEAN, Statistic.MEAN_ABSOLUTE})
        return (Question(Side.GENERAL, attributor, Target.TOP_LOGIT, statistics),)
    gradient = Attributor.GRADIENT_X_INPUT
    return (
        Question(Side.LOSS, gradient, Target.EMITTED_LOG_PROBABILITY, mean),
        Question(Side.DIVERGENCE, gradient, Target.SAMPLED_LOG_PROBABILITY, square),
    )


def ask_responses(attributor: Attributor, side: Side, mass: TokenMass | None = None) -> Question:
    """Return the question to ask of a behaviour's responses, undesired or clean.

    With `mass` it explains, at every position, the probability of the tokens that make responses
    undesired; otherwise the lead of each emitted token over the runner-up.
    """
    mean = frozenset({Statistic.MEAN})
    return Question(side, attributor, mass or Target.EMITTED_MINUS_RUNNER_UP, mean)


def sum_answer(
    question: Question,
    loaded: LoadedModel,
    granularity: Granularity,
    samples: Sequence[TokenSequence],
    seed: int,
    run: Pass = DEFAULT_PASS,
) -> RelevanceSums:
    """Return the sums over `samples` that answer the question. Raises as `sum_relevance` does."""
    asked = Attribution(
        question.attributor,
        granularity,
        question.target,
        question.statistics,
        # Random relevance must differ between two sets, or their difference would be 0.
        seed=len(Side) * seed + list(Side).index(question.side),
    )
    return sum_relevance(loaded, asked, samples, run)


def combine_general(answers: Mapping[Side, Relevance]) -> Relevance | GeneralCost:
    """Return what the answers to `list_general_questions` say of general text."""
    if Side.GENERAL in answers:
        return answers[Side.GENERAL]
    loss, divergence = answers[Side.LOSS], answers[Side.DIVERGENCE]
    return GeneralCost(
        first_order=loss.mean,
        fisher=divergence.mean_square,
        tokens=loss.tokens,
        samples=loss.samples,
    )


def serialise_relevance(relevances: Mapping[Granularity, ContrastiveRelevance]) -> bytes:
    """Return the relevance as safetensors bytes; token and sample counts are stored as tensors."""
    tensors: dict[str, torch.Tensor] = {}
    for granularity, relevance in relevances.items():
        general = relevance.general
        counts = torch.tensor([general.tokens, general.samples])
        tensors[_key(granularity, Side.GENERAL, "counts")] = counts
        for statistic in Statistic:
            for name, values in _find_stored(general, statistic).items():
                tensors[_key(granularity, Side.GENERAL, statistic, name)] = values.clone()
        for number, behaviour in enumerate(relevance.behaviours):
            sides = {Side.UNDESIRED: behaviour.undesired, Side.CLEAN: behaviour.clean}
            for side, mapping in sides.items():
                for name, values in mapping.items():
                    tensors[_key(granularity, side, number, name)] = values.clone()
    return save_safetensors(tensors)


def _find_stored(
    general: Relevance | GeneralCost, statistic: Statistic
) -> Mapping[str, torch.Tensor]:
    """Return what is stored under a statistic's name.

    A cost is stored as the means of its two questions: the loss's mean, the divergence's mean
    square.
    """
    if isinstance(general, Relevance):
        values: Mapping[str, torch.Tensor] = getattr(general, statistic.value)
        return values
    stored = {Statistic.MEAN: general.first_order, Statistic.MEAN_SQUARE: general.fisher}
    return stored.get(statistic, {})


def parse_relevance(
    data: bytes, modules: Mapping[Granularity, Sequence[str]]
) -> dict[Granularity, ContrastiveRelevance]:
    """Return what `serialise_relevance` stored, with each granularity's modules in that order."""
    tensors = load_safetensors(data)
    return {
        granularity: _parse_contrast(tensors, granularity, names)
        for granularity, names in modules.items()
    }


def _parse_contrast(
    tensors: Mapping[str, torch.Tensor], granularity: Granularity, modules: Sequence[str]
) -> ContrastiveRelevance:
    def read(side: Side, what: object) -> dict[str, torch.Tensor]:
        keys = {name: _key(granularity, side, what, name) for name in modules}
        return {name: tensors[key] for name, key in keys.items() if key in tensors}

    tokens, samples = tensors[_key(granularity, Side.GENERAL, "counts")].tolist()
    mean, absolute, square = (read(Side.GENERAL, statistic) for statistic in Statistic)
    # Of a single question, magnitudes are always asked for; a cost has none.
    general: Relevance | GeneralCost = (
        Relevance(mean, absolute, tokens, samples, square)
        if absolute
        else GeneralCost(mean, square, tokens, samples)
    )
    behaviours: list[BehaviourRelevance] = []
    while undesired := read(Side.UNDESIRED, len(behaviours)):
        behaviours.append(BehaviourRelevance(undesired, read(Side.CLEAN, len(behaviours))))
    return ContrastiveRelevance(general, tuple(behaviours))


def _key(*parts: object) -> str:
    return "::".join(map(str, parts))
