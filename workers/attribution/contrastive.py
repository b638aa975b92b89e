"""Contrastive relevance for a correction: which samples are explained how, and the results."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from excise.names import Attributor, Granularity, Statistic
from workers.attribution.attribution import Attribution
from workers.attribution.targets import Target, TokenMass
from workers.domain import (
    GeneralCost,
    Relevance,
    Selection,
    Shortlist,
)

_FIGURES, _PLACES = "figures", "places"
"""What is stored of a shortlist: floor and scales; the distances between a module's indices."""

FORMAT = 2
"""Version of what `serialise_relevance` writes. Keys of stored results name it, so that no worker
reads what another release stored."""

_COMPRESSION = 9
"""Level of zlib. A shortlist of 101,922 weights, rounded to bfloat16, takes 6.4 bytes a weight at
level 9, 6.9 at level 6 and 7.5 at level 1; neither rounded nor compressed, 16.8 (SmolLM2)."""


class Side(StrEnum):
    """One half of a contrast, or a part of the general half."""

    GENERAL = "general"
    """General text, by the job's attributor: relevance of the top logits."""
    LOSS = "loss"
    """General text: change of its negative log-likelihood when a component is removed."""
    DIVERGENCE = "divergence"
    """General text: divergence of the next-token distribution when a component is removed."""
    UNDESIRED = "undesired"
    """A behaviour's undesired responses, by the job's attributor."""
    CLEAN = "clean"
    """Clean responses to the same prompts, by the job's attributor."""


@dataclass(frozen=True)
class Question:
    """One attribution: the side of its samples, the attributor, the target and the statistics."""

    side: Side
    attributor: Attributor
    target: Target | TokenMass
    statistics: frozenset[Statistic]

    @property
    def is_general(self) -> bool:
        """Whether the samples are general text."""
        return self.side not in (Side.UNDESIRED, Side.CLEAN)


