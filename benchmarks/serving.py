"""Publishing into a running vLLM compared with restarting it, and an adapter's cost by its rank.

Needs vLLM's CPU build (`make vllm`) and the converted SmolLM2-135M-Instruct. Every ratio is from
one run on one server: loading an adapter and reloading the weights are compared with starting vLLM
again with the corrected checkpoint; an adapter's tokens per second are compared with the base's,
with 16 concurrent requests.

    python -m benchmarks.serving [--ranks 8 16 64] [--dtype float32] [--tokens 50]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import httpx
import torch

from excise.names import Granularity
from service.embedded.processes import Guardian, Supervised
from service.embedded.vllm import SERVED_BASE, Vllm, VllmOptions, find_vllm, prepare_vllm
from service.serving.vllm import VllmServer
from workers.domain import Selection
from workers.fetching.checkpoints import fetch_embedded_checkpoint
from workers.pruning.patch import Patch, apply_patch, build_patch
from workers.publishing.adapters import build_adapter

NAME = "smollm2-135m-instruct"
CONCURRENT = 16
PROMPT_TOKENS = 24
LOADS = 5
REPEATS = 3


@contextmanager
def run(
    options: VllmOptions, folder: Path, *, can_reload: bool = False
) -> Iterator[tuple[Vllm, float]]:
    """Yield a server, perhaps with reloadable weights, and the seconds until it answered."""
    vllm = prepare_vllm(
        "vllm",
        options,
        executable=find_vllm(os.environ),
        folder=folder,
        log=folder / "vllm.log",
        environment=os.environ,
    )
    program = vllm.program
    if can_reload:  # endpoints without an API key, so the product never opens them
        environment = {**program.environment, "VLLM_SERVER_DEV_MODE": "1"}
        program = replace(program, environment=environment)
    with (folder / "lock").open("w") as lock:
        guardian = Guardian(lock)
        server = Supervised(program, guardian)
        try:
            began = time.perf_counter()
            server.start()
            vllm.wait_until_ready(server)
            yield vllm, time.perf_counter() - began
        finally:
            server.stop()
            guardian.close()


def build_correction(base: Path, rank: int) -> Patch:
    """Return a correction with `rank` neurons in every second layer."""
    chosen = {
        f"model.layers.{layer}.mlp.down_proj": torch.arange(rank) * 7 for layer in range(0, 30, 2)
    }
    return build_patch(base, Selection(Granularity.NEURON, chosen))


async def time_loads(vllm: Vllm, folders: Sequence[Path]) -> list[float]:
    """Return, for each folder, the seconds from loading an adapter until its first token."""
    seconds = []
    async with VllmServer(vllm.url, vllm.api_key) as server:
        await server.complete(SERVED_BASE, (1, 2, 3), 1)
        for folder in folders:
            began = time.perf_counter()
            await server.load_adapter(folder.name, folder)
            await server.complete(folder.name, (1, 2, 3), 1)
            seconds.append(time.perf_counter() - began)
            await server.unload_adapter(folder.name)
    return seconds


async def time_reload(vllm: Vllm, folder: Path) -> float:
    """Return the seconds from replacing all weights until the first token.

    The product does not do this (decision 0012); the figure shows what that costs.
    """
    async with (
        VllmServer(vllm.url, vllm.api_key) as server,
        httpx.AsyncClient(base_url=vllm.url, timeout=300, trust_env=False) as admin,
    ):
        await server.complete(SERVED_BASE, (1, 2, 3), 1)
        began = time.perf_counter()
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        (await admin.post("/pause?mode=wait")).raise_for_status()
        (await admin.post("/collective_rpc", json=body)).raise_for_status()
        (await admin.post("/reset_prefix_cache")).raise_for_status()
        (await admin.post("/resume")).raise_for_status()
        await server.complete(SERVED_BASE, (1, 2, 3), 1)
        return time.perf_counter() - began


async def measure_throughput(vllm: Vllm, model: str, tokens: int, seed: int) -> float:
    """Return generated tokens per second at `CONCURRENT` requests with uncached prompts."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1000, 40_000, (CONCURRENT, PROMPT_TOKENS), generator=generator).tolist()
    async with VllmServer(vllm.url, vllm.api_key) as server:
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(server.complete(model, prompt, tokens, ignore_eos=True) for prompt in prompts)
        )
        seconds = time.perf_counter() - began
    return sum(len(answer.token_ids) for answer in answers) / seconds


