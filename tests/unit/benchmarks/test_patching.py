from __future__ import annotations

import pytest
import torch

from benchmarks.patching import (
    Patch,
    compute_pearson,
    estimate_head_effects,
    estimate_mlp_effects,
    measure_head_effects,
    measure_mlp_effects,
    measure_patches,
)
from excise.names import Granularity
from tests.tiny import MODULES, as_loaded
from tests.unit.workers.circuits.build import HEADS, PAD, build_model_with_one_head, draw_task
from workers.attribution.composites import ATTN_LRP, CP_LRP, GRADIENT
from workers.circuits.measurement import measure_rows
from workers.circuits.projections import find_projections
from workers.circuits.tasks import TaskError


def patch_slowly(model, row, module, features, positions):
    """The effect of one patch on one row, one run each."""
    inputs = []
    target = model.get_submodule(module)
    handle = target.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    clean = model(torch.tensor([row.clean_ids])).logits[0, -1]
    model(torch.tensor([row.corrupted_ids]))
    handle.remove()
    replaced = inputs[0].clone()
    replaced[:, positions, features] = inputs[1][:, positions, features]
    handle = target.register_forward_pre_hook(lambda _, args: (replaced,))
    patched = model(torch.tensor([row.clean_ids])).logits[0, -1]
    handle.remove()
    difference = clean - patched
    return float(difference[row.answer_ids[0]] - difference[row.wrong_ids[0]])


@torch.no_grad()
@pytest.mark.parametrize("batch_tokens", [1, 50, 2048])
def test_batched_patches_equal_one_run_each(model, batch_tokens):
    task = draw_task((7, 5, 6))
    projections = find_projections(as_loaded(model), (Granularity.NEURON, Granularity.HEAD))
    patches = [
        Patch(MODULES[0], slice(None), slice(4, 5)),
        Patch(MODULES[1], slice(2, 9), slice(None)),
        Patch(HEADS[0], slice(8, 16), slice(None)),
        Patch(MODULES[0], slice(None), slice(0, 1)),
    ]
    done: list[int] = []

    effects = measure_patches(
        as_loaded(model, pad_id=PAD),
        projections,
        task,
        patches,
        batch_tokens=batch_tokens,
        advance=done.append,
    )

    assert sum(done) == len(patches) * len(task.rows)
    for number, patch in enumerate(patches):
        for index, row in enumerate(task.rows):
            slow = patch_slowly(model, row, patch.module, patch.features, patch.positions)
            assert float(effects[number, index]) == pytest.approx(slow, abs=1e-4)
    assert not effects[3].any()
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_the_head_that_carries_the_answer_has_all_the_effect():
    model = build_model_with_one_head(HEADS[0], 1)
    task = draw_task((7, 6, 5))
    effects = measure_head_effects(as_loaded(model, pad_id=PAD), task)

    assert effects.shape == (2, 4)
    clean = measure_rows(as_loaded(model, pad_id=PAD), task.rows, task.metric)
    corrupted = measure_rows(as_loaded(model, pad_id=PAD), task.rows, task.metric, corrupted=True)
    expected = torch.zeros(2, 4)
    expected[0, 1] = (clean - corrupted).mean()
    assert torch.allclose(effects, expected, atol=1e-5)


@pytest.mark.parametrize("composite", [ATTN_LRP, CP_LRP, GRADIENT])
def test_estimates_have_the_grid_of_what_they_estimate(model, composite):
    task = draw_task((6, 6))
    mlps = estimate_mlp_effects(as_loaded(model, pad_id=PAD), composite, task)
    heads = estimate_head_effects(as_loaded(model, pad_id=PAD), composite, task)

    assert mlps.shape == measure_mlp_effects(as_loaded(model, pad_id=PAD), task).shape == (2, 6)
    assert heads.shape == (2, 4)
    assert not mlps[:, :3].any()  # the prompts are the same so far
    assert mlps[0, 3:].all()
    assert mlps[1].nonzero().flatten().tolist() == [5]  # the last layer speaks at the end only


def test_the_gradient_estimates_small_changes_exactly(model):
    """Where the two prompts almost agree, attribution patching is activation patching."""
    task = draw_task((6, 6))
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        for row in task.rows:
            position = len(row.clean_ids) - 3
            clean, corrupted = row.clean_ids[position], row.corrupted_ids[position]
            embedding[corrupted] = embedding[clean] * 1.001 + 1e-4 * torch.randn(32)
    measured = measure_mlp_effects(as_loaded(model, pad_id=PAD), task)
    estimated = estimate_mlp_effects(as_loaded(model, pad_id=PAD), GRADIENT, task)
    assert compute_pearson(measured, estimated) > 0.99


def test_mlp_grids_need_rows_of_one_length(model):
    with pytest.raises(TaskError, match="one template"):
        measure_mlp_effects(as_loaded(model, pad_id=PAD), draw_task((7, 6)))


def test_pearson_by_hand():
    one = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert compute_pearson(one, 3 * one + 5) == pytest.approx(1.0)
    assert compute_pearson(one, -one) == pytest.approx(-1.0)
    assert compute_pearson(
        torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0])
    ) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="constant"):
        compute_pearson(one, torch.ones(2, 2))
