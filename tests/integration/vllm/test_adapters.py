"""Adapters in real vLLM against the pruned model in transformers, alone and in mixed batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from excise.names import Granularity
from service.embedded.vllm import SERVED_BASE, Vllm
from service.serving.canaries import run_canary
from service.serving.vllm import (
    AdapterAlreadyLoadedError,
    AdapterRankError,
    UnknownServedModelError,
    VllmRefusalError,
    VllmServer,
)
from tests.integration.vllm.conftest import (
    ADAPTERS,
    NAME,
    NEW_TOKENS,
    Correction,
    RealVllm,
    Tokens,
    describe_canary,
    with_server,
)
from workers.domain import Selection
from workers.pruning.patch import build_patch
from workers.publishing.adapters import build_adapter


@pytest.fixture(scope="module")
def loaded(running: RealVllm, corrections: dict[str, Correction]) -> Vllm:
    """The server with exactly the three adapters loaded."""
    running.refresh()

    async def load(server: VllmServer) -> None:
        for name, correction in corrections.items():
            await server.load_adapter(name, correction.folder)

    with_server(running.vllm, load)
    return running.vllm


def ask(vllm: Vllm, questions: Sequence[tuple[str, Tokens]]) -> list[Tokens]:
    """Return the answers to (model, prompt) pairs, all asked at once."""

    async def go(server: VllmServer) -> list[Tokens]:
        answers = await asyncio.gather(
            *(
                server.complete(model, prompt, NEW_TOKENS, ignore_eos=True)
                for model, prompt in questions
            )
        )
        return [answer.token_ids for answer in answers]

    return with_server(vllm, go)


def count_differences(tokens: Mapping[str, Sequence[Tokens]]) -> dict[tuple[str, str], int]:
    """Return on how many prompts two models differ."""
    return {
        (one, other): sum(a != b for a, b in zip(tokens[one], tokens[other], strict=True))
        for one in tokens
        for other in tokens
        if one < other
    }


def test_the_corrections_are_distinguishable(
    base_tokens: tuple[Tokens, ...], corrections: dict[str, Correction]
) -> None:
    tokens = {SERVED_BASE: base_tokens} | {name: c.tokens for name, c in corrections.items()}
    assert min(count_differences(tokens).values()) >= 10


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_matches_the_pruned_model_token_by_token(
    name: str,
    loaded: Vllm,
    corrections: dict[str, Correction],
    prompts: list[Tokens],
) -> None:
    found = ask(loaded, [(name, prompt) for prompt in prompts])
    assert len(prompts) == 32
    assert tuple(found) == corrections[name].tokens


def test_base_and_three_adapters_are_correct_in_mixed_batches(
    loaded: Vllm,
    base_tokens: tuple[Tokens, ...],
    corrections: dict[str, Correction],
    prompts: list[Tokens],
) -> None:
    expected = {SERVED_BASE: base_tokens} | {name: c.tokens for name, c in corrections.items()}
    questions = [(name, prompt) for prompt in prompts for name in expected]
    found = ask(loaded, questions)
    wrong: dict[str, int] = {}
    for number, (name, _) in enumerate(questions):
        if found[number] != expected[name][number // len(expected)]:
            wrong[name] = wrong.get(name, 0) + 1
    assert wrong == {}


def test_the_canary_passes_an_adapter_and_stops_another_and_the_base(
    loaded: Vllm,
    base_tokens: tuple[Tokens, ...],
    corrections: dict[str, Correction],
    prompts: list[Tokens],
) -> None:
    document = describe_canary(base_tokens, corrections["first"].tokens, prompts)

    async def judge(server: VllmServer) -> list[str | None]:
        return [
            await run_canary(server, document, served, base)
            for served, base in (
                ("first", SERVED_BASE),
                ("second", SERVED_BASE),
                (SERVED_BASE, SERVED_BASE),
                ("first", "first"),
            )
        ]

    right, other, base, leaking = with_server(loaded, judge)
    assert right is None
    assert other is not None
    assert "differs" in other
    assert base is not None
    assert "the base model answered instead" in base
    assert leaking is not None
    assert "the corrected model answered instead" in leaking


def test_an_adapter_above_the_servers_rank_is_rejected_with_a_remedy(
    loaded: Vllm, base_folder: Path, served_folder: Path
) -> None:
    nine = Selection(Granularity.NEURON, {"model.layers.0.mlp.down_proj": torch.arange(9)})
    patch = build_patch(base_folder, nine)
    adapter = build_adapter(patch, base_folder, max_rank=16, base_model=NAME)
    assert adapter.rank == 9
    folder = served_folder / "large"
    folder.mkdir()
    adapter.save(folder)
    with pytest.raises(AdapterRankError, match="Restart it with a larger --max-lora-rank"):
        with_server(loaded, lambda server: server.load_adapter("large", folder))


def test_missing_and_existing_names_raise(loaded: Vllm, corrections: dict[str, Correction]) -> None:
    async def go(server: VllmServer) -> None:
        with pytest.raises(UnknownServedModelError):
            await server.load_adapter("nowhere", "/nowhere")
        with pytest.raises(AdapterAlreadyLoadedError):
            await server.load_adapter("first", corrections["first"].folder)
        with pytest.raises(UnknownServedModelError):
            await server.unload_adapter("nobody")
        with pytest.raises(UnknownServedModelError):
            await server.complete("nobody", (1, 2), 2)

    with_server(loaded, go)


def test_names_appear_and_disappear(loaded: Vllm, corrections: dict[str, Correction]) -> None:
    async def list_names(server: VllmServer) -> set[str]:
        return {model.name for model in await server.models()}

    async def go(server: VllmServer) -> None:
        assert await list_names(server) == {SERVED_BASE, *ADAPTERS}
        await server.unload_adapter("third")
        assert await list_names(server) == {SERVED_BASE, "first", "second"}
        await server.load_adapter("third", corrections["third"].folder)
        assert await server.health()
        assert (await server.version()).startswith("0.")

    with_server(loaded, go)


def test_without_the_key_no_request_is_answered(loaded: Vllm) -> None:
    stranger = replace(loaded, api_key="guessed")
    for question in (
        lambda server: server.models(),
        lambda server: server.load_adapter("x", "/x"),
        lambda server: server.complete(SERVED_BASE, (1, 2), 2),
    ):
        with pytest.raises(VllmRefusalError, match="401"):
            with_server(stranger, question)


def test_endpoints_without_a_key_are_closed(loaded: Vllm) -> None:
    for question in (
        lambda server: server._request("POST", "/reset_prefix_cache"),
        lambda server: server._request("POST", "/collective_rpc", {"method": "reload_weights"}),
    ):
        with pytest.raises(VllmRefusalError, match="404"):
            with_server(loaded, question)
