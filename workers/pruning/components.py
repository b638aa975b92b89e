"""Components of a loaded model: counting, removing for a while, drawing matched random ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from workers.domain import Component


def group_by_module(components: Iterable[Component]) -> dict[str, list[int]]:
    """Return module → ascending indices without duplicates, modules in order of their names."""
    groups: dict[str, list[int]] = {}
    for component in sorted(set(components)):
        groups.setdefault(component.module, []).append(component.index)
    return groups


@contextmanager
def pruned(model: nn.Module, components: Sequence[Component]) -> Iterator[None]:
    """Within the context the neurons are removed: their columns in the projection are zero.

    The original values are put back bit for bit on exit. Raises `ValueError` before anything
    is touched on a module that is absent or not linear and on an index outside it.
    """
    chosen = [
        (_find_linear(model, name, indices), indices)
        for name, indices in group_by_module(components).items()
    ]
    saved: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []
    try:
        for module, indices in chosen:
            columns = torch.tensor(indices, device=module.weight.device)
            saved.append((module, columns, module.weight.detach()[:, columns].clone()))
            with torch.no_grad():
                module.weight[:, columns] = 0
        yield
    finally:
        with torch.no_grad():
            for module, columns, values in saved:
                module.weight[:, columns] = values


def _find_linear(model: nn.Module, name: str, indices: Sequence[int]) -> nn.Linear:
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"the model has no module {name}") from error
    features = module.in_features if isinstance(module, nn.Linear) else 0
    for index in indices:
        if not 0 <= index < features:
            raise ValueError(f"{name} has no input feature {index}")
    assert isinstance(module, nn.Linear)
    return module


def draw_random_components(
    components: Sequence[Component], sizes: Mapping[str, int], seed: int
) -> tuple[Component, ...]:
    """Return as many random components as given, in the same modules, none of those given.

    The matched control: same count in every module, so that depth is not what differs.
    `sizes` is module → number of features. Raises `ValueError` if a module has too few left.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Component] = []
    for name, indices in group_by_module(components).items():
        taken = set(indices)
        free = [index for index in range(sizes[name]) if index not in taken]
        if len(free) < len(indices):
            raise ValueError(f"{name} has only {len(free)} other neurons for a random control")
        chosen = torch.randperm(len(free), generator=generator)[: len(indices)].tolist()
        drawn.extend(Component(name, free[position]) for position in chosen)
    return tuple(sorted(drawn))
