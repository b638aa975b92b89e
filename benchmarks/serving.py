"""Publishing into a running vLLM compared with restarting it, and an adapter's cost by its rank.

Needs vLLM's CPU build (`make vllm`) and the converted SmolLM2-135M-Instruct. Every ratio is from
one run on one server: loading an adapter and reloading the weights are compared with starting vLLM
again with the corrected checkpoint; an adapter's tokens per second are compared with the base's,
with 16 concurrent requests. Adapters of neurons change one projection of every second layer, those
of single weights all seven projections of every layer. For these, the tokens of base and three
adapters in mixed batches are compared with those of the models pruned in memory.

    python -m benchmarks.serving [--granularity neuron|weight] [--ranks 8 16 64] [--tokens 50]
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

from excise.names import Granularity, PoolKind
from service.embedded.processes import Guardian, Supervised
from service.embedded.vllm import SERVED_BASE, Vllm, VllmOptions, find_vllm, prepare_vllm
from service.serving.vllm import VllmServer
from workers.domain import Selection
from workers.families import named_weight
from workers.fetching.checkpoints import fetch_embedded_checkpoint
from workers.models.checkpoints import load_checkpoint
from workers.models.encoding import encode_text
from workers.models.generation import generate_responses
from workers.models.loaded import LoadedModel
from workers.pruning.components import pruned
from workers.pruning.patch import apply_patch, build_patch
from workers.publishing.adapters import build_adapter

NAME = "smollm2-135m-instruct"
CONCURRENT = 16
PROMPT_TOKENS = 24
LOADS = 5
REPEATS = 3
MIXED = 3
"""Adapters that are asked together with the base."""
PROMPTS = 32
ANSWER_TOKENS = 16
LONG_LINE = 200
"""Characters from which a line of text is long enough for a prompt."""
ROW_WEIGHTS = 128
"""Weights that are removed on each row."""
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM 0.32 takes for --max-lora-rank."""
DATA = Path(os.environ.get("EXCISE_DATA", Path(__file__).parents[2] / "shared" / "data"))


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


def select(base: LoadedModel, granularity: Granularity, rank: int, number: int = 0) -> Selection:
    """Return a selection that needs an adapter of this rank; each `number` gives another.

    Neurons are those of every second layer; single weights lie on `rank` rows of each matrix.
    """
    modules = base.find_components(granularity)
    if granularity is Granularity.NEURON:
        chosen = torch.arange(rank) * 7 + number
        names = [name for name in modules if int(name.split(".")[2]) % 2 == 0]
        return Selection(granularity, dict.fromkeys(names, chosen))
    generator = torch.Generator().manual_seed(number)
    indices = {}
    for name, module in modules.items():
        rows, columns = named_weight(module, name).shape
        lines = torch.randperm(rows, generator=generator)[:rank].sort().values
        places = torch.stack(
            [torch.randperm(columns, generator=generator)[:ROW_WEIGHTS] for _ in lines]
        )
        indices[name] = (lines[:, None] * columns + places.sort(dim=1).values).flatten()
    return Selection(granularity, indices)


def save_adapter(base: Path, selection: Selection, rank: int, folder: Path) -> Path:
    """Write the adapter that removes `selection` to the new folder, and return the folder."""
    folder.mkdir(parents=True)
    patch = build_patch(base, selection)
    build_adapter(patch, base, max_rank=rank, base_model=NAME).save(folder)
    return folder


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


def compare_publishing(options: VllmOptions, base: LoadedModel, folder: Path) -> None:
    """Print how long it takes until an adapter, and until a checkpoint, is served."""
    selection = select(base, Granularity.NEURON, 8)
    corrected = folder / "corrected"
    apply_patch(build_patch(options.model, selection), options.model, corrected)
    adapters = [
        save_adapter(options.model, selection, 8, folder / f"adapter-{number}")
        for number in range(LOADS)
    ]
    with run(options, folder) as (vllm, _):
        load = median(asyncio.run(time_loads(vllm, adapters)))
    with run(replace(options, kind=PoolKind.CHECKPOINT), folder, can_reload=True) as (vllm, _):
        reload = asyncio.run(time_reload(vllm, corrected))
    with run(replace(options, kind=PoolKind.CHECKPOINT, model=corrected), folder) as (_, restart):
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
    options: VllmOptions,
    base: LoadedModel,
    folder: Path,
    granularity: Granularity,
    ranks: Sequence[int],
    tokens: int,
) -> None:
    """Print the throughput of an adapter and of its base on the same server, for each rank.

    The server holds adapters of as high a rank as vLLM needs to be told for this one.
    """
    print(
        f"\n{options.dtype}, {granularity.value}, {CONCURRENT} concurrent, {tokens} tokens, median "
        f"of {REPEATS}; tokens of base and {MIXED} adapters in mixed batches:\n\n"
        "| rank | server's rank | base tok/s | adapter tok/s | ratio | equal answers, of each |\n"
        "|---|---|---|---|---|---|",
        flush=True,
    )
    for rank in ranks:
        home = folder / f"rank-{rank}"
        chosen = [select(base, granularity, rank, number) for number in range(MIXED)]
        adapters = [
            save_adapter(options.model, own, rank, home / f"adapter-{number}")
            for number, own in enumerate(chosen)
        ]
        most = min(allowed for allowed in VLLM_RANKS if allowed >= rank)
        with run(replace(options, max_rank=most, adapters=MIXED), home) as (vllm, _):
            before, after = asyncio.run(_alternate(vllm, adapters[0], tokens))
            equal = compare_mixed(vllm, base, adapters, chosen)
        print(
            f"| {rank} | {most} | {before:.0f} | {after:.0f} | {after / before:.2f} | {equal} |",
            flush=True,
        )


