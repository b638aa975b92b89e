"""Keeping an adapter server's last slot harmless, whatever comes and goes on it.

vLLM 0.32 on CPU computes base requests that share a batch with adapter requests by the last slot.
Unloading an adapter takes its name away and leaves its slot filled until another load evicts the
least recently used one, so slots fill up as versions come and go. Hence an adapter of zeros: it is
put into the last slot of a server that holds nothing yet, and is never the least recently used.
"""

from __future__ import annotations

from service.serving.vllm import VllmServer

SPARE_NAME = "excise-spare"
"""What the adapter of zeros is called on its server."""

_HEADER_LENGTH_BYTES = 8


def build_zeros(weights: bytes) -> bytes:
    """A safetensors file with the same tensors, all zero. Raises `ValueError` for another file."""
    length = int.from_bytes(weights[:_HEADER_LENGTH_BYTES], "little")
    start = _HEADER_LENGTH_BYTES + length
    if start > len(weights):
        raise ValueError(
            "adapter_model.safetensors is shorter than its header says. Publish again."
        )
    return weights[:start] + bytes(len(weights) - start)


async def fill_slots(server: VllmServer, slots: int, folder: str) -> None:
    """Put the adapter of zeros in `folder` into every slot of a fresh server, the last for good.

    The others lose their names at once and are the first to be evicted. Raises `VllmError`.
    """
    fillers = [f"{SPARE_NAME}-{number}" for number in range(1, slots)]
    for name in (*fillers, SPARE_NAME):
        await server.load_adapter(name, folder)
    for name in fillers:
        await server.unload_adapter(name)


async def protect_slots(server: VllmServer, base_name: str) -> None:
    """Use every adapter that has a name, the one of zeros last: the next load evicts another.

    Raises `VllmError`.
    """
    names = {model.name for model in await server.models()} - {base_name, SPARE_NAME}
    for name in (*sorted(names), SPARE_NAME):
        await server.complete(name, (1,), 1)
