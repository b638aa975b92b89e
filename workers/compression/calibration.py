"""Calibration text, and its activations at the input of each decoder block and linear layer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from workers.domain import TokenSequence
from workers.families import count_features, linear_weight
from workers.models.batches import TokenBatch
from workers.models.hooks import InputHook, KeywordInputHook, hooked
from workers.models.loaded import LoadedModel
from workers.progress import Advance


def draw_calibration_samples(
    documents: Sequence[Sequence[int]],
    length: int,
    count: int,
    seed: int,
    beginning: tuple[int, ...] = (),
) -> tuple[TokenSequence, ...]:
    """Return `count` windows of `length` tokens, each from a different document, drawn by `seed`.

    Every window starts with `beginning`, which counts towards its length. Documents shorter than
    the rest of a window are skipped. Raises `ValueError` if too few are left.
    """
    generator = random.Random(seed)  # noqa: S311 - no secret
    length -= len(beginning)
    usable = [document for document in documents if len(document) >= length]
    if len(usable) < count:
        raise ValueError(
            f"only {len(usable)} of {len(documents)} documents have {length} tokens, "
            f"{count} are needed; give more documents or ask for shorter samples"
        )
    samples = []
    for document in generator.sample(usable, count):
        start = generator.randrange(len(document) - length + 1)
        samples.append(TokenSequence((*beginning, *document[start : start + length])))
    return tuple(samples)


@dataclass
class _Travelling:
    """One calibration batch on its way through the blocks."""

    is_token: torch.Tensor
    """`(sample, token)`, True at real tokens."""
    states: torch.Tensor
    """Input of the next block, `(sample, token, hidden)`; on the CPU between blocks."""
    arguments: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    """Block index → further arguments that the backbone passes to it: masks, positions."""


class BlockInputs:
    """The calibration batches at the input of one block; they move through the model by blocks.

    Holds one hidden state per token and no states per block, so memory does not grow with depth.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        batches: Iterable[TokenBatch],
        first_block: int = 0,
        on_batch: Advance | None = None,
    ) -> None:
        """Run the model as it is and keep each batch's states at the input of `first_block`.

        Raises `ValueError` if there is no batch.
        """
        paths = [f"{loaded.family.layers}.{layer}" for layer in range(loaded.layers)]
        self._blocks = [loaded.model.get_submodule(path) for path in paths]
        self._loaded = loaded
        self._next = first_block
        self._batches: list[_Travelling] = []
        for batch in batches:
            self._batches.append(self._start(batch.to(loaded.device)))
            if on_batch is not None:
                on_batch(len(batch.sample_indices))
        if not self._batches:
            raise ValueError("no calibration samples; give at least one")

    @torch.inference_mode()
    def measure(
        self, modules: Mapping[str, nn.Module], *, step: bool, on_batch: Advance | None = None
    ) -> dict[str, torch.Tensor]:
        """Run the next block and return ‖X‖₂ over tokens for each input feature of `modules`.

        The result is module name → float32 `(feature,)` on the module's device; pads do not
        count. If `step` is true, the batches move past the block; otherwise they stay before it.
        """
        squares = {
            name: torch.zeros(count_features(module), device=linear_weight(module).device)
            for name, module in modules.items()
        }
        for batch in self._batches:
            with _summed_squares(modules, batch.is_token, squares):
                states = self._run_block(batch)
            self._settle(batch, states, step, on_batch)
        self._next += step
        return {name: total.sqrt() for name, total in squares.items()}

    @torch.inference_mode()
    def step(self, on_batch: Advance | None = None) -> None:
        """Move the batches through the next block, with its current weights."""
        for batch in self._batches:
            self._settle(batch, self._run_block(batch), True, on_batch)
        self._next += 1

    @torch.inference_mode()
    def _start(self, batch: TokenBatch) -> _Travelling:
        travelling = _Travelling(batch.is_token, torch.empty(0))

        def hook_for(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
                travelling.arguments[index] = (args[1:], dict(kwargs))
                if index == self._next:
                    travelling.states = args[0].cpu()

            return hook

        hooks = (
            KeywordInputHook(block, hook_for(index))
            for index, block in enumerate(self._blocks)
            if index >= self._next
        )
        with hooked(hooks):
            self._loaded.run(batch.token_ids)
        return travelling

    def _run_block(self, batch: _Travelling) -> torch.Tensor:
        args, kwargs = batch.arguments[self._next]
        output = self._blocks[self._next](batch.states.to(self._loaded.device), *args, **kwargs)
        states = output[0] if isinstance(output, tuple) else output
        assert isinstance(states, torch.Tensor)
        return states

    def _settle(
        self, batch: _Travelling, states: torch.Tensor, step: bool, on_batch: Advance | None
    ) -> None:
        if step:
            batch.states = states.cpu()
            del batch.arguments[self._next]
        if on_batch is not None:
            on_batch(len(batch.is_token))


@contextmanager
def _summed_squares(
    modules: Mapping[str, nn.Module], is_token: torch.Tensor, squares: dict[str, torch.Tensor]
) -> Iterator[None]:
    """Within the context, add to `squares` each input feature's squares over real tokens."""

    def hook_for(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:  # noqa: ARG001
            inputs = args[0].flatten(end_dim=-2)
            inputs = inputs[is_token.flatten().to(inputs.device)]
            squares[name] += inputs.float().square().sum(dim=0)

        return hook

    with hooked(InputHook(module, hook_for(name)) for name, module in modules.items()):
        yield
