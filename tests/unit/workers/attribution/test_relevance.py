"""Neuron relevance: what autograd says, whatever the batching, loud when not finite."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from excise.names import Attributor, Granularity
from tests.tiny import MODULES, NEURONS, as_loaded, build_tiny_model, draw_samples, weight_bytes
from workers.attribution.accumulation import NonFiniteRelevanceError
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import compute_relevance
from workers.attribution.composites import ATTN_LRP, COMPOSITES, CP_LRP, GRADIENT, Composite
from workers.attribution.targets import Target
from workers.domain import Relevance, TokenSequence
from workers.models.batches import build_batches

LENGTHS = ((9, 4), (3, 8), (5, 0), (2, 1), (14, 0), (1, 6))
AUTOGRAD_TARGETS = (
    Target.TOP_LOGIT,
    Target.EMITTED_LOG_PROBABILITY,
    Target.EMITTED_MINUS_RUNNER_UP,
)
every_composite = pytest.mark.parametrize("composite", COMPOSITES.values(), ids=COMPOSITES)


def relevance_of(
    model: nn.Module,
    samples: Sequence[TokenSequence],
    composite: Composite = ATTN_LRP,
    target: Target = Target.EMITTED_MINUS_RUNNER_UP,
    batch_tokens: int = 64,
    pad_id: int = 0,
) -> Relevance:
    return compute_relevance(
        as_loaded(model, pad_id=pad_id),
        Attribution(Attributor(composite.name), Granularity.NEURON, target),
        samples,
        Pass(batch_tokens=batch_tokens),
    )


def assert_same(left: Relevance, right: Relevance) -> None:
    assert (left.tokens, left.samples) == (right.tokens, right.samples)
    for name in MODULES:
        scale = float(right.mean_absolute[name].max())
        for one, other in (
            (left.mean[name], right.mean[name]),
            (left.mean_absolute[name], right.mean_absolute[name]),
        ):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6 * scale)


def combine(parts: Sequence[Relevance]) -> Relevance:
    tokens = sum(part.tokens for part in parts)

    def mean(kind: str, name: str) -> torch.Tensor:
        return sum(getattr(part, kind)[name] * part.tokens for part in parts) / tokens

    return Relevance(
        mean={name: mean("mean", name) for name in MODULES},
        mean_absolute={name: mean("mean_absolute", name) for name in MODULES},
        tokens=tokens,
        samples=sum(part.samples for part in parts),
    )


def explain_by_autograd(
    model: LlamaForCausalLM, sample: TokenSequence, target: Target
) -> dict[str, torch.Tensor]:
    """a · ∂L/∂a `(token, feature)` of one sample through the whole model, head included."""
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            kept[name] = args[0]

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in MODULES]
    ids = torch.tensor([sample.token_ids])
    logits = model(ids, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    first = len(sample.prompt_ids) - 1 if sample.response_ids else 0
    total = torch.zeros(())
    for position in range(first, len(sample.token_ids) - 1):
        emitted = sample.token_ids[position + 1]
        if target is Target.TOP_LOGIT:
            total = total + logits[position].max()
        elif target is Target.EMITTED_LOG_PROBABILITY:
            total = total + torch.log_softmax(logits[position], dim=-1)[emitted]
        else:
            others = torch.cat([logits[position, :emitted], logits[position, emitted + 1 :]])
            total = total + logits[position, emitted] - others.max()
    gradients = torch.autograd.grad(total, [kept[name] for name in MODULES])
    return {
        name: (kept[name] * gradient)[0].detach()
        for name, gradient in zip(MODULES, gradients, strict=True)
    }


@pytest.mark.parametrize("target", AUTOGRAD_TARGETS)
def test_gradient_x_input_is_what_autograd_says(model: LlamaForCausalLM, target: Target) -> None:
    samples = draw_samples(LENGTHS)
    parts = [explain_by_autograd(model, sample, target) for sample in samples]
    found = relevance_of(model, samples, GRADIENT, target)
    for name in MODULES:
        values = torch.cat([part[name] for part in parts])
        scale = float(values.abs().mean(0).max())
        torch.testing.assert_close(found.mean[name], values.mean(0), rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(
            found.mean_absolute[name], values.abs().mean(0), rtol=1e-4, atol=1e-5 * scale
        )


@every_composite
@pytest.mark.parametrize("target", AUTOGRAD_TARGETS)
def test_a_ragged_batch_gives_what_its_samples_give_alone(
    model: LlamaForCausalLM, composite: Composite, target: Target
) -> None:
    samples = draw_samples(LENGTHS)
    together = relevance_of(model, samples, composite, target, batch_tokens=1000)
    alone = [relevance_of(model, [sample], composite, target) for sample in samples]
    assert_same(together, combine(alone))


@pytest.mark.parametrize("batch_tokens", [1, 20, 40, 90, 10_000])
def test_relevance_does_not_depend_on_the_batch_size(
    model: LlamaForCausalLM, batch_tokens: int
) -> None:
    samples = draw_samples(LENGTHS * 2, seed=3)
    assert_same(
        relevance_of(model, samples, batch_tokens=batch_tokens),
        relevance_of(model, samples, batch_tokens=64),
    )


def test_relevance_does_not_depend_on_the_pad_token(model: LlamaForCausalLM) -> None:
    samples = draw_samples(LENGTHS)
    assert_same(
        relevance_of(model, samples, batch_tokens=1000, pad_id=0),
        relevance_of(model, samples, batch_tokens=1000, pad_id=77),
    )


def test_tokens_and_samples_are_counted_without_pads(model: LlamaForCausalLM) -> None:
    found = relevance_of(model, draw_samples(LENGTHS), batch_tokens=1000)
    assert found.tokens == sum(prompt + response for prompt, response in LENGTHS)
    assert found.samples == len(LENGTHS)
    assert tuple(found.mean) == tuple(found.mean_absolute) == MODULES
    for values in (*found.mean.values(), *found.mean_absolute.values()):
        assert values.shape == (NEURONS,)
        assert values.dtype == torch.float32
        assert not values.requires_grad
    for name in MODULES:
        assert (found.mean_absolute[name] >= found.mean[name].abs() * (1 - 1e-5)).all()
        assert found.mean_absolute[name].min() > 0


def test_neurons_of_the_last_layer_hold_the_relevance_of_their_product() -> None:
    # With only the MLP of one layer writing, the last norm linear and no residual, what the
    # neurons hold is the explained logit: conservation at the neurons themselves.
    model = build_tiny_model(num_hidden_layers=1)
    model.model.embed_tokens.weight.data.mul_(1e-6)
    model.model.layers[0].self_attn.o_proj.weight.data.zero_()
    model.model.norm.variance_epsilon = 0.0
    model.model.layers[0].post_attention_layernorm.variance_epsilon = 0.0
    (sample,) = draw_samples([(6, 0)])
    found = relevance_of(model, [sample], CP_LRP, Target.TOP_LOGIT)
    with torch.no_grad():
        logits = model(torch.tensor([sample.token_ids])).logits[0, :-1]
    held = float(found.mean[MODULES[0]].sum()) * found.tokens
    assert held == pytest.approx(float(logits.max(-1).values.sum()), rel=1e-4)


def test_a_sample_without_a_prediction_is_counted_and_irrelevant(model: LlamaForCausalLM) -> None:
    found = relevance_of(model, [TokenSequence((5,))])
    assert (found.tokens, found.samples) == (1, 1)
    assert not any(values.any() for values in found.mean_absolute.values())


def test_a_half_precision_model_gives_finite_float32_relevance(model: LlamaForCausalLM) -> None:
    samples = draw_samples(LENGTHS)
    exact = relevance_of(model, samples)
    found = relevance_of(model.to(torch.bfloat16), samples)
    for name in MODULES:
        assert found.mean[name].dtype == torch.float32
        both = torch.stack([found.mean_absolute[name], exact.mean_absolute[name]])
        assert torch.corrcoef(both)[0, 1] > 0.9


def test_callbacks_count_the_samples_of_each_batch(model: LlamaForCausalLM) -> None:
    samples, counts = draw_samples(LENGTHS), []
    compute_relevance(
        as_loaded(model),
        Attribution(Attributor.ATTNLRP, Granularity.NEURON, Target.TOP_LOGIT),
        samples,
        Pass(batch_tokens=30, advance=counts.append),
    )
    assert counts == [len(b.sample_indices) for b in build_batches(samples, 30, 0)]
    assert len(counts) > 1


def test_no_token_at_all_is_an_error(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="no reference samples"):
        relevance_of(model, [])


def state_of(model: nn.Module) -> tuple[object, ...]:
    hooks = [
        list(module._forward_hooks) + list(module._forward_pre_hooks) for module in model.modules()
    ]
    flags = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return hooks, flags, [module.training for module in model.modules()], weight_bytes(model)


@every_composite
def test_computing_leaves_the_model_as_it_was(model: LlamaForCausalLM, composite) -> None:
    model.train()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = state_of(model)
    relevance_of(model, draw_samples(LENGTHS), composite)
    assert state_of(model) == before


def test_a_callback_that_raises_stops_and_leaves_no_trace(model: LlamaForCausalLM) -> None:
    before = state_of(model)

    def stop(samples: int) -> None:
        raise InterruptedError(samples)

    with pytest.raises(InterruptedError):
        compute_relevance(
            as_loaded(model),
            Attribution(Attributor.ATTNLRP, Granularity.NEURON, Target.TOP_LOGIT),
            draw_samples(LENGTHS),
            Pass(batch_tokens=30, advance=stop),
        )
    assert state_of(model) == before


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_non_finite_relevance_names_module_and_sample(
    model: LlamaForCausalLM, poison: float
) -> None:
    samples = draw_samples(LENGTHS, vocabulary=100)
    samples[4] = TokenSequence((*samples[4].prompt_ids[:-2], 100, 3))
    model.model.embed_tokens.weight.data[100, 5] = poison
    before = state_of(model)
    with pytest.raises(NonFiniteRelevanceError, match=r"down_proj in samples \[4\]"):
        relevance_of(model, samples, batch_tokens=1)
    assert state_of(model) == before
    relevance_of(model, samples[:4], batch_tokens=1)  # the others are fine


def test_non_finite_relevance_names_the_layer_of_an_overflow(model: LlamaForCausalLM) -> None:
    # A silent neuron with a huge output column: all values are finite, its gradient is not.
    model.model.layers[0].mlp.up_proj.weight.data[7] = 0.0
    model.model.layers[0].mlp.down_proj.weight.data[:, 7] = torch.finfo(torch.float32).max
    model.lm_head.weight.data.mul_(100)
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    with pytest.raises(NonFiniteRelevanceError, match=r"model\.layers\.0\.mlp\.down_proj"):
        relevance_of(model, draw_samples(LENGTHS), batch_tokens=1000)


def attribute(
    model: nn.Module,
    granularity: Granularity,
    samples: Sequence[TokenSequence],
    target: Target,
    attributor: Attributor = Attributor.ATTNLRP,
) -> Relevance:
    return compute_relevance(
        as_loaded(model), Attribution(attributor, granularity, target), samples
    )


@pytest.mark.parametrize("attributor", ["attnlrp", "cp_lrp", "gradient_x_input"])
def test_the_weights_of_a_column_hold_the_relevance_of_their_input(
    model: LlamaForCausalLM, attributor: str
) -> None:
    # Σ_i W_ij · ∂L/∂W_ij = a_j · ∂L/∂a_j where module j's input feeds nothing else.
    samples, target = draw_samples(LENGTHS), Target.EMITTED_MINUS_RUNNER_UP
    chosen = Attributor(attributor)
    weights = attribute(model, Granularity.WEIGHT, samples, target, chosen)
    neurons = attribute(model, Granularity.NEURON, samples, target, chosen)
    heads = attribute(model, Granularity.HEAD, samples, target, chosen)
    for name, expected in neurons.mean.items():
        scale = float(expected.abs().max())
        found = weights.mean[name].sum(dim=0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)
    for name, expected in heads.mean.items():
        scale = float(expected.abs().max())
        found = weights.mean[name].sum(dim=0).unflatten(0, (4, -1)).sum(dim=1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)


def test_a_contrast_explains_one_answer_against_the_other(model: LlamaForCausalLM) -> None:
    prompt = draw_samples([(7, 0)])[0].prompt_ids
    answer, other = 11, 42
    sample = TokenSequence(prompt, (answer,), contrast_ids=(other,))
    swapped = TokenSequence(prompt, (other,), contrast_ids=(answer,))
    target = Target.EMITTED_MINUS_CONTRAST
    found = attribute(model, Granularity.NEURON, [sample], target, Attributor.GRADIENT_X_INPUT)
    opposite = attribute(model, Granularity.NEURON, [swapped], target, Attributor.GRADIENT_X_INPUT)
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        kept.append(args[0])

    handles = [model.get_submodule(name).register_forward_pre_hook(keep) for name in MODULES]
    logits = model(torch.tensor([prompt]), use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(logits[answer] - logits[other], kept)
    for name, value, gradient in zip(MODULES, kept, gradients, strict=True):
        expected = (value * gradient)[0].sum(dim=0).detach()
        scale = float(expected.abs().max())
        sums = found.mean[name] * found.tokens
        torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(opposite.mean[name], -found.mean[name])


def test_a_contrast_must_be_given(model: LlamaForCausalLM) -> None:
    samples = [TokenSequence((1, 2), (3,), contrast_ids=(4,)), TokenSequence((1, 2), (3,))]
    attribute(model, Granularity.NEURON, samples[:1], Target.EMITTED_MINUS_CONTRAST)
    with pytest.raises(ValueError, match=r"emitted_minus_contrast needs.*contrast_ids"):
        attribute(model, Granularity.NEURON, samples, Target.EMITTED_MINUS_CONTRAST)


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("attributor", list(Attributor))
def test_a_dispatched_model_gives_the_same(
    granularity: Granularity, attributor: Attributor
) -> None:
    # accelerate's own hooks wrap every module's forward, as they do under device_map.
    accelerate = pytest.importorskip("accelerate")
    samples, target = draw_samples(LENGTHS), Target.EMITTED_MINUS_RUNNER_UP
    expected = attribute(build_tiny_model(), granularity, samples, target, attributor)
    model = build_tiny_model()
    placed = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu"}
    placed |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    accelerate.dispatch_model(model, placed, force_hooks=True)
    assert any(hasattr(module, "_hf_hook") for module in model.modules())
    found = attribute(model, granularity, samples, target, attributor)
    for name, values in expected.mean.items():
        assert torch.equal(found.mean[name], values)


def test_parameters_receive_no_gradient(model: LlamaForCausalLM) -> None:
    for granularity in Granularity:
        attribute(model, granularity, draw_samples(LENGTHS), Target.TOP_LOGIT)
        assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("granularity", list(Granularity))
def test_non_finite_relevance_is_loud_at_every_granularity(
    model: LlamaForCausalLM, granularity: Granularity, poison: float
) -> None:
    samples = draw_samples(LENGTHS, vocabulary=100)
    samples[2] = TokenSequence((*samples[2].prompt_ids[:-2], 100, 3))
    model.model.embed_tokens.weight.data[100, 5] = poison
    with pytest.raises(NonFiniteRelevanceError, match=r"at model\.layers\..*in samples \[.*2"):
        attribute(model, granularity, samples, Target.TOP_LOGIT)
