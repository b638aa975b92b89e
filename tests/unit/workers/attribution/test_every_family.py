"""What holds in every family: same logits, conservation, autograd's own answer, no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from excise.names import Attributor, Granularity
from tests.tiny import as_loaded, draw_samples, weight_bytes
from tests.tiny_families import MIXTURES, SETTINGS, build_family_model
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import compute_relevance
from workers.attribution.composites import (
    ATTN_LRP,
    COMPOSITES,
    CP_LRP,
    Composite,
    attribution_rules,
)
from workers.attribution.experts import UnsupportedExpertsError
from workers.attribution.observation import observed_gradients, observed_outputs
from workers.attribution.targets import Target
from workers.domain import Relevance, TokenSequence
from workers.families import (
    count_heads,
    find_attention_outputs,
    find_family,
    find_linear_modules,
    find_mlp_outputs,
    find_weight_modules,
    named_weight,
)

every_family = pytest.mark.parametrize("name", SETTINGS)
every_mixture = pytest.mark.parametrize("name", MIXTURES)
every_composite = pytest.mark.parametrize("composite", COMPOSITES.values(), ids=COMPOSITES)
LENGTHS = ((9, 4), (3, 8), (5, 0), (2, 1), (14, 0))
IDS = torch.tensor([[5, 81, 3, 77, 20, 4, 9, 61, 33, 2], [9, 9, 1, 50, 7, 8, 12, 3, 2, 90]])


def granularities_of(model: nn.Module) -> list[Granularity]:
    return sorted(find_family(model).granularities)


def attribute(
    model: nn.Module,
    granularity: Granularity,
    samples: list[TokenSequence],
    attributor: Attributor = Attributor.ATTNLRP,
    **options: Any,
) -> Relevance:
    target = Target.EMITTED_MINUS_RUNNER_UP
    asked = Attribution(attributor, granularity, target)
    return compute_relevance(as_loaded(model), asked, samples, Pass(**options))


def traces(model: nn.Module) -> tuple[object, ...]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return (
        [
            (name, kind, list(getattr(m, kind)))
            for name, m in model.named_modules()
            for kind in kinds
        ],
        [sorted(vars(module)) for module in model.modules()],
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad is None) for p in model.parameters()],
        weight_bytes(model),
    )


@every_family
@every_composite
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_bit_identical_under_rules_and_observers(
    name: str, composite: Composite, dtype: torch.dtype
) -> None:
    model = build_family_model(name).to(dtype)
    family = find_family(model)
    plain = model(IDS, use_cache=False).logits.detach()
    neurons = find_mlp_outputs(model, family) | find_attention_outputs(model, family)
    modules = find_weight_modules(model, family)
    with (
        observed_outputs(modules, lambda *seen: None),
        attribution_rules(as_loaded(model), composite),
        observed_gradients(neurons, lambda *seen: None),
    ):
        ruled = model(IDS, use_cache=False).logits
    assert ruled.requires_grad
    assert torch.equal(plain, ruled)


@contextmanager
def first_states(model: nn.Module) -> Iterator[list[Tensor]]:
    """The first layer's input, as a leaf that takes a gradient."""
    states: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        states.append(args[0].detach().requires_grad_())
        return (states[-1], *args[1:])

    block = model.get_submodule(f"{find_family(model).layers}.0")
    handle = block.register_forward_pre_hook(hook)
    try:
        yield states
    finally:
        handle.remove()


def bias_shares(model: nn.Module, outputs: dict[str, Tensor]) -> Tensor:
    """What every bias gave the explained logits: bias times the gradient at its output."""
    total = torch.zeros(())
    for name, output in outputs.items():
        bias = model.get_submodule(name).bias
        if bias is not None and output.grad is not None:
            total = total + (bias.detach() * output.grad).sum()
    return total


