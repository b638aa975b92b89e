"""Compression of a loaded model in place: score weights, select in each row, set to zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from excise.names import Attributor, Calibration, Granularity, Scope
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import sum_relevance
from workers.attribution.baselines import score_by_inputs
from workers.attribution.sums import RelevanceSums, finish
from workers.compression.calibration import BlockInputs
from workers.compression.plan import (
    CompressionOutcome,
    CompressionPlan,
    ModuleSparsity,
    Pattern,
    RowShare,
)
from workers.domain import Relevance, Selection, TokenSequence
from workers.families import (
    UnsupportedGranularityError,
    is_linear,
    is_transposed,
    linear_weight,
)
from workers.models.batches import build_batches
from workers.models.loaded import LoadedModel
from workers.progress import (
    BACKWARD,
    FORWARD,
    Advance,
    Counter,
    Part,
    Progress,
    ignore,
    pass_over,
    read_texts,
)
from workers.pruning.selection import select_components, select_n_of_m

OnBlock = Callable[[int, Mapping[str, ModuleSparsity]], None]
"""Called with a block's index and its modules' sparsity, once the block's weights are final."""


class NonFiniteScoreError(ArithmeticError):
    """A score is NaN or infinite; use float32, or inspect the weights of the module named."""


def compress(
    loaded: LoadedModel,
    plan: CompressionPlan,
    samples: Sequence[TokenSequence],
    *,
    first_block: int = 0,
    on_block: OnBlock | None = None,
    progress: Progress | None = None,
) -> CompressionOutcome:
    """Set weights of every linear module in the decoder blocks to zero, in place, by `plan`.

    Embeddings, head, norms and biases are not touched. `samples` calibrate the scores;
    attributors that read none still take them. Blocks are finished in order. A sequential
    compression can resume: with blocks below `first_block` already pruned in `model`, the
    rest becomes what an uninterrupted run gives. `progress` hears of passes of samples.

    Raises `ValueError` if there are no samples, for a `first_block` above 0 with one-shot
    calibration (whose scores need the unpruned model) or outside the model, and if rows cannot be
    divided into an N:M pattern's groups; `UnsupportedGranularityError` for mixtures of experts;
    `NonFiniteScoreError`; and what `sum_relevance` raises.
    """
    layers = loaded.layers
    if not samples:
        raise ValueError("no calibration samples; give at least one")
    if first_block and plan.calibration is Calibration.ONE_SHOT:
        raise ValueError("a one-shot compression cannot resume; start from the unpruned model")
    if not 0 <= first_block < layers:
        raise ValueError(f"first_block must be in 0 … {layers - 1}, not {first_block}")
    modules = _group_by_block(loaded)
    work = _Work(loaded, plan, samples, modules, progress or pass_over)
    blocks = range(first_block, layers)
    by_inputs = plan.attributor is Attributor.WANDA
    finished = work.prune_by_inputs(blocks) if by_inputs else work.prune_by_relevance(blocks)
    outcome: dict[str, ModuleSparsity] = {}
    for block, removed in finished:
        outcome |= removed
        if on_block is not None:
            on_block(block, removed)
    return CompressionOutcome(outcome)


def sum_scores(
    loaded: LoadedModel,
    plan: CompressionPlan,
    samples: Sequence[TokenSequence],
    *,
    first_index: int = 0,
    advance: Advance = ignore,
) -> RelevanceSums:
    """Return the sums over one shard's `samples` of the statistic that `plan` ranks.

    They are to be merged with those of other shards. `first_index` is the index of the first
    sample among those of all shards. Raises what `sum_relevance` does.
    """
    return sum_relevance(
        loaded,
        Attribution(
            plan.attributor,
            Granularity.WEIGHT,
            plan.target,
            statistics=frozenset({plan.statistic}),
            seed=plan.seed,
        ),
        samples,
        Pass(
            batch_tokens=plan.batch_tokens,
            first_index=first_index,
            advance=advance,
        ),
    )


def prune_by_relevance(
    modules: Mapping[str, nn.Module], plan: CompressionPlan, relevance: Relevance
) -> dict[str, ModuleSparsity]:
    """Set weights of `modules` to zero, in place, by the plan's statistic of `relevance`.

    Raises `NonFiniteScoreError`, and `ValueError` if rows cannot be divided into a pattern's
    groups.
    """
    scores: Mapping[str, torch.Tensor] = getattr(relevance, plan.statistic.value)
    return {
        name: prune_module(name, module, scores[name].abs(), plan.pattern)
        for name, module in modules.items()
    }


_Finished = Iterable[tuple[int, dict[str, ModuleSparsity]]]


