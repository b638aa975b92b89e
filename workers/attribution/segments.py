"""Relevance of all single weights, one segment of layers at a time, from the top down.

The sums for single weights are as large as the model, for each question. Therefore they are
computed for a few layers at a time. One pass through the model keeps the inputs of some segments,
from which those of the segments above are computed again when their turn comes; the segment above
yields the gradient at a segment's output. A single segment is an ordinary pass; any larger number
of segments costs two additional forward passes in total at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from excise.names import Attributor, Granularity
from workers.attribution.attribution import (
    DEFAULT_PASS,
    Attribution,
    Pass,
    choose_batch_tokens,
)
from workers.attribution.attributors import WRITTEN
from workers.attribution.baselines import (
    draw_weights,
    read_magnitudes,
    sum_inputs,
    write_weights,
)
from workers.attribution.composites import COMPOSITES
from workers.attribution.matrices import find_matrices
from workers.attribution.memory import HalvingRunner
from workers.attribution.questions import Questions
from workers.attribution.relevance import (
    build_weight_sums,
    multiply_by_weights,
    observed_weights,
    predict,
)
from workers.attribution.sums import RelevanceSums
from workers.domain import TokenSequence
from workers.families import find_layer_numbers
from workers.models.batches import TokenBatch, build_batches
from workers.models.hooks import Hook, InputHook, KeywordInputHook, hooked
from workers.models.loaded import LoadedModel
from workers.models.memory import find_free_memory

SUM_BYTES = 4
"""Bytes of one sum, in float32."""

MODEL_SHARE = 0.25
"""The sums of one segment may take at most this share of the model's bytes. More segments cost at
most two forward passes, and the model itself should be what decides whether a job fits in memory.
Chosen by hand."""

FREE_SHARE = 0.5
"""They may take at most this share of the free memory; activations and kept states need the rest.
Chosen by hand."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments and keyword arguments of a layer besides the states: masks, positions."""


@dataclass(frozen=True)
class Reading:
    """Samples that are passed through the model once, for one or several questions."""

    samples: Sequence[TokenSequence]
    asked: tuple[int, ...]
    """Numbers of the attributions that use these samples; all have the same attributor."""


def count_segments(loaded: LoadedModel, asked: Sequence[Attribution]) -> int:
    """Return the smallest number of segments whose sums fit in memory, at most one per layer."""
    weights = sum(loaded.count_components(Granularity.WEIGHT).values())
    one_layer = weights * sum(SUM_BYTES * len(own.kept_statistics) for own in asked) / loaded.layers
    parameters = set(loaded.model.parameters())
    model = sum(own.numel() * own.element_size() for own in parameters)
    free = min(map(find_free_memory, {own.device for own in parameters}))
    allowed = max(1.0, min(MODEL_SHARE * model, FREE_SHARE * free))
    layers_at_once = max(1, int(allowed / max(one_layer, 1)))
    return math.ceil(loaded.layers / layers_at_once)