@every_family
def test_cp_lrp_conserves_relevance_with_the_shares_of_the_biases(name: str) -> None:
    model = build_family_model(name, seed=3)
    family = find_family(model)
    outputs: dict[str, Tensor] = {}

    def keep(label: str):
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if output.requires_grad:
                output.retain_grad()
            outputs[label] = output

        return hook

    biased = [label for label, module in model.named_modules() if hasattr(module, "bias")]
    # Before the rules: the gradient that reaches a bias is what all rules have left of it;
    # a norm's rule replaces its output, so that a norm's gradient is read after it.
    linear = set(find_linear_modules(model, family))
    handles = [
        model.get_submodule(label).register_forward_hook(keep(label))
        for label in biased
        if label in linear
    ]
    with attribution_rules(as_loaded(model), CP_LRP), first_states(model) as states:
        handles += [
            model.get_submodule(label).register_forward_hook(keep(label))
            for label in biased
            if label not in linear
        ]
        target = model(IDS, use_cache=False).logits[:, -1].max(dim=-1).values.sum()
        target.backward()
    for handle in handles:
        handle.remove()
    explained, shares = target.detach(), bias_shares(model, outputs)
    held = (states[0].detach() * states[0].grad).sum() + shares
    torch.testing.assert_close(held, explained, rtol=1e-4, atol=1e-4)
    if name in ("opt", "gpt2", "gpt_neox", "qwen2", "llama"):
        assert abs(float(shares)) > 1e-3 * abs(float(explained))


