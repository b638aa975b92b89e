"""The single weights of a linear module that are asked about: all of them, or some places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from excise.names import Statistic
from workers.domain import Selection
from workers.families import is_transposed, linear_weight

PLACES_AT_ONCE = 4096
"""Places of a module of which the products at every token exist at one time."""


@dataclass(frozen=True, eq=False)
class WholeMatrix:
    """Every weight of a linear module, in its stored layout."""

    module: nn.Module

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's two axes, as stored."""
        return tuple(linear_weight(self.module).shape)

    def read(self) -> torch.Tensor:
        """Return the weights."""
        return linear_weight(self.module).detach()

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of all of the module's weights, shaped as the weight, of those here."""
        return values

    def along_inputs(self, values: torch.Tensor) -> torch.Tensor:
        """Return values `(input feature,)` so that they multiply what `read` returns."""
        return values[:, None] if is_transposed(self.module) else values

    def add_products(
        self,
        total: torch.Tensor,
        inputs: torch.Tensor,
        gradient: torch.Tensor,
        statistic: Statistic,
    ) -> None:
        """Add to `total` the sum over rows of each weight's input times its output's gradient.

        `inputs` `(row, input feature)`, `gradient` `(row, output feature)`; both are raised to
        what `statistic` sums.
        """
        inputs, gradient = raise_to(inputs, statistic), raise_to(gradient, statistic)
        left, right = (inputs, gradient) if is_transposed(self.module) else (gradient, inputs)
        if left.device == total.device and left.dtype == right.dtype == torch.float32:
            total.addmm_(left.T, right)
        elif left.is_cuda and left.dtype in (torch.bfloat16, torch.float16):
            total.add_(torch.mm(left.T, right, out_dtype=torch.float32))
        else:
            total.add_(left.float().T @ right.float())


class ChosenPlaces:
    """Some weights of a linear module; every figure is `(place,)`."""

    def __init__(self, module: nn.Module, indices: torch.Tensor) -> None:
        """`indices` count entries of the weight in its stored layout."""
        weight = linear_weight(module)
        self._weight = weight.detach()
        self._indices = indices.to(weight.device)
        first, second = self._indices // weight.shape[1], self._indices % weight.shape[1]
        self._outputs, self._inputs = (second, first) if is_transposed(module) else (first, second)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of places."""
        return (len(self._indices),)

    def read(self) -> torch.Tensor:
        """Return the weights at the places."""
        return self._weight.flatten()[self._indices]

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of all of the module's weights, shaped as the weight, at the places."""
        return values.flatten()[self._indices.to(values.device)]

    def along_inputs(self, values: torch.Tensor) -> torch.Tensor:
        """Return values `(input feature,)` of the input of each place."""
        return values[self._inputs]

    def add_products(
        self,
        total: torch.Tensor,
        inputs: torch.Tensor,
        gradient: torch.Tensor,
        statistic: Statistic,
    ) -> None:
        """Add what `WholeMatrix.add_products` adds, at the places alone."""
        inputs, gradient = raise_to(inputs, statistic), raise_to(gradient, statistic)
        total += self.multiply(inputs.float()[None], gradient.float()[None])[0]

    def multiply(self, inputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return input times gradient at each place, summed over tokens: `(sample, place)`.

        `inputs` `(sample, token, input feature)`, `gradient` `(sample, token, output feature)`.
        """
        parts = [
            torch.einsum("sti,sti->si", gradient[:, :, left], inputs[:, :, right])
            for left, right in zip(
                self._outputs.split(PLACES_AT_ONCE), self._inputs.split(PLACES_AT_ONCE), strict=True
            )
        ]
        return torch.cat(parts, dim=1)


Matrix = WholeMatrix | ChosenPlaces


def find_matrices(
    modules: Mapping[str, nn.Module], places: Selection | None = None
) -> dict[str, Matrix]:
    """Return the weights of `modules` that are asked about; without `places` all of them.

    With them, only modules that have any.
    """
    if places is None:
        return {name: WholeMatrix(module) for name, module in modules.items()}
    return {
        name: ChosenPlaces(modules[name], indices)
        for name, indices in places.indices.items()
        if name in modules
    }


def raise_to(values: torch.Tensor, statistic: Statistic) -> torch.Tensor:
    """Return the values, their magnitudes or their squares: what the statistic sums."""
    if statistic is Statistic.MEAN:
        return values
    return values.abs() if statistic is Statistic.MEAN_ABSOLUTE else values.float().square()