def cut_layers(layers: int, segments: int) -> tuple[range, ...]:
    """Return the layers cut into segments of nearly equal size, the top segment first.

    There is at least one segment and at most one per layer.
    """
    count = min(max(segments, 1), layers)
    ends = [layers * number // count for number in range(count + 1)]
    return tuple(range(ends[number], ends[number + 1]) for number in reversed(range(count)))


def choose_anchors(starts: Sequence[int]) -> frozenset[int]:
    """Return the boundaries at which hidden states are kept from the first pass on.

    They are the lowest boundary and each k-th above it, where k is the square root of their number,
    rounded up: k states are computed again at a time, so that about 2k are held, not k²
    (Griewank and Walther, "Algorithm 799: revolve", 2000; Chen et al., arXiv 1604.06174,
    section 3).
    """
    ascending = sorted(starts)
    return frozenset(ascending[:: max(1, math.ceil(math.sqrt(len(ascending))))])


def sum_in_segments(
    loaded: LoadedModel,
    asked: Sequence[Attribution],
    readings: Sequence[Reading],
    segments: Sequence[range],
    run: Pass = DEFAULT_PASS,
) -> Iterator[tuple[RelevanceSums, ...]]:
    """Yield, for each segment, the sums of its weights over the readings, one per attribution.

    Memory holds the sums of one segment, one hidden state per token at each of the boundaries that
    `choose_anchors` returns and within one gap between them, and one gradient per token and
    question. `segments` are those of `cut_layers`, without any that are
    finished already. `run.advance` is called, for each segment, with the number of samples in each
    finished batch. Raises `UnsupportedGranularityError`, `NonFiniteRelevanceError`,
    `SampleTooLargeError`.
    """
    sums = _SegmentSums(loaded, asked, readings, segments, run)
    for segment in segments:
        yield sums.add_up(segment)


class _SegmentSums:
    """Computes sums of relevance of single weights, segment by segment."""

    def __init__(
        self,
        loaded: LoadedModel,
        asked: Sequence[Attribution],
        readings: Sequence[Reading],
        segments: Sequence[range],
        run: Pass,
    ) -> None:
        self._loaded = loaded
        self._asked = asked
        self._run = run
        self._modules = loaded.find_components(Granularity.WEIGHT)
        self._layers = find_layer_numbers(self._modules, loaded.family)
        self._readings = readings
        starts = [segment.start for segment in segments]
        self._descents = [
            _Descent(loaded, tuple(asked[number] for number in reading.asked), reading, starts, run)
            for reading in readings
            if asked[reading.asked[0]].attributor.explains
        ]

    def add_up(self, segment: range) -> tuple[RelevanceSums, ...]:
        """Return the sums of `segment`, which must be the next one down."""
        modules = {
            name: module for name, module in self._modules.items() if self._layers[name] in segment
        }
        matrices = find_matrices(modules)
        sums = {
            number: build_weight_sums(matrices, asked)
            for number, asked in enumerate(self._asked)
            if asked.attributor.explains
        }
        for descent in self._descents:
            own = Questions([sums[number] for number in descent.reading.asked])
            descent.pass_segment(segment, modules, own)
        found: list[RelevanceSums] = []
        for number, asked in enumerate(self._asked):
            if number in sums:
                multiply_by_weights(sums[number], matrices)
                found.append(sums[number].result())
            elif asked.attributor in WRITTEN:
                found.append(write_weights(self._written[number], matrices))
            elif asked.attributor is Attributor.MAGNITUDE:
                found.append(read_magnitudes(matrices, asked))
            else:
                found.append(draw_weights(self._loaded, matrices, asked))
        return tuple(found)

    @cached_property
    def _written(self) -> dict[int, RelevanceSums]:
        """Sums for each input feature in all layers, for attributors that read only inputs."""
        return {
            number: sum_inputs(
                self._loaded,
                self._asked[number],
                WRITTEN[self._asked[number].attributor],
                _build_batches(self._loaded, reading, self._run),
                self._run,
            )
            for reading in self._readings
            for number in reading.asked
            if self._asked[number].attributor in WRITTEN
        }


def _build_batches(loaded: LoadedModel, reading: Reading, run: Pass) -> Iterator[TokenBatch]:
    tokens = choose_batch_tokens(run.batch_tokens, loaded.device)
    return build_batches(reading.samples, tokens, loaded.pad_id)


@dataclass(frozen=True, eq=False)
class _Kept:
    """What is kept of a batch between two segments."""

    batch: TokenBatch
    states: Mapping[int, torch.Tensor]
    """First layer of a segment to come → its input `(sample, token, hidden)`, on the CPU.

    It holds the lowest segment's and some others; see `choose_anchors`."""
    gradients: tuple[torch.Tensor, ...]
    """One gradient per question, at the output of the next segment, on the CPU."""
    calls: Mapping[int, Call] | None
    """Layer → its arguments besides the states; None if not known yet."""

    @property
    def sample_indices(self) -> tuple[int, ...]:
        """Position of each sample among all."""
        return self.batch.sample_indices

    @property
    def token_ids(self) -> torch.Tensor:
        """Padded tokens, `(sample, token)`."""
        return self.batch.token_ids

    @property
    def is_token(self) -> torch.Tensor:
        """True at real tokens, `(sample, token)`."""
        return self.batch.is_token

    def halves(self) -> tuple[_Kept, _Kept]:
        """Return the first and the second half of the samples."""
        first, second = self.batch.halves()
        middle = len(first.sample_indices)
        return self._part(first, slice(0, middle)), self._part(second, slice(middle, None))

    def _part(self, batch: TokenBatch, rows: slice) -> _Kept:
        longest = batch.token_ids.shape[1]
        return _Kept(
            batch,
            {layer: states[rows, :longest] for layer, states in self.states.items()},
            tuple(gradient[rows, :longest] for gradient in self.gradients),
            None,
        )


class _Descent:
    """One reading's backward pass, segment by segment, for questions of one attributor."""

    def __init__(
        self,
        loaded: LoadedModel,
        asked: tuple[Attribution, ...],
        reading: Reading,
        starts: Sequence[int],
        run: Pass,
    ) -> None:
        """`starts` are the first layers of the segments still to come."""
        self.reading = reading
        self._loaded = loaded
        self._asked = asked
        self._composite = COMPOSITES[asked[0].attributor.value]
        self._starts = frozenset(starts)
        self._run = run
        self._blocks = [
            loaded.model.get_submodule(f"{loaded.family.layers}.{layer}")
            for layer in range(loaded.layers)
        ]
        self._kept: list[_Kept] | None = None

    def pass_segment(
        self, segment: range, modules: Mapping[str, nn.Module], results: Questions
    ) -> None:
        """Add the reading's contribution to `results`, the sums of the next segment down."""
        settled: list[_Kept] = []
        with observed_weights(
            self._loaded, self._composite, modules, find_matrices(modules), results
        ):
            if self._kept is None:
                self._begin(segment, results, settled)
            else:
                self._go_on(self._kept, segment, results, settled)
        self._kept = settled

    def _begin(self, segment: range, results: Questions, settled: list[_Kept]) -> None:
        """Run the whole model, as the gradient must come down from the layers above the segment."""

        def step(batch: TokenBatch) -> None:
            settled.append(self._run_model(batch, segment, results))

        runner: HalvingRunner[TokenBatch] = HalvingRunner(step, results, self._run.on_halved)
        for batch in _build_batches(self._loaded, self.reading, self._run):
            runner.run(batch)
            self._run.advance(len(batch.sample_indices))

    def _go_on(
        self, kept: list[_Kept], segment: range, results: Questions, settled: list[_Kept]
    ) -> None:
        """Run the segment alone, from what was kept of each batch, which is then freed."""

        def step(one: _Kept) -> None:
            settled.append(self._run_segment(one, segment, results))

        runner: HalvingRunner[_Kept] = HalvingRunner(step, results, self._run.on_halved)
        kept.reverse()
        while kept:
            one = kept.pop()
            runner.run(one)
            self._run.advance(len(one.sample_indices))

    def _run_model(self, batch: TokenBatch, segment: range, results: Questions) -> _Kept:
        below = [start for start in self._starts if start < segment.start]
        entrance = _Entrance(self._blocks, segment.start, choose_anchors(below))
        with hooked(entrance.list_hooks()):
            states, find_directions = predict(self._loaded, batch)

        def find_gradient(number: int) -> tuple[torch.Tensor, torch.Tensor]:
            asked = self._asked[number]
            return states, find_directions(asked.target, asked.seed)

        gradients = self._trace(entrance.leaf, find_gradient, results)
        return _Kept(batch, entrance.states, gradients, entrance.calls)

    def _run_segment(self, kept: _Kept, segment: range, results: Questions) -> _Kept:
        calls = kept.calls if kept.calls is not None else self._read_calls(kept.batch)
        states = self._restore(kept.states, segment.start, calls)
        leaf = states.pop(segment.start).to(self._loaded.device).detach()
        hidden = leaf.requires_grad_(segment.start > 0)
        for layer in segment:
            hidden = self._run_layer(layer, hidden, calls)

        def find_gradient(number: int) -> tuple[torch.Tensor, torch.Tensor]:
            return hidden, kept.gradients[number].to(hidden.device)

        gradients = self._trace(leaf if segment.start else None, find_gradient, results)
        below = {layer: call for layer, call in calls.items() if layer < segment.start}
        return replace(kept, states=states, gradients=gradients, calls=below)

    def _trace(
        self,
        leaf: torch.Tensor | None,
        find_gradient: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
        results: Questions,
    ) -> tuple[torch.Tensor, ...]:
        """Run each question's gradient backwards; return the gradients at the segment's input."""
        gradients: list[torch.Tensor] = []
        for number in range(len(self._asked)):
            results.turn = number
            output, gradient = find_gradient(number)
            if output.numel() and output.requires_grad:
                is_last = number == len(self._asked) - 1
                torch.autograd.backward([output], [gradient], retain_graph=not is_last)
            if leaf is not None:
                found = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
                gradients.append(found.detach().cpu())
                leaf.grad = None
        return tuple(gradients)

    @torch.no_grad()
    def _restore(
        self, kept: Mapping[int, torch.Tensor], start: int, calls: Mapping[int, Call]
    ) -> dict[int, torch.Tensor]:
        """Return the states kept, with those at layer `start` and at boundaries passed on the way.

        The layers from the nearest state below are run again where the state is not kept.
        """
        states = dict(kept)
        below = max(layer for layer in states if layer <= start)
        hidden = states[below].to(self._loaded.device)
        for layer in range(below, start):
            hidden = self._run_layer(layer, hidden, calls)
            if layer + 1 in self._starts:
                states[layer + 1] = hidden.cpu()
        return states

    def _run_layer(
        self, layer: int, hidden: torch.Tensor, calls: Mapping[int, Call]
    ) -> torch.Tensor:
        arguments, keywords = calls[layer]
        output = self._blocks[layer](hidden, *arguments, **keywords)
        found: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return found

    @torch.no_grad()
    def _read_calls(self, batch: TokenBatch) -> Mapping[int, Call]:
        """Return the arguments of each layer, from another forward pass."""
        entrance = _Entrance(self._blocks, 0)
        with hooked(entrance.list_hooks(everywhere=True)):
            self._loaded.run(batch.token_ids.to(self._loaded.device))
        return entrance.calls


class _Entrance:
    """Records the inputs of layers in one forward pass, and starts its graph at one of them."""

    def __init__(
        self, blocks: Sequence[nn.Module], start: int, anchors: Collection[int] = ()
    ) -> None:
        """The graph begins at layer `start`; states are kept at the `anchors`, which are below."""
        self._blocks = blocks
        self._start = start
        self._anchors = anchors
        self.leaf: torch.Tensor | None = None
        """The tensor at which the graph begins; None if it begins within the first layer."""
        self.states: dict[int, torch.Tensor] = {}
        self.calls: dict[int, Call] = {}

    def list_hooks(self, *, everywhere: bool = False) -> Iterator[Hook]:
        """Yield the hooks; arguments are recorded for layers below the start, or `everywhere`."""
        watched = len(self._blocks) if everywhere else self._start
        for layer in range(watched):
            yield KeywordInputHook(self._blocks[layer], self._keep(layer))
        if self._start:
            yield InputHook(self._blocks[self._start], self._cut)

    def _keep(self, layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
            self.calls[layer] = args[1:], dict(kwargs)
            if layer in self._anchors:
                self.states[layer] = args[0].detach().cpu()

        return hook

    def _cut(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG002
        self.leaf = args[0].detach().requires_grad_()
        return (self.leaf, *args[1:])
