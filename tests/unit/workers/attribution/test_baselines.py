"""Stand-ins for relevance at every granularity, against slow loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from excise.names import Attributor, Granularity
from tests.tiny import as_loaded, draw_samples
from tests.tiny_families import MIXTURES, build_family_model
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import compute_relevance
from workers.attribution.baselines import score_by_inputs
from workers.attribution.sums import ALL_STATISTICS
from workers.attribution.targets import Target
from workers.domain import Relevance, Selection
from workers.families import find_components, find_family, is_transposed

LENGTHS = ((9, 4), (3, 8), (5, 0), (2, 1))
SAMPLES = draw_samples(LENGTHS)
# OPT flattens samples and tokens before its MLP, GPT-2 stores weights transposed.
every_layout = pytest.mark.parametrize("name", ["llama", "opt", "gpt2"])
every_granularity = pytest.mark.parametrize("granularity", list(Granularity))


def attribute(
    model: nn.Module,
    attributor: Attributor,
    granularity: Granularity,
    seed: int = 0,
    **options: Any,
) -> Relevance:
    return compute_relevance(
        as_loaded(model),
        Attribution(attributor, granularity, Target.TOP_LOGIT, ALL_STATISTICS, seed),
        SAMPLES,
        Pass(**options),
    )


def observe(model: nn.Module, name: str) -> Tensor:
    """The module's input `(token, feature)`, over all samples one by one."""
    kept: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda module, args: kept.append(args[0].detach().reshape(-1, args[0].shape[-1]))
    )
    with torch.no_grad():
        for sample in SAMPLES:
            model(torch.tensor([sample.token_ids]), use_cache=False)
    handle.remove()
    return torch.cat(kept)


def written(model: nn.Module, name: str, granularity: Granularity) -> Tensor:
    """What each component writes at each token, `(token, *component)`."""
    module = model.get_submodule(name)
    weight = module.weight.detach().T if is_transposed(module) else module.weight.detach()
    inputs = observe(model, name).abs()
    if granularity is Granularity.WEIGHT:
        values = torch.stack([weight.abs() * row for row in inputs])
        return values.transpose(1, 2) if is_transposed(module) else values
    norms = torch.tensor([float(weight[:, j].pow(2).sum().sqrt()) for j in range(weight.shape[1])])
    features = inputs * norms
    if granularity is Granularity.NEURON:
        return features
    return torch.stack([part.pow(2).sum(1).sqrt() for part in features.chunk(4, dim=1)], dim=1)


@every_layout
@every_granularity
@pytest.mark.parametrize("batch_tokens", [1, 30, 1000])
def test_activation_and_wanda_are_mean_and_root_mean_square_of_what_is_written(
    name: str, granularity: Granularity, batch_tokens: int
) -> None:
    model = build_family_model(name)
    activation = attribute(model, Attributor.ACTIVATION, granularity, batch_tokens=batch_tokens)
    wanda = attribute(model, Attributor.WANDA, granularity, batch_tokens=batch_tokens)
    for found in (activation, wanda):
        assert (found.tokens, found.samples) == (sum(map(sum, LENGTHS)), len(LENGTHS))
    for module in find_components(model, find_family(model), granularity):
        values = written(model, module, granularity)
        square = values.square().mean(0)
        for found, mean in ((activation, values.mean(0)), (wanda, square.sqrt())):
            torch.testing.assert_close(found.mean[module], mean, rtol=1e-4, atol=1e-6)
            assert torch.equal(found.mean_absolute[module], found.mean[module])
            torch.testing.assert_close(found.mean_square[module], square, rtol=1e-4, atol=1e-6)


def test_wanda_ranks_weights_by_weight_times_input_norm() -> None:
    model = build_family_model("llama")
    found = attribute(model, Attributor.WANDA, Granularity.WEIGHT)
    name = "model.layers.1.mlp.up_proj"
    weight = model.get_submodule(name).weight.detach()
    expected = weight.abs() * observe(model, name).norm(dim=0)
    torch.testing.assert_close(found.mean[name] * found.tokens**0.5, expected)


@every_layout
@every_granularity
def test_magnitude_is_the_norm_of_the_weights(name: str, granularity: Granularity) -> None:
    model = build_family_model(name)
    found = attribute(model, Attributor.MAGNITUDE, granularity)
    assert (found.tokens, found.samples) == (0, 0)
    for path, module in find_components(model, find_family(model), granularity).items():
        weight = module.weight.detach().T if is_transposed(module) else module.weight.detach()
        if granularity is Granularity.WEIGHT:
            assert torch.equal(found.mean[path], module.weight.detach().abs())
            continue
        parts = weight.chunk(4, dim=1) if granularity is Granularity.HEAD else weight.split(1, 1)
        expected = torch.tensor([float(part.norm()) for part in parts])
        torch.testing.assert_close(found.mean[path], expected)


