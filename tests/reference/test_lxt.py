"""Our gradient-form rules against lxt.explicit.functional, an independent implementation.

lxt propagates relevance itself: what flows backwards through its functions is relevance. Ours
propagate a modified gradient, with relevance = value · gradient. So the same relevance enters
both, and what arrives at the inputs must agree.
"""

import pytest
import torch
from torch.nn import functional

from workers.attribution.rules import apply_identity_rule, apply_rms_norm_rule, scale_gradient

lxt = pytest.importorskip("lxt.explicit.functional", reason="lxt is not installed")

RTOL = 1e-4


def ours(outputs, relevance, *inputs):
    """Relevance at `inputs` when `relevance` arrives at `outputs`."""
    gradients = torch.autograd.grad(outputs, inputs, relevance / outputs.detach())
    return [value.detach() * gradient for value, gradient in zip(inputs, gradients, strict=True)]


def theirs(outputs, relevance, *inputs):
    return torch.autograd.grad(outputs, inputs, relevance)


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [value.requires_grad_() for value in values]


def assert_agree(mine, other):
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=RTOL, atol=RTOL * float(b.abs().mean()))


def test_linear():
    x, weight = tensors((3, 5, 8), (6, 8))
    weight = weight.detach()
    (relevance,) = tensors((3, 5, 6), seed=1)
    relevance = relevance.detach()
    assert_agree(
        ours(functional.linear(x, weight), relevance, x),
        theirs(lxt.linear_epsilon(x, weight, None, 1e-12), relevance, x),
    )


def test_matmul_is_the_uniform_rule():
    a, b = tensors((2, 4, 5), (2, 5, 3))
    relevance = tensors((2, 4, 3), seed=1)[0].detach()
    product = scale_gradient(a, 0.5) @ scale_gradient(b, 0.5)
    assert_agree(
        ours(product, relevance, a, b),
        theirs(lxt.matmul(a, b, False, 1e-12), relevance, a, b),
    )


def test_elementwise_product_is_the_uniform_rule():
    a, b = tensors((4, 7), (4, 7))
    relevance = tensors((4, 7), seed=1)[0].detach()
    product = scale_gradient(a * b, 0.5)
    assert_agree(ours(product, relevance, a, b), theirs(lxt.mul2(a, b), relevance, a, b))


def test_softmax_needs_no_rule_but_its_own_gradient():
    (scores,) = tensors((2, 6, 6))
    relevance = tensors((2, 6, 6), seed=1)[0].detach()
    assert_agree(
        ours(torch.softmax(scores, -1), relevance, scores),
        theirs(lxt.softmax(scores, -1), relevance, scores),
    )


def test_rms_norm():
    x, weight = tensors((3, 5, 8), (8,))
    weight = weight.detach()
    relevance = tensors((3, 5, 8), seed=1)[0].detach()
    outputs = lxt.rms_norm_identity(x.detach(), weight, 1e-6)
    mine = ours(apply_rms_norm_rule(x, outputs, weight, 1e-6), relevance, x)
    # lxt computes the variance in float32
    assert_agree(mine, theirs(lxt.rms_norm_identity(x, weight, 1e-6), relevance, x))


def test_sum():
    a, b = tensors((4, 7), (4, 7))
    relevance = tensors((4, 7), seed=1)[0].detach()
    assert_agree(
        ours(a + b, relevance, a, b),
        theirs(lxt.add2(a, b, False, 1e-12), relevance, a, b),
    )


@pytest.mark.parametrize("function", [functional.silu, functional.gelu, functional.relu])
def test_activation_passes_relevance_unchanged(function):
    (x,) = tensors((4, 7))
    relevance = tensors((4, 7), seed=1)[0].detach()
    outputs = function(x)
    alive = outputs.detach() != 0
    (mine,) = ours(apply_identity_rule(x, outputs), relevance, x)
    torch.testing.assert_close(mine[alive], relevance[alive], rtol=RTOL, atol=0)
