"""What a correction asks of attribution: which sets are explained by what, and the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from workers.attribution.attributors import Attributor, sum_relevance
from workers.attribution.sums import RelevanceSums, Statistic
from workers.attribution.targets import Target
from workers.domain import Granularity, Relevance, TokenSequence
from workers.families import Family
from workers.progress import Advance


class Side(StrEnum):
    """One half of a contrast, or a part of the general half."""

    GENERAL = "general"
    """General text by the job's own attributor: what its top logits rest on."""
    LOSS = "loss"
    """General text: how its negative log-likelihood changes when a component goes."""
    DIVERGENCE = "divergence"
    """General text: how far the next-token distribution moves when a component goes."""
    UNDESIRED = "undesired"
    """The undesired responses, by the job's own attributor."""


@dataclass(frozen=True)
class Question:
    """One attribution: by what, of what, and which statistics of it are needed."""

    side: Side
    attributor: Attributor
    target: Target
    statistics: frozenset[Statistic]

    @property
    def is_general(self) -> bool:
        """Whether it is asked of general text."""
        return self.side is not Side.UNDESIRED


@dataclass(frozen=True)
class ContrastiveRelevance:
    """Relevance of the same components on the two reference sets."""

    general: Relevance
    """Its mean is that of the loss and its mean square that of the divergence, where those were
    asked for; otherwise all of it is the job's own attributor's."""
    undesired: Relevance


def list_questions(attributor: Attributor, *, predicts_damage: bool) -> tuple[Question, ...]:
    """Return what has to be asked, general text first.

    With `predicts_damage` the general side is the true gradient × input, whatever the
    attributor: the first two orders of what removing a component costs (OBD, LeCun 1989).
    Otherwise it is the attributor's own relevance of the top logit, as in the paper.
    """
    undesired = Question(
        Side.UNDESIRED,
        attributor,
        Target.EMITTED_MINUS_RUNNER_UP,
        frozenset({Statistic.MEAN}),
    )
    if not predicts_damage:
        statistics = frozenset({Statistic.MEAN, Statistic.MEAN_ABSOLUTE})
        return Question(Side.GENERAL, attributor, Target.TOP_LOGIT, statistics), undesired
    gradient = Attributor.GRADIENT_X_INPUT
    mean, square = frozenset({Statistic.MEAN}), frozenset({Statistic.MEAN_SQUARE})
    return (
        Question(Side.LOSS, gradient, Target.EMITTED_LOG_PROBABILITY, mean),
        Question(Side.DIVERGENCE, gradient, Target.SAMPLED_LOG_PROBABILITY, square),
        undesired,
    )


def sum_answer(
    question: Question,
    model: nn.Module,
    family: Family,
    granularity: Granularity,
    samples: Sequence[TokenSequence],
    pad_id: int,
    seed: int,
    advance: Advance,
    first_index: int = 0,
) -> RelevanceSums:
    """Return the sums over `samples` that answer the question. Raises as `sum_relevance` does.

    `first_index` is the first sample's index among those of all shards.
    """
    return sum_relevance(
        model,
        family,
        question.attributor,
        granularity,
        samples,
        question.target,
        pad_id,
        # Random relevance of the two sets must not be the same.
        seed=2 * seed + question.is_general,
        first_index=first_index,
        statistics=question.statistics,
        advance=advance,
    )


def combine_answers(answers: Mapping[Side, Relevance]) -> ContrastiveRelevance:
    """Return the contrast that the answers to `list_questions` make up."""
    undesired = answers[Side.UNDESIRED]
    if Side.GENERAL in answers:
        return ContrastiveRelevance(answers[Side.GENERAL], undesired)
    loss, divergence = answers[Side.LOSS], answers[Side.DIVERGENCE]
    general = Relevance(
        mean=loss.mean,
        mean_absolute={},
        tokens=loss.tokens,
        samples=loss.samples,
        mean_square=divergence.mean_square,
    )
    return ContrastiveRelevance(general, undesired)


def serialise_relevance(relevance: ContrastiveRelevance) -> bytes:
    """Return both relevances as safetensors bytes; token counts travel as tensors."""
    tensors: dict[str, torch.Tensor] = {}
    for side, value in (("general", relevance.general), ("undesired", relevance.undesired)):
        tensors[f"{side}::counts"] = torch.tensor([value.tokens, value.samples])
        for statistic in Statistic:
            for name, values in getattr(value, statistic.value).items():
                tensors[f"{side}::{statistic.value}::{name}"] = values.clone()
    return save_safetensors(tensors)


def parse_relevance(data: bytes, modules: Sequence[str]) -> ContrastiveRelevance:
    """Return what `serialise_relevance` stored, modules in the given order."""
    tensors = load_safetensors(data)

    def read(side: str) -> Relevance:
        def statistic(kind: Statistic) -> dict[str, torch.Tensor]:
            keys = {name: f"{side}::{kind.value}::{name}" for name in modules}
            return {name: tensors[key] for name, key in keys.items() if key in tensors}

        tokens, samples = tensors[f"{side}::counts"].tolist()
        return Relevance(
            mean=statistic(Statistic.MEAN),
            mean_absolute=statistic(Statistic.MEAN_ABSOLUTE),
            tokens=tokens,
            samples=samples,
            mean_square=statistic(Statistic.MEAN_SQUARE),
        )

    return ContrastiveRelevance(read("general"), read("undesired"))
