"""The shortlist of single weights that a search may prune, chosen layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from excise.names import Granularity, Score
from workers.attribution.contrastive import (
    BehaviourRelevance,
    ContrastiveRelevance,
    merge_relevance,
    parse_relevance,
    serialise_relevance,
)
from workers.domain import GeneralCost, Relevance, Selection, Shortlist
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.score_stream import CHUNK_SIZE, TensorLoader
from workers.pruning.scoring import (
    CostTotal,
    combine_benefits,
    compute_scores,
    sum_costs,
    sum_positive,
)

SPARE_RATIO = 3.0
"""This many times the shortlist's size is kept until the end, because until then weights are ranked
by figures of the layers seen so far instead of all layers (docs/decisions/0020)."""

WEIGHT = Granularity.WEIGHT
_STATE, _KEPT = "state", "kept"


class Shortlisting:
    """Keeps the best single weights of the layers seen so far, from the top layer down.

    A score depends on two figures over all weights: the floor of the cost, which is a share of
    its mean, and each behaviour's sum of positive benefits. Until all layers have been seen, the
    figures of the layers so far are used, and everything kept is ranked anew with each layer. At
    the end they are exact. Layers are added one by one, so the result does not depend on how many
    are computed at once.
    """

    def __init__(self, score: Score, size: int, modules: Sequence[str]) -> None:
        """`size` is the number of weights to keep in the end, `modules` are all, in their order."""
        self._score = score
        self._size = size
        self._modules = tuple(modules)
        self._costs = CostTotal()
        self._scales: tuple[float, ...] = ()
        self._kept: ContrastiveRelevance | None = None
        self.layers_left: int | None = None
        """Number of layers below the last one added; None before the first."""

    def add_layer(self, number: int, layer: ContrastiveRelevance) -> None:
        """Add the relevance of all weights in layer `number`, which must be the next one down."""
        self._count(layer)
        kept = self._kept
        everything: list[tuple[str, TensorLoader]] = [
            (name, partial(self._score_module, own, name))
            for own in (layer, kept)
            if own is not None
            for name in own.modules
        ]
        limit = self._size if number == 0 else round(SPARE_RATIO * self._size)
        ranking = rank_components(everything, WEIGHT, limit)
        self._kept = self._keep(layer, kept, ranking)
        self.layers_left = number

    def finish(self) -> ContrastiveRelevance:
        """Return the relevance of the weights kept, after all layers were added.

        It is rounded to bfloat16, by 0.2 % at most: relevance predicts effects far
        less exactly, and zeros in place of the other bits compress well where it is stored.
        """
        assert self._kept is not None
        kept = self._kept
        return replace(merge_relevance([kept], _round), shortlist=kept.shortlist)

    def to_bytes(self) -> bytes:
        """Return the current state, after at least one layer.

        It is not compressed: exact figures would shrink by a fifth, and that would take 7.5 s after
        each segment of a model of 1.1 billion weights (2026-12-01).
        """
        assert self._kept is not None
        state = {
            "layers_left": self.layers_left,
            "cost": self._costs.cost,
            "components": self._costs.components,
            "scales": self._scales,
        }
        tensors = {
            _STATE: torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8),
            _KEPT: torch.frombuffer(
                bytearray(serialise_relevance({WEIGHT: self._kept}, compression=0)),
                dtype=torch.uint8,
            ),
        }
        return save_safetensors(tensors)

    def restore(self, data: bytes) -> None:
        """Restore a state from `to_bytes`; score, size and modules must be the same."""
        tensors = load_safetensors(data)
        state = json.loads(tensors[_STATE].numpy().tobytes())
        self.layers_left = state["layers_left"]
        self._costs = CostTotal(state["cost"], state["components"])
        self._scales = tuple(state["scales"])
        kept = parse_relevance(tensors[_KEPT].numpy().tobytes(), {WEIGHT: self._modules})
        self._kept = kept[WEIGHT]

    def _count(self, layer: ContrastiveRelevance) -> None:
        """Add the layer's weights to the figures over all weights."""
        self._costs += sum_costs(layer.general)
        own = layer.behaviours
        if len(own) < 2:  # a single behaviour needs no scale
            return
        before = self._scales or (0.0,) * len(own)
        self._scales = tuple(
            total + self._sum_benefit(behaviour)
            for total, behaviour in zip(before, own, strict=True)
        )

    def _sum_benefit(self, behaviour: BehaviourRelevance) -> float:
        """Return the sum of positive benefits, with one module in memory at a time."""
        return sum(
            sum_positive(behaviour.compute_benefit({name: values}))
            for name, values in behaviour.undesired.items()
        )

    def _score_module(self, relevance: ContrastiveRelevance, name: str) -> torch.Tensor:
        """Return the scores of a module's weights, computed in parts of bounded size."""
        size, device = _measure(relevance.general, name)
        scores = torch.empty(size, dtype=torch.float64, device=device)
        for start in range(0, size, CHUNK_SIZE):
            part = slice(start, start + CHUNK_SIZE)
            piece = relevance.take({name: part})
            benefits = [own.compute_benefit(own.undesired) for own in piece.behaviours]
            benefit = combine_benefits(benefits, self._scales)
            floor = self._costs.find_floor(self._score)
            scores[part] = compute_scores(piece.general, benefit, self._score, floor=floor)[name]
        return scores

    def _keep(
        self, layer: ContrastiveRelevance, kept: ContrastiveRelevance | None, ranking: Ranking
    ) -> ContrastiveRelevance:
        """Return the relevance of the ranked weights, from the layer and from those kept before."""
        places = ranking.top(len(ranking)).indices
        new = layer.take({name: own for name, own in places.items() if name in layer.modules})
        indices = dict(places)
        parts = [new]
        if kept is not None and kept.shortlist is not None:
            before = {name: own for name, own in places.items() if name not in layer.modules}
            parts.append(kept.take(before))
            listed = kept.shortlist.components.indices
            indices |= {name: listed[name][own] for name, own in before.items()}
        ordered = {name: indices[name] for name in self._modules if name in indices}
        floor = self._costs.find_floor(self._score)
        shortlist = Shortlist(Selection(WEIGHT, ordered), floor, self._scales)

        def unite(mappings: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
            found = {name: values for own in mappings for name, values in own.items()}
            return {name: found[name].cpu() for name in ordered if name in found}

        return replace(merge_relevance(parts, unite), shortlist=shortlist)


def _round(values: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the values of one mapping, rounded to bfloat16 and in their own dtype again."""
    (own,) = values
    return {name: found.bfloat16().to(found.dtype) for name, found in own.items()}


def _measure(general: Relevance | GeneralCost, name: str) -> tuple[int, torch.device]:
    """Return the number of a module's weights that have relevance, and its device."""
    found = general.first_order if isinstance(general, GeneralCost) else general.mean
    return found[name].numel(), found[name].device
