"""Figures of probes against a slow loop: one forward pass a token, one sample at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tiny import build_tiny_model, draw_samples
from tests.tiny_families import build_family_model
from workers.abilities.encoding import EncodedProbe
from workers.domain import TokenSequence
from workers.families import find_family
from workers.measuring.probes import measure_probes
from workers.models.loaded import LoadedModel


def build_subject(model: nn.Module) -> LoadedModel:
    return LoadedModel(model=model, tokenizer=None, family=find_family(model), pad_id=0)


def mark(prompt: tuple[int, ...], pieces: list[tuple[tuple[int, ...], bool]]) -> EncodedProbe:
    response = tuple(token for piece, _ in pieces for token in piece)
    marks = tuple(is_target for piece, is_target in pieces for _ in piece)
    spans = tuple(len(piece) for piece, is_target in pieces if is_target)
    return EncodedProbe(TokenSequence(prompt, response, marks), spans)


def build_probes(seed: int) -> list[EncodedProbe]:
    """Two targets with given tokens between them, of several lengths."""
    samples = draw_samples([(3, 6), (5, 9), (2, 7), (4, 6)], seed)
    return [
        mark(own.prompt_ids, [(own.response_ids[:2], True), (own.response_ids[2:4], False),
                              (own.response_ids[4:], True)])
        for own in samples
    ]  # fmt: skip


@torch.no_grad()
def measure_slowly(model: nn.Module, probe: EncodedProbe) -> list[tuple[float, int, int]]:
    """(nats, first choices, tokens) of each target."""
    prompt, response = probe.sample.prompt_ids, probe.sample.response_ids
    found = []
    for place, token in enumerate(response):
        if probe.sample.is_explained[place]:
            ids = torch.tensor([[*prompt, *response[:place]]])
            logits = model(input_ids=ids, use_cache=False).logits[0, -1]
            chances = torch.log_softmax(logits.double(), dim=-1)
            found.append((-float(chances[token]), int(chances.argmax()) == token))
    items = []
    for span in probe.spans:
        own, found = found[:span], found[span:]
        items.append((sum(n for n, _ in own), sum(hit for _, hit in own), span))
    return items


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2"])
def test_figures_agree_with_a_slow_loop(name: str) -> None:
    model = build_family_model(name)
    slices = {"one": build_probes(1), "two": build_probes(2)[:3]}
    found = measure_probes(build_subject(model), slices)
    for own, probes in slices.items():
        wanted = [item for probe in probes for item in measure_slowly(model, probe)]
        assert found[own].nats == pytest.approx([nats for nats, _, _ in wanted], rel=1e-4)
        assert found[own].right == tuple(right for _, right, _ in wanted)
        assert found[own].tokens == tuple(tokens for _, _, tokens in wanted)


def test_what_greedy_decoding_writes_is_right_to_the_last_token() -> None:
    model = build_tiny_model()
    prompts = [own.prompt_ids for own in draw_samples([(4, 1), (9, 1), (6, 1)])]
    probes = []
    for prompt in prompts:
        written = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=5, do_sample=False, pad_token_id=0,
        )  # fmt: skip
        probes.append(mark(prompt, [(tuple(written[0, len(prompt) :].tolist()), True)]))
    found = measure_probes(build_subject(model), {"greedy": probes})["greedy"]
    assert found.right == found.tokens == (5, 5, 5)


def test_a_target_without_tokens_is_no_item() -> None:
    probe = mark((1, 2), [((), True), ((3, 4), True)])
    found = measure_probes(build_subject(build_tiny_model()), {"one": [probe]})["one"]
    assert found.tokens == (2,)


def test_probes_without_any_target_have_no_figures() -> None:
    probe = mark((1, 2), [((3, 4), False)])
    found = measure_probes(build_subject(build_tiny_model()), {"one": [probe], "none": []})
    assert found["one"].tokens == found["none"].tokens == ()


def test_progress_counts_every_probe() -> None:
    counts: list[int] = []
    measure_probes(build_subject(build_tiny_model()), {"one": build_probes(0)}, counts.append)
    assert sum(counts) == 4
