"""LRP rules: values untouched bit for bit, gradients as the formulas say."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from workers.attribution.rules import apply_identity_rule, apply_rms_norm_rule, scale_gradient


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.25, -2.0])
def test_scaling_multiplies_the_gradient_only(factor: float) -> None:
    values = draw(3, 4).requires_grad_()
    upstream = draw(3, 4, seed=1)
    scaled = scale_gradient(values, factor)
    assert torch.equal(scaled, values)
    scaled.backward(upstream)
    assert torch.equal(values.grad, upstream * factor)


def test_a_factor_of_zero_stops_even_an_infinite_gradient() -> None:
    values = draw(2).requires_grad_()
    (scale_gradient(values, 0.0) * torch.inf + values).sum().backward()
    assert torch.equal(values.grad, torch.ones(2))


def test_halving_a_product_shares_its_relevance_equally() -> None:
    left, right = draw(5).requires_grad_(), draw(5, seed=1).requires_grad_()
    product = scale_gradient(left * right, 0.5)
    product.sum().backward()
    torch.testing.assert_close(left * left.grad, product / 2)
    torch.testing.assert_close(right * right.grad, product / 2)


@pytest.mark.parametrize("function", [functional.silu, functional.gelu, torch.tanh])
def test_the_identity_rule_passes_all_relevance_to_the_input(function) -> None:
    inputs = draw(4, 6).requires_grad_()
    outputs = function(inputs)
    upstream = draw(4, 6, seed=1)
    ruled = apply_identity_rule(inputs, outputs)
    assert torch.equal(ruled, outputs)
    ruled.backward(upstream)
    torch.testing.assert_close(inputs * inputs.grad, outputs * upstream)


def test_the_identity_rule_gives_an_input_of_zero_no_gradient() -> None:
    inputs = torch.tensor([0.0, -0.0, 1.0]).requires_grad_()
    apply_identity_rule(inputs, functional.silu(inputs)).sum().backward()
    assert inputs.grad.tolist()[:2] == [0.0, 0.0]
    assert torch.isfinite(inputs.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_norm_rule_takes_the_root_mean_square_as_constant(dtype: torch.dtype) -> None:
    inputs = draw(2, 3, 8, dtype=dtype).requires_grad_()
    weight = draw(8, seed=1, dtype=dtype)
    epsilon = 1e-2  # large, so that forgetting it shows
    rms = (inputs.detach().float().pow(2).mean(-1, keepdim=True) + epsilon).sqrt()
    outputs = weight * (inputs.float() / rms).to(dtype)
    upstream = draw(2, 3, 8, seed=2, dtype=dtype)
    ruled = apply_rms_norm_rule(inputs, outputs, weight, epsilon)
    assert torch.equal(ruled, outputs)
    ruled.backward(upstream)
    expected = upstream.float() * weight.float() / rms
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(inputs.grad.float(), expected, rtol=tolerance, atol=tolerance)


def test_the_norm_rule_conserves_relevance() -> None:
    inputs, weight = draw(4, 8).requires_grad_(), draw(8, seed=1)
    outputs = weight * functional.rms_norm(inputs, (8,), eps=1e-6)
    upstream = draw(4, 8, seed=2)
    apply_rms_norm_rule(inputs, outputs, weight, 1e-6).backward(upstream)
    torch.testing.assert_close(inputs * inputs.grad, outputs.detach() * upstream)


def test_rules_work_on_values_that_need_no_gradient() -> None:
    values = draw(3)
    for result in (
        scale_gradient(values, 0.5),
        apply_identity_rule(values, values * 2),
        apply_rms_norm_rule(values, values, torch.ones(3), 1e-6),
    ):
        assert not result.requires_grad
