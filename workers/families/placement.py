"""Placing models larger than one device: which layers go to which device."""

from __future__ import annotations

from torch import nn

from workers.families.description import Family


def place_layers(model: nn.Module, family: Family, devices: int) -> dict[str, int]:
    """Return module name → device number, below `devices`, for every part of the model.

    Layers go to the devices in order, with shares of the weights as even as possible; everything
    else, from the embedding to the head, goes to the first. So token ids, the states after the
    last norm and the head are on the same device, and only parts of layers may be on others.
    """
    sizes = [_count_weights(layer) for layer in model.get_submodule(family.layers).children()]
    left = _count_weights(model)  # weights that no earlier device holds
    device, filled = 0, left - sum(sizes)
    places = dict.fromkeys(_list_surroundings(model, family.layers), 0)
    for index, size in enumerate(sizes):
        if filled + size / 2 > left / (devices - device) and device < devices - 1:
            left -= filled
            device, filled = device + 1, 0
        places[f"{family.layers}.{index}"] = device
        filled += size
    return places


def _list_surroundings(model: nn.Module, layers: str) -> list[str]:
    """Return the names of the largest modules that contain no part of `layers`."""
    found: list[str] = []
    parent, path = model, ""
    for part in layers.split("."):
        found += [path + name for name, _ in parent.named_children() if name != part]
        parent, path = parent.get_submodule(part), f"{path}{part}."
    return found


def _count_weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in set(module.parameters()))