@every_granularity
def test_random_relevance_is_seeded_and_uniform(granularity: Granularity) -> None:
    model = build_family_model("llama")
    state = torch.get_rng_state()
    found, again, other = (
        attribute(model, Attributor.RANDOM, granularity, seed=seed) for seed in (7, 7, 8)
    )
    assert torch.equal(state, torch.get_rng_state())
    first, second = list(found.mean)[:2]
    for name, values in found.mean.items():
        assert ((values >= 0) & (values < 1)).all()
        assert torch.equal(values, again.mean[name])
        assert not torch.equal(values, other.mean[name])
    assert not torch.equal(found.mean[first], found.mean[second])


def test_dropout_is_off_and_the_modes_come_back() -> None:
    model = build_family_model("gpt2")
    expected = attribute(model, Attributor.ACTIVATION, Granularity.NEURON)
    model.train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    found = attribute(model, Attributor.ACTIVATION, Granularity.NEURON)
    assert [module.training for module in model.modules()] == modes
    for name, values in expected.mean.items():
        assert torch.equal(found.mean[name], values)


def test_no_hook_is_left_when_the_model_fails() -> None:
    model = build_family_model("llama")
    model.model.layers[1].mlp.down_proj.weight = nn.Parameter(torch.zeros(3, 48))
    with pytest.raises(RuntimeError):
        attribute(model, Attributor.ACTIVATION, Granularity.NEURON)
    assert not any(module._forward_pre_hooks for module in model.modules())


def pass_experts(model: Any) -> dict[str, Tensor]:
    """What each expert of the first layer is shown, and what its output projection is."""
    experts = model.model.layers[0].mlp.experts
    shown: dict[str, list[Tensor]] = {"gate_up_proj": [], "down_proj": []}

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        hidden, index, _ = args
        each = [hidden[(index == expert).any(dim=-1)] for expert in range(module.num_experts)]
        products = [
            own @ weight.T for own, weight in zip(each, experts.gate_up_proj.detach(), strict=True)
        ]
        neurons = [
            nn.functional.silu(gate) * up for gate, up in (part.chunk(2, -1) for part in products)
        ]
        shown["gate_up_proj"].append(torch.stack([own.square().sum(0) for own in each]))
        shown["down_proj"].append(torch.stack([own.square().sum(0) for own in neurons]))

    handle = experts.register_forward_pre_hook(hook)
    with torch.no_grad():
        for sample in SAMPLES:
            model(torch.tensor([sample.token_ids]), use_cache=False)
    handle.remove()
    return {name: sum(parts) for name, parts in shown.items()}


@pytest.mark.parametrize("name", MIXTURES)
def test_wanda_ranks_an_expert_s_weights_by_what_its_own_tokens_show_it(name: str) -> None:
    model = build_family_model(name)
    found = attribute(model, Attributor.WANDA, Granularity.WEIGHT)
    for parameter, squares in pass_experts(model).items():
        path = f"model.layers.0.mlp.experts.{parameter}"
        weight = model.get_parameter(path).detach()
        expected = weight.abs() * squares.sqrt()[:, None, :] / found.tokens**0.5
        torch.testing.assert_close(found.mean[path], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attributor", list(Attributor))
@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", *MIXTURES])
def test_weights_at_some_places_are_those_of_all(name: str, attributor: Attributor) -> None:
    model = build_family_model(name)
    whole = attribute(model, attributor, Granularity.WEIGHT)
    chosen = {
        module: torch.arange(number, values.numel(), 7)
        for number, (module, values) in enumerate(whole.mean.items())
        if number % 3
    }
    places = Selection(Granularity.WEIGHT, chosen)
    asked = Attribution(
        attributor, Granularity.WEIGHT, Target.TOP_LOGIT, ALL_STATISTICS, places=places
    )
    found = compute_relevance(as_loaded(model), asked, SAMPLES)
    assert (found.tokens, found.samples) == (whole.tokens, whole.samples)
    for kind in ("mean", "mean_absolute", "mean_square"):
        assert list(getattr(found, kind)) == list(chosen)
        for module, indices in chosen.items():
            expected = getattr(whole, kind)[module].flatten()[indices]
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                getattr(found, kind)[module], expected, rtol=1e-4, atol=1e-6 * scale
            )


def test_wanda_s_score_is_its_formula() -> None:
    module = nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -1.0]]))
    scores = score_by_inputs(module, torch.tensor([2.0, 10.0, 1.0]))
    assert scores.tolist() == [[2.0, 20.0, 3.0], [1.0, 0.0, 1.0]]