def explain_by_autograd(
    model: nn.Module, sample: TokenSequence, composite: Composite
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradient of the target at every linear projection's input, and at every weight."""
    family = find_family(model)
    projections = find_attention_outputs(model, family)
    if family.experts is None:
        projections = find_mlp_outputs(model, family) | projections
    matrices = {
        name: named_weight(module, name)
        for name, module in find_weight_modules(model, family).items()
    }
    kept: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            args[0].retain_grad()
            kept[name] = args[0]

        return hook

    with attribution_rules(as_loaded(model), composite):
        handles = [m.register_forward_pre_hook(keep(name)) for name, m in projections.items()]
        for weight in matrices.values():
            weight.requires_grad_()
        logits = model(torch.tensor([sample.token_ids]), use_cache=False).logits[0]
        first = len(sample.prompt_ids) - 1 if sample.response_ids else 0
        total = torch.zeros(())
        for position in range(first, len(sample.token_ids) - 1):
            emitted = sample.token_ids[position + 1]
            others = torch.cat([logits[position, :emitted], logits[position, emitted + 1 :]])
            total = total + logits[position, emitted] - others.max()
        total.backward()
        for handle in handles:
            handle.remove()
    features = {
        name: (value * value.grad).detach().reshape(-1, value.shape[-1])
        for name, value in kept.items()
    }
    weights = {}
    for name, weight in matrices.items():
        weights[name] = weight.detach() * (0 if weight.grad is None else weight.grad)
        weight.grad = None
    return features, weights


def assert_close(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=scale * 2e-5)


@every_family
@every_composite
def test_relevance_is_what_autograd_says_under_the_rules(name: str, composite: Composite) -> None:
    model = build_family_model(name, seed=1)
    family = find_family(model)
    samples = draw_samples(LENGTHS)
    parts = [explain_by_autograd(model, sample, composite) for sample in samples]
    tokens = sum(len(sample.token_ids) for sample in samples)
    attributor = Attributor(composite.name)
    neurons = attribute(model, Granularity.NEURON, samples, attributor)
    heads = attribute(model, Granularity.HEAD, samples, attributor)
    weights = attribute(model, Granularity.WEIGHT, samples, attributor)
    for module in find_mlp_outputs(model, family) if family.experts is None else ():
        values = torch.cat([features[module] for features, _ in parts])
        assert_close(neurons.mean[module], values.mean(0))
        assert_close(neurons.mean_absolute[module], values.abs().mean(0))
    for module in find_attention_outputs(model, family):
        values = torch.cat([features[module] for features, _ in parts])
        values = values.unflatten(-1, (count_heads(model), -1)).sum(-1)
        assert_close(heads.mean[module], values.mean(0))
        assert_close(heads.mean_square[module], values.square().mean(0))
    for module in find_weight_modules(model, family):
        assert_close(weights.mean[module], sum(weight[module] for _, weight in parts) / tokens)


def explain_in_double(model: nn.Module, samples: list[TokenSequence]) -> dict[str, Tensor]:
    """Weight times its plain gradient, summed over samples: no rules, no hooks, float64."""
    model = model.double()
    model.set_experts_implementation("eager")
    model.zero_grad()
    for sample in samples:
        logits = model(torch.tensor([sample.token_ids]), use_cache=False).logits[0]
        first = len(sample.prompt_ids) - 1 if sample.response_ids else 0
        for position in range(first, len(sample.token_ids) - 1):
            emitted = sample.token_ids[position + 1]
            others = logits[position].scatter(0, torch.tensor(emitted), -torch.inf)
            (logits[position, emitted] - others.max()).backward(retain_graph=True)
    return {
        name: parameter.detach() * parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@every_mixture
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_without_rules_an_expert_s_weight_has_its_gradient_times_itself(
    name: str, implementation: str
) -> None:
    model = build_family_model(name, seed=6)
    model.set_experts_implementation(implementation)
    samples = draw_samples(LENGTHS)
    found = attribute(model, Granularity.WEIGHT, samples, Attributor.GRADIENT_X_INPUT)
    expected = explain_in_double(build_family_model(name, seed=6), samples)
    for module, values in found.mean.items():
        slow = expected[module if "experts" in module else f"{module}.weight"] / found.tokens
        assert float(slow.abs().max()) > 0
        assert_close(values.double(), slow)


@every_mixture
def test_experts_that_no_explained_token_chose_have_no_relevance(name: str) -> None:
    model = build_family_model(name)
    found = attribute(model, Granularity.WEIGHT, [TokenSequence((3, 14))])  # one prediction
    for module, values in found.mean.items():
        if "experts" in module:
            assert sum(bool(own.any()) for own in values) == 2


@every_mixture
def test_what_an_expert_writes_is_conserved_from_its_output_to_its_weights(name: str) -> None:
    """Of a linear map without a bias: Σ W · gradient ⊗ input = Σ input · its gradient."""
    model = build_family_model(name)
    samples = draw_samples(LENGTHS)
    for attributor in (Attributor.ATTNLRP, Attributor.CP_LRP, Attributor.GRADIENT_X_INPUT):
        neurons = attribute(model, Granularity.NEURON, samples, attributor)
        weights = attribute(model, Granularity.WEIGHT, samples, attributor)
        for module, values in neurons.mean.items():
            by_column = weights.mean[module].sum(dim=1).flatten()
            assert_close(by_column, values)


@every_family
def test_a_ragged_batch_is_its_samples_one_by_one(name: str) -> None:
    model = build_family_model(name)
    samples = draw_samples(LENGTHS)
    for granularity in granularities_of(model):
        together = attribute(model, granularity, samples, batch_tokens=1000)
        alone = attribute(model, granularity, samples, batch_tokens=1)
        for module, expected in alone.mean.items():
            assert_close(together.mean[module], expected)


def is_stopped(module: str, granularity: Granularity, attributor: Attributor) -> bool:
    """Whether CP-LRP lets nothing through: it takes attention weights as constants."""
    is_score = module.endswith(("q_proj", "k_proj"))
    return attributor is Attributor.CP_LRP and granularity is Granularity.WEIGHT and is_score


@every_family
@pytest.mark.parametrize("attributor", list(Attributor))
def test_every_attributor_covers_every_component_and_leaves_no_trace(
    name: str, attributor: Attributor
) -> None:
    model = build_family_model(name).train()
    before = traces(model)
    for granularity in granularities_of(model):
        found = attribute(model, granularity, draw_samples(LENGTHS), attributor)
        assert traces(model) == before
        for module, values in found.mean.items():
            assert torch.isfinite(values).all()
            assert bool(values.any()) is not is_stopped(module, granularity, attributor)


@every_family
def test_bfloat16_gives_nearly_the_relevance_of_float32(name: str) -> None:
    model = build_family_model(name)
    samples = draw_samples(LENGTHS)
    for granularity in granularities_of(model):
        exact = attribute(model, granularity, samples, Attributor.CP_LRP)
        rounded = attribute(model.bfloat16(), granularity, samples, Attributor.CP_LRP)
        model = build_family_model(name)
        for module, expected in exact.mean.items():
            found = rounded.mean[module]
            assert found.dtype == torch.float32
            if is_stopped(module, granularity, Attributor.CP_LRP):
                continue
            pair = torch.stack([found.flatten(), expected.flatten()])
            assert float(torch.corrcoef(pair)[0, 1]) > 0.9, module


@every_family
def test_two_models_keep_their_own_rules(name: str) -> None:
    first, second = build_family_model(name, 1), build_family_model(name, 2)
    samples = draw_samples(LENGTHS)
    alone = attribute(second, Granularity.NEURON, samples, Attributor.GRADIENT_X_INPUT)
    with attribution_rules(as_loaded(first), ATTN_LRP):
        beside = attribute(second, Granularity.NEURON, samples, Attributor.GRADIENT_X_INPUT)
    for module, expected in alone.mean.items():
        assert torch.equal(beside.mean[module], expected)


# --- experts -------------------------------------------------------------------------------


@every_mixture
@pytest.mark.parametrize("attributor", ["attnlrp", "cp_lrp", "gradient_x_input", "wanda"])
@pytest.mark.parametrize("granularity", [Granularity.NEURON, Granularity.WEIGHT])
def test_every_experts_implementation_gives_the_same_relevance(
    name: str, attributor: str, granularity: Granularity
) -> None:
    found = []
    for implementation in ("eager", "grouped_mm", "batched_mm"):
        model = build_family_model(name)
        model.set_experts_implementation(implementation)
        samples = draw_samples(LENGTHS)
        found.append(attribute(model, granularity, samples, Attributor(attributor)))
    for other in found[1:]:
        for module, expected in found[0].mean.items():
            assert_close(other.mean[module], expected)
        for module, expected in found[0].mean_absolute.items():
            assert_close(other.mean_absolute[module], expected)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_experts_whose_forward_is_wrapped_are_seen_all_the_same(implementation: str) -> None:
    model = build_family_model("mixtral")
    model.set_experts_implementation(implementation)
    samples = draw_samples(LENGTHS)
    expected = attribute(model, Granularity.NEURON, samples)
    for layer in model.model.layers:  # as accelerate does on a model of several devices
        layer.mlp.experts.forward = partial(type(layer.mlp.experts).forward, layer.mlp.experts)
    found = attribute(model, Granularity.NEURON, samples)
    for name, values in expected.mean.items():
        assert values.abs().sum() > 0
        assert torch.equal(found.mean[name], values)


@every_mixture
@every_composite
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_experts_change_no_bit_of_the_logits(
    name: str, composite: Composite, implementation: str
) -> None:
    model = build_family_model(name)
    model.set_experts_implementation(implementation)
    plain = model(IDS, use_cache=False).logits.detach()
    with attribution_rules(as_loaded(model), composite):
        assert torch.equal(model(IDS, use_cache=False).logits, plain)


def test_one_expert_is_a_plain_mlp() -> None:
    mixture = build_family_model("mixtral", num_local_experts=1, num_experts_per_tok=1)
    rotary = mixture.config.rope_parameters
    plain = build_family_model(
        "llama", attention_bias=False, mlp_bias=False, rope_parameters=rotary
    )
    state = mixture.state_dict()
    renamed = {}
    for key, value in state.items():
        if key.endswith("experts.gate_up_proj"):
            base = key.removesuffix("experts.gate_up_proj")
            gate, up = value[0].chunk(2)
            renamed |= {f"{base}gate_proj.weight": gate, f"{base}up_proj.weight": up}
        elif key.endswith("experts.down_proj"):
            renamed[key.replace("experts.down_proj", "down_proj.weight")] = value[0]
        elif "mlp.gate" not in key:
            renamed[key] = value
    plain.load_state_dict(renamed)
    for module in plain.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = mixture.config.rms_norm_eps
    samples = draw_samples(LENGTHS)
    # One expert's routing weight is 1 and a constant, as CP-LRP takes all of them to be.
    for attributor in (Attributor.CP_LRP, Attributor.WANDA, Attributor.MAGNITUDE):
        expected = attribute(plain, Granularity.NEURON, samples, attributor)
        found = attribute(mixture, Granularity.NEURON, samples, attributor)
        for layer in range(2):
            mine = found.mean[f"model.layers.{layer}.mlp.experts.down_proj"]
            assert_close(mine, expected.mean[f"model.layers.{layer}.mlp.down_proj"])
        expected = attribute(plain, Granularity.WEIGHT, samples, attributor)
        found = attribute(mixture, Granularity.WEIGHT, samples, attributor)
        for layer in range(2):
            base = f"model.layers.{layer}.mlp"
            gate, up = found.mean[f"{base}.experts.gate_up_proj"][0].chunk(2)
            down = found.mean[f"{base}.experts.down_proj"][0]
            for name, mine in (("gate_proj", gate), ("up_proj", up), ("down_proj", down)):
                assert_close(mine, expected.mean[f"{base}.{name}"])


def test_experts_without_a_seam_are_refused() -> None:
    model = build_family_model("mixtral")
    model.config._experts_implementation_internal = "deepgemm"
    before = traces(model)
    with pytest.raises(UnsupportedExpertsError, match=r"deepgemm.*set_experts_implementation"):
        attribute(model, Granularity.NEURON, draw_samples(LENGTHS))
    assert traces(model) == before
