"""SplitMix64 against a slow one in Python's whole numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.models.splitmix import STEP, mix, shift_right

MASK = (1 << 64) - 1
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)


def mix_slowly(number: int) -> int:
    """The output function as Steele, Lea and Flood print it (2014, figure 16), unsigned."""
    number &= MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


@given(NUMBERS)
def test_numbers_are_mixed_as_published(number: int) -> None:
    assert int(mix(torch.tensor([number]))) & MASK == mix_slowly(number)


@given(NUMBERS, st.integers(1, 63))
def test_zeros_are_shifted_in(number: int, count: int) -> None:
    assert int(shift_right(torch.tensor([number]), count)) == (number & MASK) >> count


@pytest.mark.parametrize(
    ("seed", "outputs"),
    [
        (0, (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)),
        (1234567, (6457827717110365317, 3203168211198807973, 9817491932198370423)),
    ],
)
def test_numbers_are_those_of_the_authors_program(seed: int, outputs: tuple[int, ...]) -> None:
    state = torch.tensor(seed)
    found = []
    for _ in outputs:
        state = state + STEP
        found.append(int(mix(state)) & MASK)
    assert tuple(found) == outputs
