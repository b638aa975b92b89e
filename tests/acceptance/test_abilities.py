"""The gate on abilities fails as it should for a real model without its induction heads."""

from __future__ import annotations

import pytest
import torch

from excise.names import Granularity
from excise.specs.abilities import AbilitiesGateSpec
from tests.acceptance.real_checkpoints import load_real, needing
from workers.abilities import context, copying
from workers.abilities.catalogue import build_slices, list_ordinary_tokens
from workers.abilities.source import Purpose
from workers.domain import Selection
from workers.families import find_attention_outputs, find_family
from workers.gates.abilities import compare_slices, judge_abilities
from workers.measuring.probes import measure_probes
from workers.models.loaded import LoadedModel
from workers.pruning.components import pruned

NAME = "smollm2-135m-instruct"
REPEATED = 25
SEQUENCES = 8
KINDS = (*copying.SLICES, *context.SLICES)

pytestmark = needing(NAME)


@pytest.fixture(scope="module")
def checkpoint() -> LoadedModel:
    return load_real(NAME)


def find_induction_heads(checkpoint: LoadedModel, count: int) -> Selection:
    """Return the heads that attend most from a token to what followed it before (Olsson 2022)."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = torch.tensor(list_ordinary_tokens(checkpoint.tokenizer))
    drawn = torch.randint(len(vocabulary), (SEQUENCES, REPEATED), generator=generator)
    ids = vocabulary[drawn].repeat(1, 2)
    model = checkpoint.model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            attentions = model(input_ids=ids, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(before)
    queries = torch.arange(REPEATED, 2 * REPEATED)
    scores = torch.stack(
        [one[:, :, queries, queries - REPEATED + 1].mean((0, 2)) for one in attentions]
    )
    modules = list(find_attention_outputs(model, find_family(model)))
    chosen: dict[str, list[int]] = {}
    for place in scores.flatten().argsort(descending=True)[:count].tolist():
        layer, head = divmod(place, scores.shape[1])
        chosen.setdefault(modules[layer], []).append(head)
    indices = {name: torch.tensor(sorted(heads)) for name, heads in chosen.items()}
    return Selection(Granularity.HEAD, indices)


def test_a_model_without_its_two_strongest_induction_heads_is_rejected(
    checkpoint: LoadedModel,
) -> None:
    model = checkpoint.model
    subject = checkpoint
    slices = build_slices(checkpoint.tokenizer, Purpose.VERDICT, 0, 20, KINDS)
    base = measure_probes(subject, slices)
    same = compare_slices(KINDS, base, measure_probes(subject, slices), {}, AbilitiesGateSpec())
    assert judge_abilities(same).passed
    with pruned(model, find_induction_heads(checkpoint, 2)):
        cut = measure_probes(subject, slices)
    gate = judge_abilities(compare_slices(KINDS, base, cut, {}, AbilitiesGateSpec()))
    assert not gate.passed
    assert gate.note is not None
    assert "can no longer" in gate.note
    assert "repeat" in gate.note