def compare_mixed(
    vllm: Vllm, base: LoadedModel, adapters: Sequence[Path], chosen: Sequence[Selection]
) -> str:
    """Return how many answers of base and adapters, asked for all at once, have equal tokens.

    Greedy, up to `ANSWER_TOKENS`, compared with the models pruned in memory.
    """
    lines = (DATA / "wikitext2_test.txt").read_text(encoding="utf-8").splitlines()
    texts = [line for line in lines if len(line) > LONG_LINE][:PROMPTS]
    prompts = [encode_text(base.tokenizer, text)[:PROMPT_TOKENS] for text in texts]
    expected = [_answer(base, prompts)]
    for own in chosen:
        with pruned(base.model, own):
            expected.append(_answer(base, prompts))
    names = [SERVED_BASE, *(adapter.name for adapter in adapters)]
    found = asyncio.run(_ask_all(vllm, adapters, names, prompts))
    counts = [
        sum(one == other for one, other in zip(own, wanted, strict=True))
        for own, wanted in zip(found, expected, strict=True)
    ]
    others = [
        sum(one != other for one, other in zip(own, expected[0], strict=True))
        for own in expected[1:]
    ]
    told = ", ".join(map(str, counts))
    return f"{told} of {len(prompts)} (other than the base's: {', '.join(map(str, others))})"


def _answer(model: LoadedModel, prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    found = generate_responses(model, prompts, ANSWER_TOKENS)
    return [tuple(response.response_ids) for response in found]


async def _ask_all(
    vllm: Vllm, adapters: Sequence[Path], names: Sequence[str], prompts: Sequence[Sequence[int]]
) -> list[list[tuple[int, ...]]]:
    """Return each model's answers to all prompts; every request is sent at once."""
    async with VllmServer(vllm.url, vllm.api_key) as server:
        for adapter in adapters[1:]:  # the first is there
            await server.load_adapter(adapter.name, adapter)
        asked = [
            server.complete(name, prompt, ANSWER_TOKENS) for prompt in prompts for name in names
        ]
        answers = await asyncio.gather(*asked)
    found = [tuple(answer.token_ids) for answer in answers]
    return [found[place :: len(names)] for place in range(len(names))]


async def _alternate(vllm: Vllm, adapter: Path, tokens: int) -> tuple[float, float]:
    """Return the median throughput of base and adapter, measured in turn after a warm-up."""
    async with VllmServer(vllm.url, vllm.api_key) as server:
        await server.load_adapter(adapter.name, adapter)
    rates: dict[str, list[float]] = {SERVED_BASE: [], adapter.name: []}
    for repeat in range(REPEATS + 1):
        for place, (model, found) in enumerate(rates.items()):
            rate = await measure_throughput(vllm, model, tokens, 2 * repeat + place)
            if repeat:
                found.append(rate)
    return median(rates[SERVED_BASE]), median(rates[adapter.name])


def main() -> None:
    """Run what the arguments request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--granularity", choices=("neuron", "weight"), default="neuron")
    parser.add_argument("--ranks", type=int, nargs="*", default=[8, 16, 64])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--skip-publishing", action="store_true")
    arguments = parser.parse_args()
    home = Path(os.environ.get("EXCISE_HOME", ".excise"))
    checkpoint = fetch_embedded_checkpoint(NAME, home / "models").absolute()
    options = VllmOptions(checkpoint, dtype=arguments.dtype, adapters=1)
    base = load_checkpoint(checkpoint)
    granularity = Granularity(arguments.granularity)
    with tempfile.TemporaryDirectory(prefix="excise-serving-") as scratch:
        folder = Path(scratch)
        if not arguments.skip_publishing:
            compare_publishing(options, base, folder)
        compare_ranks(options, base, folder, granularity, arguments.ranks, arguments.tokens)


if __name__ == "__main__":
    main()