def compare_publishing(options: VllmOptions, base: Path, folder: Path) -> None:
    """Print how long it takes until an adapter, and until a checkpoint, is served."""
    patch = build_correction(base, 8)
    corrected = folder / "corrected"
    apply_patch(patch, base, corrected)
    adapters = []
    for number in range(LOADS):
        adapters.append(folder / f"adapter-{number}")
        adapters[-1].mkdir()
        build_adapter(patch, base, max_rank=8, base_model=NAME).save(adapters[-1])
    with run(options, folder) as (vllm, _):
        load = median(asyncio.run(time_loads(vllm, adapters)))
    with run(replace(options, kind="checkpoint"), folder, can_reload=True) as (vllm, _):
        reload = asyncio.run(time_reload(vllm, corrected))
    with run(replace(options, kind="checkpoint", model=corrected), folder) as (_, restart):
        pass
    print("| publishing | seconds until it answers | restart takes |")
    print("|---|---|---|")
    print(
        f"| adapter loaded into a running server (median of {LOADS}) | {load:.3f} | "
        f"{restart / load:.0f}× |"
    )
    print(f"| all weights of a running server replaced | {reload:.2f} | {restart / reload:.0f}× |")
    print(f"| vLLM restarted with the corrected checkpoint | {restart:.1f} | 1× |", flush=True)


def compare_ranks(
    options: VllmOptions, base: Path, folder: Path, ranks: Sequence[int], tokens: int
) -> None:
    """Print the throughput of an adapter and of its base on the same server, for each max rank."""
    print(
        f"\n{options.dtype}, {CONCURRENT} concurrent, {tokens} tokens, median of {REPEATS}:\n\n"
        "| max rank | base tok/s | adapter tok/s | ratio |\n|---|---|---|---|",
        flush=True,
    )
    for rank in ranks:
        home = folder / f"rank-{rank}"
        adapter = home / "adapter"
        adapter.mkdir(parents=True)
        patch = build_correction(base, rank)
        build_adapter(patch, base, max_rank=rank, base_model=NAME).save(adapter)
        with run(replace(options, max_rank=rank), home) as (vllm, _):
            before, after = asyncio.run(_alternate(vllm, adapter, tokens))
        print(f"| {rank} | {before:.0f} | {after:.0f} | {after / before:.2f} |", flush=True)


async def _alternate(vllm: Vllm, adapter: Path, tokens: int) -> tuple[float, float]:
    """Return the median throughput of base and adapter, measured in turn after a warm-up."""
    async with VllmServer(vllm.url, vllm.api_key) as server:
        await server.load_adapter("adapter", adapter)
    rates: dict[str, list[float]] = {SERVED_BASE: [], "adapter": []}
    for repeat in range(REPEATS + 1):
        for place, (model, found) in enumerate(rates.items()):
            rate = await measure_throughput(vllm, model, tokens, 2 * repeat + place)
            if repeat:
                found.append(rate)
    return median(rates[SERVED_BASE]), median(rates["adapter"])


def main() -> None:
    """Run what the arguments request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="*", default=[8, 16, 64])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--skip-publishing", action="store_true")
    arguments = parser.parse_args()
    home = Path(os.environ.get("EXCISE_HOME", ".excise"))
    base = fetch_embedded_checkpoint(NAME, home / "models").absolute()
    options = VllmOptions(base, dtype=arguments.dtype, adapters=1)
    with tempfile.TemporaryDirectory(prefix="excise-serving-") as scratch:
        folder = Path(scratch)
        if not arguments.skip_publishing:
            compare_publishing(options, base, folder)
        compare_ranks(options, base, folder, arguments.ranks, arguments.tokens)


if __name__ == "__main__":
    main()
