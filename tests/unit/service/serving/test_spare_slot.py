"""The last slot of an adapter server, before a server that evicts as vLLM does."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict

import httpx
import pytest
import torch
from safetensors.torch import load, save

from service.serving.spare_slot import SPARE_NAME, build_zeros, fill_slots, protect_slots
from service.serving.vllm import VllmServer

SLOTS = 4


class Slots:
    """Names that come and go, and slots that only a load frees, the least recently used first."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.slots: dict[int, int] = {}
        self.used: OrderedDict[int, None] = OrderedDict()
        self.loads = 0

    def handle(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or b"{}")
        if request.url.path == "/v1/load_lora_adapter":
            self.load(body["lora_name"])
        elif request.url.path == "/v1/unload_lora_adapter":
            del self.names[body["lora_name"]]
        elif request.url.path == "/v1/completions":
            self.use(self.names[body["model"]])
            choice = {"token_ids": [1], "text": "a", "finish_reason": "length"}
            return httpx.Response(200, json={"choices": [choice]})
        names = [{"id": name} for name in ("base", *self.names)]
        return httpx.Response(200, json={"data": names})

    def load(self, name: str) -> None:
        self.loads += 1
        self.names[name] = self.loads
        self.use(self.loads)

    def use(self, adapter: int) -> None:
        if adapter not in self.used:
            if len(self.used) == SLOTS:
                oldest, _ = self.used.popitem(last=False)
                del self.slots[oldest]
            self.slots[adapter] = min(set(range(SLOTS)) - set(self.slots.values()))
        self.used[adapter] = None
        self.used.move_to_end(adapter)

    def find_slot(self, name: str) -> int:
        return self.slots[self.names[name]]


@pytest.mark.parametrize("is_protected", [True, False])
def test_the_last_slot_holds_zeros_whatever_comes_and_goes(is_protected: bool) -> None:
    held = Slots()

    async def live() -> list[int]:
        found = []
        transport = httpx.MockTransport(held.handle)
        async with VllmServer("http://vllm", transport=transport) as server:
            if is_protected:
                await fill_slots(server, SLOTS, "/zeros")
                assert set(held.names) == {SPARE_NAME}
            for number in range(12):
                if number >= SLOTS - 1:
                    await server.unload_adapter(f"v{number - SLOTS + 1}")
                if is_protected:
                    await protect_slots(server, "base")
                await server.load_adapter(f"v{number}", "/files")
                names = [name for name in held.names if name != SPARE_NAME]
                for name in names[::-1]:
                    await server.complete(name, (1,), 1)
                found += [held.find_slot(name) for name in names]
        return found

    slots = asyncio.run(live())
    assert (SLOTS - 1 in slots) is not is_protected
    if is_protected:
        assert held.find_slot(SPARE_NAME) == SLOTS - 1


def test_zeros_have_the_same_tensors() -> None:
    weights = save({"a": torch.ones(2, 3), "b": torch.full((4,), 7.0)}, metadata={"format": "pt"})
    zeros = load(build_zeros(weights))
    assert {name: tuple(tensor.shape) for name, tensor in zeros.items()} == {"a": (2, 3), "b": (4,)}
    assert not any(tensor.any() for tensor in zeros.values())
    with pytest.raises(ValueError, match="shorter than its header"):
        build_zeros(weights[:20])
