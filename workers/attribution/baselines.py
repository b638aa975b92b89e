"""Relevance stand-ins without LRP, shaped alike so that every score works on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from workers.batches import TokenBatch
from workers.domain import Relevance
from workers.families import Family, find_mlp_outputs
from workers.progress import Advance


@torch.inference_mode()
def compute_activation(
    model: nn.Module,
    family: Family,
    batches: Iterable[TokenBatch],
    on_batch: Advance | None = None,
) -> Relevance:
    """Return |activation| of every MLP neuron times the norm of its output column.

    The size of what a neuron writes, `|a| · ‖W[:, j]‖₂`; both statistics are its mean over
    tokens. Raises `ValueError` without a single token.
    """
    modules = find_mlp_outputs(model, family)
    norms = {name: module.weight.float().norm(dim=0) for name, module in modules.items()}
    sums = {name: torch.zeros_like(norm) for name, norm in norms.items()}
    tokens = samples = 0
    for batch in batches:
        placed = batch.to(next(model.parameters()).device)
        with _summed_inputs(modules, placed.is_token, sums):
            model.get_submodule(family.backbone)(input_ids=placed.token_ids, use_cache=False)
        tokens += int(placed.is_token.sum())
        samples += len(batch.sample_indices)
        if on_batch is not None:
            on_batch(len(batch.sample_indices))
    if tokens == 0:
        raise ValueError("no reference samples: activations need at least one token")
    means = {name: (sums[name] * norms[name] / tokens).cpu() for name in sums}
    return Relevance(mean=means, mean_absolute=means, tokens=tokens, samples=samples)


@torch.inference_mode()
def compute_magnitude(model: nn.Module, family: Family) -> Relevance:
    """Return the norm of every MLP neuron's output column; it needs no samples."""
    norms = {
        name: module.weight.float().norm(dim=0).cpu()
        for name, module in find_mlp_outputs(model, family).items()
    }
    return Relevance(mean=norms, mean_absolute=norms, tokens=0, samples=0)


def draw_random_relevance(model: nn.Module, family: Family, seed: int) -> Relevance:
    """Return uniform random numbers in [0, 1) in place of relevance: the null attributor."""
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.rand(module.in_features, generator=generator)
        for name, module in find_mlp_outputs(model, family).items()
    }
    return Relevance(mean=values, mean_absolute=values, tokens=0, samples=0)


@contextmanager
def _summed_inputs(
    modules: Mapping[str, nn.Linear], is_token: torch.Tensor, sums: dict[str, torch.Tensor]
) -> Iterator[None]:
    def hook_for(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:  # noqa: ARG001
            sums[name] += args[0][is_token].float().abs().sum(dim=0)

        return hook

    handles = [module.register_forward_pre_hook(hook_for(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