@dataclass(frozen=True)
class BehaviourRelevance:
    """Mean relevance of every component for one behaviour, module → tensor."""

    undesired: Mapping[str, torch.Tensor]
    clean: Mapping[str, torch.Tensor]
    """The same for clean responses to the same prompts; empty if there are none."""

    def compute_benefit(self, undesired: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return `undesired` relevance minus that for clean responses, as new tensors."""
        if not self.clean:
            return {name: values.clone() for name, values in undesired.items()}
        return {name: values - self.clean[name] for name, values in undesired.items()}


@dataclass(frozen=True)
class ContrastiveRelevance:
    """Relevance of the same components for general text and for each behaviour."""

    general: Relevance | GeneralCost
    """The predicted cost of removing each component, or, if that is not used, its relevance by the
    job's attributor."""
    behaviours: tuple[BehaviourRelevance, ...]
    shortlist: Shortlist | None = None
    """The components that were kept, if not all were. All values are then `(kept,)`, in the order
    of the indices."""

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that have relevance."""
        general = self.general
        return tuple(general.first_order if isinstance(general, GeneralCost) else general.mean)

    def take(self, places: Mapping[str, slice | torch.Tensor]) -> ContrastiveRelevance:
        """Return the relevance at some places of some modules, each `(place,)`.

        A place is an index into a module's flattened values. For slices, the result is a view.
        """

        def take(values: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
            (own,) = values
            return {name: own[name].flatten()[at] for name, at in places.items() if name in own}

        return merge_relevance([self], take)


def merge_relevance(
    parts: Sequence[ContrastiveRelevance],
    merge: Callable[[Sequence[Mapping[str, torch.Tensor]]], dict[str, torch.Tensor]],
) -> ContrastiveRelevance:
    """Return the parts merged: `merge` combines the corresponding mappings of all parts.

    Counts of tokens and samples are those of the first part.
    """
    generals = [part.general for part in parts]
    is_cost = isinstance(generals[0], GeneralCost)
    names = ("first_order", "fisher") if is_cost else tuple(map(str, Statistic))
    merged: dict[str, Any] = {
        name: merge([getattr(general, name) for general in generals]) for name in names
    }
    rows = zip(*(part.behaviours for part in parts), strict=True)
    behaviours = tuple(
        BehaviourRelevance(merge([own.undesired for own in row]), merge([own.clean for own in row]))
        for row in rows
    )
    return ContrastiveRelevance(replace(generals[0], **merged), behaviours)


def list_general_questions(
    attributor: Attributor, *, predicts_damage: bool
) -> tuple[Question, ...]:
    """Return the attributions needed for general text.

    With `predicts_damage` they use the true gradient × input, for any attributor, and give the
    cost of removing each component to first and second order (Optimal Brain Damage, LeCun 1989).
    Otherwise there is one, the attributor's relevance of the top logit, as in the paper.
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
    """Return the attribution needed for a behaviour's responses, undesired or clean.

    With `mass` it explains, at every position, the probability of the tokens that make responses
    undesired; otherwise the lead of each emitted token over the runner-up.
    """
    mean = frozenset({Statistic.MEAN})
    return Question(side, attributor, mass or Target.EMITTED_MINUS_RUNNER_UP, mean)


def ask(
    question: Question, granularity: Granularity, seed: int, places: Selection | None = None
) -> Attribution:
    """Return the attribution for a question; for single weights, only at `places` if given."""
    return Attribution(
        question.attributor,
        granularity,
        question.target,
        question.statistics,
        # Random relevance must differ between two sets, or their difference would be 0.
        seed=len(Side) * seed + list(Side).index(question.side),
        places=places,
    )


def combine_general(answers: Mapping[Side, Relevance]) -> Relevance | GeneralCost:
    """Return relevance or cost on general text, from the answers to `list_general_questions`."""
    if Side.GENERAL in answers:
        return answers[Side.GENERAL]
    loss, divergence = answers[Side.LOSS], answers[Side.DIVERGENCE]
    return GeneralCost(
        first_order=loss.mean,
        fisher=divergence.mean_square,
        tokens=loss.tokens,
        samples=loss.samples,
    )


def serialise_relevance(
    relevances: Mapping[Granularity, ContrastiveRelevance], *, compression: int = _COMPRESSION
) -> bytes:
    """Return the relevance as zlib-compressed safetensors bytes, with counts stored as tensors.

    `compression` is zlib's level; 0 stores the bytes as they are.
    """
    tensors: dict[str, torch.Tensor] = {}
    for granularity, relevance in relevances.items():
        general = relevance.general
        is_cost = isinstance(general, GeneralCost)
        counts = [general.tokens, general.samples, len(relevance.behaviours), is_cost]
        tensors[_key(granularity, Side.GENERAL, "counts")] = torch.tensor(counts)
        if relevance.shortlist is not None:
            tensors |= _store_shortlist(granularity, relevance.shortlist)
        for statistic in Statistic:
            for name, values in _find_stored(general, statistic).items():
                tensors[_key(granularity, Side.GENERAL, statistic, name)] = values.clone()
        for number, behaviour in enumerate(relevance.behaviours):
            sides = {Side.UNDESIRED: behaviour.undesired, Side.CLEAN: behaviour.clean}
            for side, mapping in sides.items():
                for name, values in mapping.items():
                    tensors[_key(granularity, side, number, name)] = values.clone()
    return zlib.compress(save_safetensors(tensors), compression)


def _store_shortlist(granularity: Granularity, shortlist: Shortlist) -> dict[str, torch.Tensor]:
    """Return the tensors of a shortlist, whose indices ascend in each module.

    Distances between neighbours are smaller numbers than indices, so they compress better. They
    have the narrowest dtype that holds the indices.
    """
    figures = torch.tensor([shortlist.floor, *shortlist.scales], dtype=torch.float64)
    stored = {_key(granularity, _FIGURES): figures}
    for name, indices in shortlist.components.indices.items():
        is_narrow = not len(indices) or int(indices[-1]) <= torch.iinfo(torch.int32).max
        own = indices.to(torch.int32 if is_narrow else torch.int64)
        stored[_key(granularity, _PLACES, name)] = own.diff(prepend=own.new_zeros(1))
    return stored


def _parse_shortlist(
    tensors: Mapping[str, torch.Tensor], granularity: Granularity, modules: Sequence[str]
) -> Shortlist | None:
    figures = tensors.get(_key(granularity, _FIGURES))
    if figures is None:
        return None
    keys = {name: _key(granularity, _PLACES, name) for name in modules}
    indices = {name: tensors[key].long().cumsum(0) for name, key in keys.items() if key in tensors}
    floor, *scales = figures.tolist()
    return Shortlist(Selection(granularity, indices), floor, tuple(scales))


def _find_stored(
    general: Relevance | GeneralCost, statistic: Statistic
) -> Mapping[str, torch.Tensor]:
    """Return the mapping that is stored under a statistic's name.

    A cost is stored as the statistics of its two questions: the loss's mean and the divergence's
    mean square.
    """
    if isinstance(general, Relevance):
        values: Mapping[str, torch.Tensor] = getattr(general, statistic.value)
        return values
    stored = {Statistic.MEAN: general.first_order, Statistic.MEAN_SQUARE: general.fisher}
    return stored.get(statistic, {})


def parse_relevance(
    data: bytes, modules: Mapping[Granularity, Sequence[str]]
) -> dict[Granularity, ContrastiveRelevance]:
    """Return what `serialise_relevance` stored, with modules in the order of `modules`."""
    tensors = load_safetensors(zlib.decompress(data))
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

    counts = tensors[_key(granularity, Side.GENERAL, "counts")].tolist()
    tokens, samples, behaviours, is_cost = counts
    mean, absolute, square = (read(Side.GENERAL, statistic) for statistic in Statistic)
    general: Relevance | GeneralCost = (
        GeneralCost(mean, square, tokens, samples)
        if is_cost
        else Relevance(mean, absolute, tokens, samples, square)
    )
    return ContrastiveRelevance(
        general,
        tuple(
            BehaviourRelevance(read(Side.UNDESIRED, number), read(Side.CLEAN, number))
            for number in range(behaviours)
        ),
        _parse_shortlist(tensors, granularity, modules),
    )


def _key(*parts: object) -> str:
    return "::".join(map(str, parts))