class _Work:
    """A compression in progress; each `prune_*` yields a block once its weights are final."""

    def __init__(
        self,
        loaded: LoadedModel,
        plan: CompressionPlan,
        samples: Sequence[TokenSequence],
        modules: Sequence[Mapping[str, nn.Module]],
        progress: Progress,
    ) -> None:
        self._loaded = loaded
        self._plan = plan
        self._samples = samples
        self._modules = modules
        self._progress = progress

    def prune_by_relevance(self, blocks: range) -> _Finished:
        """Attribute the whole model, prune the next blocks, and repeat; one-shot prunes all."""
        plan = self._plan
        one_shot = plan.calibration is Calibration.ONE_SHOT
        at_once = len(blocks) if one_shot else plan.blocks_at_once
        rounds = [blocks[start : start + at_once] for start in range(0, len(blocks), at_once)]
        own = read_texts("samples", self._lengths, passes=FORWARD + BACKWARD)
        advance = Counter(self._progress, [replace(own, step=step) for step in _name(rounds)])
        for members in rounds:
            sums = sum_scores(self._loaded, plan, self._samples, advance=advance)
            relevance = finish(sums, in_place=True)
            for block in members:
                yield block, prune_by_relevance(self._modules[block], plan, relevance)

    @property
    def _lengths(self) -> list[int]:
        return [len(sample.token_ids) for sample in self._samples]

    def _list_passes(self, blocks: range, times: int) -> list[Part]:
        """Return the samples through the whole model once, then `times` through each block."""
        whole = read_texts("samples", self._lengths)
        share = FORWARD / self._loaded.layers
        own = read_texts("samples", self._lengths * times, passes=share)
        return [whole, *(replace(own, step=step) for step in _name(blocks))]

    def prune_by_inputs(self, blocks: range) -> _Finished:
        """Prune by Wanda, |W| · ‖X‖₂, one block at a time (arXiv 2306.11695, Eq. 1)."""
        plan = self._plan
        sequential = plan.calibration is Calibration.SEQUENTIAL
        advance = Counter(self._progress, self._list_passes(blocks, 2 if sequential else 1))
        batches = build_batches(self._samples, plan.batch_tokens, self._loaded.pad_id)
        inputs = BlockInputs(self._loaded, batches, blocks.start, advance)
        for block in blocks:
            norms = inputs.measure(self._modules[block], step=not sequential, on_batch=advance)
            removed = {}
            for name, module in self._modules[block].items():
                scores = score_by_inputs(module, norms[name])
                removed[name] = prune_module(name, module, scores, plan.pattern)
            if sequential:
                inputs.step(advance)
            yield block, removed


@torch.no_grad()
def prune_module(
    name: str, module: nn.Module, scores: torch.Tensor, pattern: Pattern
) -> ModuleSparsity:
    """Set the weights with the smallest scores in each row, or in each N:M group, to zero.

    `scores` has the stored weight's shape. Raises `NonFiniteScoreError` before changing anything.
    """
    if not bool(torch.isfinite(scores).all()):
        raise NonFiniteScoreError(f"non-finite score in {name}; use float32")
    weight = linear_weight(module)
    row_axis = 1 if is_transposed(module) else 0
    chosen = _select({name: scores}, pattern, row_axis).indices.get(name)
    if chosen is None:
        return ModuleSparsity(0, weight.numel())
    prune_mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    prune_mask[chosen.to(weight.device)] = True
    weight.masked_fill_(prune_mask.view(weight.shape), 0)
    return ModuleSparsity(len(chosen), weight.numel())


def _select(scores: Mapping[str, torch.Tensor], pattern: Pattern, row_axis: int) -> Selection:
    if isinstance(pattern, RowShare):
        return select_components(
            scores,
            Granularity.WEIGHT,
            Scope.ROW,
            pattern.share,
            smallest=True,
            row_axis=row_axis,
        )
    return select_n_of_m(scores, pattern.removed, pattern.group, row_axis=row_axis)


def _group_by_block(loaded: LoadedModel) -> list[dict[str, nn.Module]]:
    modules = loaded.find_components(Granularity.WEIGHT)
    if not all(map(is_linear, modules.values())):
        raise UnsupportedGranularityError(
            f"most weights of {loaded.family.name} lie in fused experts, which a compression does "
            "not reach; compress a model without experts"
        )
    return [
        {
            name: module
            for name, module in modules.items()
            if name.startswith(f"{loaded.family.layers}.{layer}.")
        }
        for layer in range(loaded.layers)
    ]


def _name(steps: Sequence[object]) -> list[str]:
    """Return what people read of each step."""
    return [f"step {number} of {len(steps)}" for number in range(1, len(steps) + 1)]
