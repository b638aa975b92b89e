"""Layers over several devices: in order, evenly, everything else on the first."""

from __future__ import annotations

import pytest

from tests.tiny_families import SETTINGS, build_family_model
from workers.families import find_family, place_layers


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_weight_and_buffer_has_one_place(name: str) -> None:
    model = build_family_model(name)
    family = find_family(model)
    places = place_layers(model, family, 2)
    held = [key for key, _ in (*model.named_parameters(), *model.named_buffers())]
    for key in held:
        (place,) = [where for part, where in places.items() if key.startswith(f"{part}.")]
        assert place == 0 or key.startswith(f"{family.layers}.1.")
    assert [places[f"{family.layers}.{layer}"] for layer in range(2)] == [0, 1]


@pytest.mark.parametrize(
    ("layers", "devices", "vocabulary", "expected"),
    [
        (4, 1, 101, [0, 0, 0, 0]),
        (6, 2, 101, [0, 0, 0, 1, 1, 1]),
        (6, 3, 101, [0, 0, 1, 1, 2, 2]),
        (2, 4, 101, [1, 2]),
        (12, 5, 2, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4]),
        # An embedding of four layers' size takes the place of so many on the first device.
        (8, 2, 1100, [0, 0, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_devices_hold_even_shares(
    layers: int, devices: int, vocabulary: int, expected: list[int]
) -> None:
    model = build_family_model(
        "llama", num_hidden_layers=layers, vocab_size=vocabulary, tie_word_embeddings=True
    )
    places = place_layers(model, find_family(model), devices)
    found = [places[f"model.layers.{layer}"] for layer in range(layers)]
    assert found == sorted(found)
    assert found == expected
