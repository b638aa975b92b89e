"""Every attributor behind one call: name in, relevance of the two reference sets out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from workers.attribution.baselines import (
    compute_activation,
    compute_magnitude,
    draw_random_relevance,
)
from workers.attribution.composites import COMPOSITES
from workers.attribution.relevance import compute_neuron_relevance
from workers.attribution.targets import Target
from workers.batches import build_batches
from workers.domain import Relevance, TokenSequence
from workers.families import Family
from workers.progress import Advance

BATCH_TOKENS = 1024
"""Padded tokens a batch; activations of one batch are what attribution holds in memory."""


class Attributor(StrEnum):
    """What relevance is computed by."""

    ATTNLRP = "attnlrp"
    CP_LRP = "cp_lrp"
    GRADIENT_X_INPUT = "gradient_x_input"
    ACTIVATION = "activation"
    MAGNITUDE = "magnitude"
    RANDOM = "random"


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
) -> ContrastiveRelevance:
    """Return relevance on general text and on the undesired responses.

    General text is explained by its top logit at every position; an undesired response by the
    margin of each emitted token over the runner-up. `advance` is called with the number of
    samples of every finished batch.
    """

    def compute(samples: Sequence[TokenSequence], target: Target, salt: int) -> Relevance:
        if attributor is Attributor.MAGNITUDE:
            advance(len(samples))
            return compute_magnitude(model, family)
        if attributor is Attributor.RANDOM:
            advance(len(samples))
            return draw_random_relevance(model, family, seed + salt)
        batches = build_batches(samples, BATCH_TOKENS, pad_id)
        if attributor is Attributor.ACTIVATION:
            return compute_activation(model, family, batches, advance)
        composite = COMPOSITES[attributor.value]
        return compute_neuron_relevance(model, family, composite, batches, target, advance)

    return ContrastiveRelevance(
        general=compute(general, Target.TOP_LOGIT, 0),
        undesired=compute(undesired, Target.EMITTED_MINUS_RUNNER_UP, 1),
    )


def serialise_relevance(relevance: ContrastiveRelevance) -> bytes:
    """Return both relevances as safetensors bytes; token counts travel as tensors."""
    tensors: dict[str, torch.Tensor] = {}
    for side, value in (("general", relevance.general), ("undesired", relevance.undesired)):
        tensors[f"{side}::counts"] = torch.tensor([value.tokens, value.samples])
        for name in value.mean:
            tensors[f"{side}::mean::{name}"] = value.mean[name].clone()
            tensors[f"{side}::mean_absolute::{name}"] = value.mean_absolute[name].clone()
    return save_safetensors(tensors)


def parse_relevance(data: bytes, modules: Sequence[str]) -> ContrastiveRelevance:
    """Return what `serialise_relevance` stored, modules in the given order."""
    tensors = load_safetensors(data)

    def read(side: str) -> Relevance:
        tokens, samples = tensors[f"{side}::counts"].tolist()
        return Relevance(
            mean={name: tensors[f"{side}::mean::{name}"] for name in modules},
            mean_absolute={name: tensors[f"{side}::mean_absolute::{name}"] for name in modules},
            tokens=tokens,
            samples=samples,
        )

    return ContrastiveRelevance(read("general"), read("undesired"))
