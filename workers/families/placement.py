"""Models larger than one device: which of their layers lies where."""

from __future__ import annotations

from torch import nn

from workers.families.description import Family


def place_layers(model: nn.Module, family: Family, devices: int) -> dict[str, int]:
    """Return module name → number of its device, of `devices`, for every part of the model.

    Layers lie on the devices in order, in shares of the weights as even as can be; everything
    else, from the embedding to the head, is on the first. So token ids, the states after the last
    norm and the head are on one device, and only what belongs to a layer may be on another.
    """
    sizes = [_count_weights(layer) for layer in model.get_submodule(family.layers).children()]
    left = _count_weights(model)  # of weights that no device before this one holds
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
    """Return the names of the largest modules that hold nothing of `layers`."""
    found: list[str] = []
    parent, path = model, ""
    for part in layers.split("."):
        found += [path + name for name, _ in parent.named_children() if name != part]
        parent, path = parent.get_submodule(part), f"{path}{part}."
    return found


def _count_weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in set(module.parameters()))
