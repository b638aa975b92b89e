"""Sums of relevance over tokens: computed per shard, merged in order, and divided at the end."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from excise.names import Statistic
from workers.domain import Relevance

HEADER = "header"


ALL_STATISTICS = frozenset(Statistic)


class Combination(StrEnum):
    """How sums become relevance."""

    TOKEN_MEAN = "token_mean"  # noqa: S105 - no password
    """Each sum is divided by the number of tokens."""
    MAGNITUDE = "magnitude"
    """The same for values that are never negative: the mean is also the mean of magnitudes."""
    ROOT_MEAN_SQUARE = "root_mean_square"
    """Only squares are summed; mean and mean of magnitudes are the root mean square."""
    CONSTANT = "constant"
    """Magnitudes that do not depend on samples; merging and dividing leave them unchanged."""


class IncompatibleSumsError(ValueError):
    """The sums are of different components, statistics or attributors; merge one run's shards."""


@dataclass(frozen=True)
class RelevanceSums:
    """Sums over the tokens of some reference samples; the sums of shards can be added.

    Every mapping is module name → float32 tensor, shaped as in `Relevance`; a statistic that is
    not kept is an empty mapping.
    """

    sums: Mapping[str, torch.Tensor]
    absolute_sums: Mapping[str, torch.Tensor]
    square_sums: Mapping[str, torch.Tensor]
    tokens: int
    samples: int
    combination: Combination = Combination.TOKEN_MEAN

    @property
    def statistics(self) -> tuple[Mapping[str, torch.Tensor], ...]:
        """The three mappings: sums, sums of magnitudes, sums of squares."""
        return self.sums, self.absolute_sums, self.square_sums


def merge_sums(parts: Sequence[RelevanceSums]) -> RelevanceSums:
    """Return the sums of all parts, added in the given order, so that the bits are reproducible.

    Raises `IncompatibleSumsError`, also if there are no parts.
    """
    if not parts:
        raise IncompatibleSumsError("no sums to merge; give at least one shard's")
    first = parts[0]
    for other in parts[1:]:
        if _layout(other) != _layout(first):
            raise IncompatibleSumsError(
                "sums of different components or attributors cannot be merged; "
                "merge shards of one run only"
            )
    if first.combination is Combination.CONSTANT:
        return first
    merged = [
        {name: _add([part.statistics[kind][name] for part in parts]) for name in mapping}
        for kind, mapping in enumerate(first.statistics)
    ]
    tokens, samples = sum(part.tokens for part in parts), sum(part.samples for part in parts)
    return RelevanceSums(merged[0], merged[1], merged[2], tokens, samples, first.combination)


def finish(sums: RelevanceSums, *, in_place: bool = False) -> Relevance:
    """Return the relevance computed from the sums, on the CPU.

    With `in_place` the sums are overwritten, to avoid a second copy of large tensors. Raises
    `ValueError` for a mean over no tokens.
    """
    return finish_in_place(_to_cpu(sums, copy=not in_place))


def finish_in_place(sums: RelevanceSums) -> Relevance:
    """Return the relevance computed from the sums, overwriting them on their own device.

    Raises what `finish` does.
    """
    means = sums.statistics
    if sums.combination is Combination.CONSTANT:
        return _relevance(sums, means[0], means[0], means[2])
    if sums.tokens == 0:
        raise ValueError("no reference samples: relevance needs at least one token")
    for mapping in means:
        for value in mapping.values():
            value.div_(sums.tokens)
    if sums.combination is Combination.ROOT_MEAN_SQUARE:
        roots = {name: value.sqrt() for name, value in means[2].items()}
        return _relevance(sums, roots, roots, means[2])
    if sums.combination is Combination.MAGNITUDE:
        return _relevance(sums, means[0], means[0], means[2])
    return _relevance(sums, means[0], means[1], means[2])


def pick_modules(sums: RelevanceSums, names: Collection[str]) -> RelevanceSums:
    """Return the sums of some modules, as the same tensors."""
    mappings = [
        {name: value for name, value in mapping.items() if name in names}
        for mapping in sums.statistics
    ]
    return replace(sums, sums=mappings[0], absolute_sums=mappings[1], square_sums=mappings[2])


def serialise_sums(sums: RelevanceSums) -> bytes:
    """Return the sums as safetensors bytes; equal sums give equal bytes."""
    header = {
        "modules": [list(mapping) for mapping in sums.statistics],
        "tokens": sums.tokens,
        "samples": sums.samples,
        "combination": sums.combination.value,
    }
    tensors = {HEADER: torch.frombuffer(bytearray(json.dumps(header).encode()), dtype=torch.uint8)}
    seen: set[int] = set()
    for kind, mapping in enumerate(sums.statistics):
        for name, value in mapping.items():
            stored = value.detach().cpu().contiguous()
            if stored.data_ptr() in seen:  # one tensor may serve for two statistics
                stored = stored.clone()
            seen.add(stored.data_ptr())
            tensors[f"{kind}::{name}"] = stored
    return save_safetensors(tensors)


def parse_sums(data: bytes) -> RelevanceSums:
    """Return what `serialise_sums` stored, with modules in the same order."""
    tensors = load_safetensors(data)
    header = json.loads(bytes(tensors[HEADER].tolist()))
    mappings = [
        {name: tensors[f"{kind}::{name}"] for name in names}
        for kind, names in enumerate(header["modules"])
    ]
    return RelevanceSums(
        mappings[0],
        mappings[1],
        mappings[2],
        header["tokens"],
        header["samples"],
        Combination(header["combination"]),
    )


def _relevance(
    sums: RelevanceSums,
    mean: Mapping[str, torch.Tensor],
    mean_absolute: Mapping[str, torch.Tensor],
    mean_square: Mapping[str, torch.Tensor],
) -> Relevance:
    return Relevance(mean, mean_absolute, sums.tokens, sums.samples, mean_square)


def _to_cpu(sums: RelevanceSums, *, copy: bool) -> RelevanceSums:
    """Return the sums on the CPU; with `copy`, as tensors that nothing else uses."""
    mappings = [
        {name: value.to("cpu", copy=copy) for name, value in mapping.items()}
        for mapping in sums.statistics
    ]
    return replace(sums, sums=mappings[0], absolute_sums=mappings[1], square_sums=mappings[2])


def _add(values: Sequence[torch.Tensor]) -> torch.Tensor:
    total = values[0].clone()
    for value in values[1:]:
        total += value
    return total


def _layout(sums: RelevanceSums) -> tuple[object, ...]:
    shapes = [
        {name: tuple(value.shape) for name, value in mapping.items()} for mapping in sums.statistics
    ]
    return (sums.combination, *shapes)
