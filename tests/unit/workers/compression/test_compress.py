"""Compression: exact counts, untouched rest, and what sequential calibration changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from excise.names import READ_NO_SAMPLES, Attributor, Calibration, Granularity, Statistic
from tests.tiny import VOCABULARY, as_loaded, build_tiny_model, draw_samples, weight_bytes
from workers.attribution.attribution import Attribution
from workers.attribution.attributors import compute_relevance
from workers.attribution.baselines import score_by_inputs
from workers.attribution.sums import finish, merge_sums, parse_sums, serialise_sums
from workers.attribution.targets import Target
from workers.compression.compress import (
    NonFiniteScoreError,
    compress,
    prune_by_relevance,
    prune_module,
    sum_scores,
)
from workers.compression.plan import (
    CompressionOutcome,
    CompressionPlan,
    ModuleSparsity,
    NOfM,
    RowShare,
)
from workers.families import (
    UnsupportedGranularityError,
    find_family,
    find_linear_modules,
    is_transposed,
)

SAMPLES = draw_samples([(24, 0), (11, 0), (30, 0), (17, 0)])
HALF = RowShare(0.5)
BY_LRP = Attributor.ATTNLRP
EVERY = [attributor for attributor in Attributor if attributor is not Attributor.CP_LRP]


def run(model: Any, attributor: Attributor = BY_LRP, pattern: Any = HALF, **changes: Any) -> Any:
    callbacks = {name: changes.pop(name) for name in ("on_block", "progress") if name in changes}
    first_block = changes.pop("first_block", 0)
    plan = CompressionPlan(attributor, pattern, **changes)
    return compress(as_loaded(model), plan, SAMPLES, first_block=first_block, **callbacks)


def linears(model: nn.Module) -> dict[str, nn.Module]:
    return find_linear_modules(model, find_family(model))


def rows(module: nn.Module) -> torch.Tensor:
    """The weight `(output, input)`, whatever its layout."""
    weight = module.weight.detach()
    return weight.T if is_transposed(module) else weight


def build_gpt2() -> GPT2LMHeadModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=None,
        )
        return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("attributor", EVERY)
def test_every_row_loses_the_same_share(model: LlamaForCausalLM, attributor: Attributor) -> None:
    before = {name: rows(module).clone() for name, module in linears(model).items()}
    outcome = run(model, attributor, RowShare(0.25))
    assert len(before) == 14
    for name, module in linears(model).items():
        columns = before[name].shape[1]
        zeros = (rows(module) == 0).sum(dim=1)
        assert zeros.tolist() == [columns // 4] * len(before[name])
        kept = rows(module) != 0
        assert torch.equal(rows(module)[kept], before[name][kept])
        assert outcome.modules[name] == ModuleSparsity(int(zeros.sum()), before[name].numel())
    assert outcome.achieved_sparsity == 0.25


@pytest.mark.parametrize("attributor", EVERY)
@pytest.mark.parametrize("pattern", [NOfM(2, 4), NOfM(4, 8), NOfM(1, 4)])
def test_every_group_loses_its_number(
    model: LlamaForCausalLM, attributor: Attributor, pattern: NOfM
) -> None:
    run(model, attributor, pattern)
    for module in linears(model).values():
        groups = rows(module).unflatten(1, (-1, pattern.group))
        assert torch.all((groups == 0).sum(dim=2) == pattern.removed)


@pytest.mark.parametrize("attributor", EVERY)
def test_nothing_but_linear_weights_of_the_blocks_changes(
    model: LlamaForCausalLM, attributor: Attributor
) -> None:
    before = weight_bytes(model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    run(model, attributor)
    after = weight_bytes(model)
    changed = {name.removesuffix(".weight") for name in before if before[name] != after[name]}
    assert changed == set(linears(model))
    assert "lm_head" not in changed
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("attributor", EVERY)
def test_zero_sparsity_changes_no_logit(model: LlamaForCausalLM, attributor: Attributor) -> None:
    ids = torch.tensor([SAMPLES[0].token_ids])
    with torch.no_grad():
        before = model(ids).logits
    outcome = run(model, attributor, RowShare(0.0))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
    assert outcome.removed == 0
    assert outcome.weights == sum(module.weight.numel() for module in linears(model).values())


def test_conv1d_rows_are_output_features() -> None:
    model = build_gpt2()
    for attributor in (Attributor.WANDA, BY_LRP, Attributor.MAGNITUDE):
        model = build_gpt2()
        run(model, attributor)
        for module in linears(model).values():
            zeros = (rows(module) == 0).sum(dim=1)
            assert torch.all(zeros == rows(module).shape[1] // 2)
        assert torch.equal(model.transformer.wte.weight, build_gpt2().transformer.wte.weight)


@pytest.mark.parametrize("attributor", [BY_LRP, Attributor.ACTIVATION])
def test_the_smallest_relevance_of_each_row_goes(
    model: LlamaForCausalLM, attributor: Attributor
) -> None:
    relevance = compute_relevance(
        as_loaded(model),
        Attribution(
            attributor,
            Granularity.WEIGHT,
            Target.TOP_LOGIT,
            statistics=frozenset({Statistic.MEAN_ABSOLUTE}),
        ),
        SAMPLES,
    )
    run(model, attributor)
    for name, module in linears(model).items():
        scores = relevance.mean_absolute[name]
        removed = module.weight == 0
        for row, gone in zip(scores, removed, strict=True):
            assert float(row[gone].max()) <= float(row[~gone].min())


def test_the_statistic_decides() -> None:
    one, other = build_tiny_model(), build_tiny_model()
    run(one)
    run(other, statistic=Statistic.MEAN)
    relevance = compute_relevance(
        as_loaded(build_tiny_model()),
        Attribution(
            BY_LRP, Granularity.WEIGHT, Target.TOP_LOGIT, statistics=frozenset({Statistic.MEAN})
        ),
        SAMPLES,
    )
    assert weight_bytes(one) != weight_bytes(other)
    for name, module in linears(other).items():
        for row, gone in zip(relevance.mean[name].abs(), module.weight == 0, strict=True):
            assert float(row[gone].max()) <= float(row[~gone].min())


@pytest.mark.parametrize("attributor", [BY_LRP, Attributor.GRADIENT_X_INPUT])
def test_sums_of_shards_remove_what_one_pass_does(attributor: Attributor) -> None:
    whole, shared = build_tiny_model(), build_tiny_model()
    run(whole, attributor)
    plan = CompressionPlan(attributor, HALF)
    assert plan.is_additive
    parts = [
        sum_scores(as_loaded(shared), plan, SAMPLES[:3]),
        sum_scores(as_loaded(shared), plan, SAMPLES[3:], first_index=3),
    ]
    relevance = finish(merge_sums([parse_sums(serialise_sums(part)) for part in parts]))
    removed = prune_by_relevance(linears(shared), plan, relevance)
    assert {name: found.achieved_sparsity for name, found in removed.items()} == dict.fromkeys(
        linears(shared), 0.5
    )
    for name, module in linears(shared).items():
        other = linears(whole)[name].weight == 0
        # Sums in another order may exchange weights of all but the same score.
        assert ((module.weight == 0) != other).float().mean() < 1e-3


@pytest.mark.parametrize("attributor", [BY_LRP, Attributor.WANDA])
def test_only_scores_of_the_model_as_it_was_are_additive(attributor: Attributor) -> None:
    sequential = CompressionPlan(attributor, HALF, calibration=Calibration.SEQUENTIAL)
    assert not sequential.is_additive
    assert CompressionPlan(attributor, HALF).is_additive is (attributor is BY_LRP)


def test_wanda_removes_what_inputs_seldom_carry() -> None:
    module = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[4.0, -3.0, 2.0, 1.0]]))
    scores = score_by_inputs(module, torch.tensor([0.1, 1.0, 3.0, 1.0]))
    prune_module("m", module, scores, HALF)
    assert module.weight.tolist() == [[0.0, -3.0, 2.0, 0.0]]


def test_one_shot_wanda_agrees_with_the_attributor(model: LlamaForCausalLM) -> None:
    """The same score, read block by block here and in one pass there."""
    relevance = compute_relevance(
        as_loaded(model),
        Attribution(Attributor.WANDA, Granularity.WEIGHT, Target.TOP_LOGIT),
        SAMPLES,
    )
    run(model, Attributor.WANDA)
    for name, module in linears(model).items():
        for row, gone in zip(relevance.mean[name], module.weight == 0, strict=True):
            assert float(row[gone].max()) <= float(row[~gone].min()) * (1 + 1e-5)


@pytest.mark.parametrize("attributor", [Attributor.WANDA, BY_LRP, Attributor.GRADIENT_X_INPUT])
def test_sequential_calibration_differs_from_one_shot(attributor: Attributor) -> None:
    one, other = build_tiny_model(), build_tiny_model()
    run(one, attributor)
    run(other, attributor, calibration=Calibration.SEQUENTIAL)
    first = "model.layers.0."
    for name in linears(one):
        same = torch.equal(linears(one)[name].weight, linears(other)[name].weight)
        assert same or not name.startswith(first)
    last = "model.layers.1.mlp.down_proj"
    assert not torch.equal(linears(one)[last].weight, linears(other)[last].weight)


@pytest.mark.parametrize("attributor", [Attributor.WANDA, BY_LRP])
def test_sequential_scores_come_from_the_pruned_blocks_before(attributor: Attributor) -> None:
    """The second block goes as it would one-shot in a model whose first block is pruned."""
    one, other = build_tiny_model(), build_tiny_model()
    run(one, attributor, calibration=Calibration.SEQUENTIAL)
    for name, module in linears(other).items():
        if name.startswith("model.layers.0."):
            with torch.no_grad():
                module.weight.copy_(linears(one)[name].weight)
    run(other, attributor)
    for name in linears(one):
        if name.startswith("model.layers.1."):
            assert torch.equal(linears(one)[name].weight, linears(other)[name].weight)


def test_as_many_blocks_at_once_as_there_are_is_one_shot() -> None:
    one, other = build_tiny_model(), build_tiny_model()
    run(one)
    run(other, calibration=Calibration.SEQUENTIAL, blocks_at_once=2)
    assert weight_bytes(one) == weight_bytes(other)


@pytest.mark.parametrize("attributor", [Attributor.WANDA, BY_LRP])
def test_a_resumed_compression_ends_as_an_uninterrupted_one(attributor: Attributor) -> None:
    def stop(block: int, removed: object) -> None:
        raise KeyboardInterrupt

    whole, resumed = build_tiny_model(), build_tiny_model()
    run(whole, attributor, calibration=Calibration.SEQUENTIAL)
    with pytest.raises(KeyboardInterrupt):
        run(resumed, attributor, calibration=Calibration.SEQUENTIAL, on_block=stop)
    assert weight_bytes(resumed) != weight_bytes(whole)
    outcome = run(resumed, attributor, calibration=Calibration.SEQUENTIAL, first_block=1)
    assert weight_bytes(resumed) == weight_bytes(whole)
    assert all(name.startswith("model.layers.1.") for name in outcome.modules)


@pytest.mark.parametrize(
    ("attributor", "calibration"),
    [
        *((attributor, Calibration.ONE_SHOT) for attributor in EVERY),
        *((own, Calibration.SEQUENTIAL) for own in EVERY if own not in READ_NO_SAMPLES),
    ],
)
def test_progress_ends_at_its_total(
    model: LlamaForCausalLM, attributor: Attributor, calibration: Calibration
) -> None:
    seen: list[tuple[int, int]] = []
    blocks: list[int] = []
    run(
        model,
        attributor,
        calibration=calibration,
        progress=lambda standing: seen.append((standing.done, standing.total)),
        on_block=lambda block, removed: blocks.append(block),
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert blocks == [0, 1]


def test_random_scores_follow_the_seed() -> None:
    models = [build_tiny_model() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        run(model, Attributor.RANDOM, seed=seed)
    assert weight_bytes(models[0]) == weight_bytes(models[1])
    assert weight_bytes(models[0]) != weight_bytes(models[2])


def test_a_one_shot_compression_cannot_resume(model: LlamaForCausalLM) -> None:
    before = weight_bytes(model)
    with pytest.raises(ValueError, match="cannot resume"):
        run(model, first_block=1)
    with pytest.raises(ValueError, match="first_block must be in 0 … 1"):
        run(model, calibration=Calibration.SEQUENTIAL, first_block=2)
    assert weight_bytes(model) == before


def test_no_samples_are_refused(model: LlamaForCausalLM) -> None:
    plan = CompressionPlan(Attributor.MAGNITUDE, HALF)
    with pytest.raises(ValueError, match="no calibration samples"):
        compress(as_loaded(model), plan, [])


def test_a_row_that_does_not_divide_into_groups_is_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match=r"model\.layers\.0"):
        run(model, Attributor.MAGNITUDE, NOfM(3, 7))


def test_non_finite_scores_name_the_module_and_change_nothing() -> None:
    module = nn.Linear(2, 1)
    before = module.weight.detach().clone()
    with pytest.raises(NonFiniteScoreError, match="layer"):
        prune_module("layer", module, torch.tensor([[1.0, float("inf")]]), HALF)
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("attributor", [Attributor.MAGNITUDE, Attributor.RANDOM])
def test_sequential_calibration_needs_an_attributor_that_reads_samples(
    attributor: Attributor,
) -> None:
    with pytest.raises(ValueError, match="use one_shot"):
        CompressionPlan(attributor, HALF, calibration=Calibration.SEQUENTIAL)


def test_meaningless_plans_are_refused() -> None:
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="share"):
            RowShare(share)
    for removed, group in ((0, 4), (4, 4), (5, 4)):
        with pytest.raises(ValueError, match="cannot remove"):
            NOfM(removed, group)
    with pytest.raises(ValueError, match="use attnlrp"):
        CompressionPlan(Attributor.CP_LRP, HALF)
    with pytest.raises(ValueError, match="blocks_at_once"):
        CompressionPlan(BY_LRP, HALF, blocks_at_once=0)


def test_a_mixture_of_experts_is_refused() -> None:
    """Its experts are no linear modules: it would lose weights of the attention only."""
    with torch.random.fork_rng(devices=[]):
        model = MixtralForCausalLM(
            MixtralConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=2,
                num_local_experts=2,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
    before = weight_bytes(model)
    for attributor in (Attributor.WANDA, Attributor.MAGNITUDE):
        with pytest.raises(UnsupportedGranularityError, match="lie in fused experts"):
            run(model, attributor)
    assert weight_bytes(model) == before


def test_an_outcome_sums_its_modules() -> None:
    outcome = CompressionOutcome({"a": ModuleSparsity(1, 4), "b": ModuleSparsity(3, 12)})
    assert (outcome.removed, outcome.weights, outcome.achieved_sparsity) == (4, 16, 0.25)
    assert outcome.modules["b"].achieved_sparsity == 0.25
