"""Temporary ablation: components of a loaded model are removed, scaled or replaced by means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from workers.domain import Selection
from workers.models.hooks import OutputHook, hooked
from workers.pruning.ablation import compute_bias_shift, scale_values, shift_bias
from workers.pruning.places import Place, find_places


@contextmanager
def pruned(
    model: nn.Module,
    selection: Selection,
    *,
    head_dim: int | None = None,
    scale: float = 0.0,
    replacement: Mapping[str, torch.Tensor] | None = None,
) -> Iterator[None]:
    """Within the context the selected components are multiplied by `scale`; 0 removes them.

    A neuron or head is removed by changing the weights that read it. If `head_dim` is None, it
    is derived from the model's configuration. `replacement` maps a module to the mean
    activation of every input feature, `(feature,)`. If given, the mean output that the ablation
    takes away, (1 − scale) · W[:, J] · mean[J], is added to the module's bias, or, if it has no
    bias, to its output by a hook on the instance.

    On exit, parameters are restored bit for bit, even if modules share storage or the body
    raises. The saved originals take as much memory as the selection. Raises `ValueError`, before
    anything is changed, for a module that is absent or not linear, an index out of range, and a
    replacement of the wrong shape.
    """
    places = find_places(model, selection, head_dim)
    # Read all before writing any, so that a component reached twice is scaled only once.
    originals = [place.view[place.entries] for place in places]
    shifts = [
        None if replacement is None else _compute_shift(place, values, scale, replacement)
        for place, values in zip(places, originals, strict=True)
    ]
    with ExitStack() as undo:
        for place, values, shift in zip(places, originals, shifts, strict=True):
            undo.callback(_write, place, values)
            _write(place, scale_values(values, scale))
            if shift is not None:
                _add_shift(place, shift, undo)
        yield


def _write(place: Place, values: torch.Tensor) -> None:
    place.view[place.entries] = values


def _compute_shift(
    place: Place, values: torch.Tensor, scale: float, replacement: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    if place.module is None:
        raise ValueError(f"{place.name} holds fused experts, which take no mean; ablate by zero")
    means = replacement.get(place.name)
    if means is None or means.shape != (place.features,):
        raise ValueError(f"{place.name} needs its {place.features} mean activations, one a feature")
    chosen = means[place.inputs.to(means.device)].to(values.device)
    outputs = None if place.outputs is None else place.outputs.to(values.device)
    return compute_bias_shift(values, chosen, scale, outputs, place.output_size)


def _add_shift(place: Place, shift: torch.Tensor, undo: ExitStack) -> None:
    """Add `shift` to the module's bias, or to its output if it has no bias, until undone."""
    assert place.module is not None
    bias = place.module.bias
    if isinstance(bias, torch.Tensor):
        values = bias.detach()
        undo.callback(values.copy_, values.clone())
        values.copy_(shift_bias(values, shift))
    else:
        undo.enter_context(hooked([OutputHook(place.module, partial(_shift_output, shift))]))


def _shift_output(
    shift: torch.Tensor, _module: nn.Module, _inputs: Any, output: torch.Tensor
) -> torch.Tensor:
    return shift_bias(output, shift)
