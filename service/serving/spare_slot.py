"""Keeping the last adapter slot of a server harmless.

vLLM 0.32 on CPU computes base requests that share a batch with adapter requests by the last slot.
Unloading an adapter removes its name but leaves its slot filled, until another load evicts the
least recently used one; so slots fill up over time. Therefore an adapter of zeros is put into the
last slot of a fresh server, and is never allowed to become the least recently used.
"""

from __future__ import annotations

from service.serving.vllm import VllmServer

SPARE_NAME = "excise-spare"
"""Name of the adapter of zeros on its server."""

_HEADER_LENGTH_BYTES = 8


def build_zeros(weights: bytes) -> bytes:
    """Return a safetensors file with the same tensors, all zero. Raises `ValueError` if invalid."""
    length = int.from_bytes(weights[:_HEADER_LENGTH_BYTES], "little")
    start = _HEADER_LENGTH_BYTES + length
    if start > len(weights):
        raise ValueError(
            "adapter_model.safetensors is shorter than its header says. Publish again."
        )
    return weights[:start] + bytes(len(weights) - start)


async def fill_slots(server: VllmServer, slots: int, folder: str) -> None:
    """Load the adapter of zeros in `folder` into every slot of a fresh server; keep the last one.

    The others are unloaded at once and will be evicted first. Raises `VllmError`.
    """
    fillers = [f"{SPARE_NAME}-{number}" for number in range(1, slots)]
    for name in (*fillers, SPARE_NAME):
        await server.load_adapter(name, folder)
    for name in fillers:
        await server.unload_adapter(name)


async def protect_slots(server: VllmServer, base_name: str) -> None:
    """Use every loaded adapter, with the zeros last, so that the next load evicts another one."""
    names = {model.name for model in await server.models()} - {base_name, SPARE_NAME}
    for name in (*sorted(names), SPARE_NAME):
        await server.complete(name, (1,), 1)
