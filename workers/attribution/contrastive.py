"""Relevance of the same neurons on general text and on an undesired behaviour, and its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from workers.attribution.attributors import Attributor, compute_relevance
from workers.attribution.targets import Target
from workers.domain import Granularity, Relevance, TokenSequence
from workers.families import Family
from workers.progress import Advance


@dataclass(frozen=True)
class ContrastiveRelevance:
    """Relevance of the same components on the two reference sets."""

    general: Relevance
    undesired: Relevance


def compute_contrastive_relevance(
    model: nn.Module,
    family: Family,
    attributor: Attributor,
    general: Sequence[TokenSequence],
    undesired: Sequence[TokenSequence],
    pad_id: int,
    seed: int,
    advance: Advance,
    granularity: Granularity = Granularity.NEURON,
) -> ContrastiveRelevance:
    """Return relevance on general text and on the undesired responses.

    General text is explained by its top logit at every position; an undesired response by the
    margin of each emitted token over the runner-up. `advance` is called with the number of
    samples of every finished batch. Raises what `compute_relevance` does.
    """

    def compute(samples: Sequence[TokenSequence], target: Target, salt: int) -> Relevance:
        return compute_relevance(
            model,
            family,
            attributor,
            granularity,
            samples,
            target,
            pad_id,
            seed=seed + salt,
            advance=advance,
        )

    return ContrastiveRelevance(
        general=compute(general, Target.TOP_LOGIT, 0),
        undesired=compute(undesired, Target.EMITTED_MINUS_RUNNER_UP, 1),
    )


def serialise_relevance(relevance: ContrastiveRelevance) -> bytes:
    """Return both relevances as safetensors bytes; token counts travel as tensors."""
    tensors: dict[str, torch.Tensor] = {}
    for side, value in (("general", relevance.general), ("undesired", relevance.undesired)):
        tensors[f"{side}::counts"] = torch.tensor([value.tokens, value.samples])
        for statistic in ("mean", "mean_absolute", "mean_square"):
            for name, values in getattr(value, statistic).items():
                tensors[f"{side}::{statistic}::{name}"] = values.clone()
    return save_safetensors(tensors)


def parse_relevance(data: bytes, modules: Sequence[str]) -> ContrastiveRelevance:
    """Return what `serialise_relevance` stored, modules in the given order."""
    tensors = load_safetensors(data)

    def read(side: str) -> Relevance:
        def statistic(kind: str) -> dict[str, torch.Tensor]:
            keys = {name: f"{side}::{kind}::{name}" for name in modules}
            return {name: tensors[key] for name, key in keys.items() if key in tensors}

        tokens, samples = tensors[f"{side}::counts"].tolist()
        return Relevance(
            mean=statistic("mean"),
            mean_absolute=statistic("mean_absolute"),
            tokens=tokens,
            samples=samples,
            mean_square=statistic("mean_square"),
        )

    return ContrastiveRelevance(read("general"), read("undesired"))
