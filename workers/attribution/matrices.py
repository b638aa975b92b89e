"""The single weights of a matrix that are asked about: all of them, or some places.

A matrix is a linear module's weight, or a fused parameter that holds one for each expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from excise.names import Statistic
from workers.domain import Selection
from workers.families import is_transposed, named_weight

PLACES_AT_ONCE = 4096
"""Number of places of a module whose products at every token are in memory at one time."""


@dataclass(frozen=True, eq=False)
class WholeMatrix:
    """Every weight of a matrix, in its stored layout."""

    module: nn.Module
    name: str = ""
    """The parameter's name; needed for experts only, whose module has several."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's axes, as stored: two, and one before them for experts."""
        return tuple(self.read().shape)

    def read(self) -> torch.Tensor:
        """Return the weights."""
        return named_weight(self.module, self.name).detach()

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Return `values`, which has one for each weight of the matrix, unchanged."""
        return values

    def along_inputs(self, values: torch.Tensor) -> torch.Tensor:
        """Return values `(input feature,)`, shaped to be multiplied with what `read` returns.

        For experts, `values` has the features of all, one expert after another.
        """
        if len(self.shape) == 3:
            return values.view(self.shape[0], 1, -1)
        return values[:, None] if is_transposed(self.module) else values

    def add_products(
        self,
        total: torch.Tensor,
        inputs: torch.Tensor,
        gradient: torch.Tensor,
        statistic: Statistic,
        expert: int | None = None,
    ) -> None:
        """Add to `total` the sum over rows of each weight's input times its output's gradient.

        `inputs` `(row, input feature)`, `gradient` `(row, output feature)`; both are raised to
        the power that `statistic` sums. `expert` is the expert to which the rows were routed.
        """
        if expert is not None:
            total = total[expert]
        inputs, gradient = raise_to(inputs, statistic), raise_to(gradient, statistic)
        left, right = (inputs, gradient) if is_transposed(self.module) else (gradient, inputs)
        if left.is_cuda and left.dtype in (torch.bfloat16, torch.float16):
            total.add_(torch.mm(left.T, right, out_dtype=torch.float32))
        else:
            total.addmm_(left.float().T, right.float())


class ChosenPlaces:
    """Some weights of a matrix; every figure is `(place,)`."""

    def __init__(self, module: nn.Module, indices: torch.Tensor, name: str = "") -> None:
        """`indices` point into the flattened weight as stored; `name` is the parameter's name."""
        weight = named_weight(module, name)
        self._weight = weight.detach()
        self._indices = indices.to(weight.device)
        rows, columns = self._indices // weight.shape[-1], self._indices % weight.shape[-1]
        self._experts, rows = rows // weight.shape[-2], rows % weight.shape[-2]
        self._outputs, self._inputs = (columns, rows) if is_transposed(module) else (rows, columns)
        self._features = self._inputs + self._experts * weight.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of places."""
        return (len(self._indices),)

    def read(self) -> torch.Tensor:
        """Return the weights at the places."""
        return self._weight.flatten()[self._indices]

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Return those of `values`, shaped like the whole weight, that are at the places."""
        return values.flatten()[self._indices.to(values.device)]

    def along_inputs(self, values: torch.Tensor) -> torch.Tensor:
        """Return the value of each place's input; `values` has the features of all experts."""
        return values[self._features]

    def add_products(
        self,
        total: torch.Tensor,
        inputs: torch.Tensor,
        gradient: torch.Tensor,
        statistic: Statistic,
        expert: int | None = None,
    ) -> None:
        """Add what `WholeMatrix.add_products` adds, at the places only."""
        inputs = raise_to(inputs, statistic).float()[None]
        gradient = raise_to(gradient, statistic).float()[None]
        if expert is None:
            total += self.multiply(inputs, gradient)[0]
            return
        own = (self._experts == expert).nonzero().flatten()
        total[own] += self.multiply(inputs, gradient, own)[0]

    def multiply(
        self, inputs: torch.Tensor, gradient: torch.Tensor, own: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return input times gradient at each place, summed over tokens: `(sample, place)`.

        `inputs` `(sample, token, input feature)`, `gradient` `(sample, token, output feature)`.
        With `own`, int64 `(place,)`, only at the places with these numbers.
        """
        outputs, features = self._outputs, self._inputs
        if own is not None:
            outputs, features = outputs[own], features[own]
        # With the features first, the values of one feature are contiguous in memory.
        lefts, rights = (values.permute(2, 0, 1).contiguous() for values in (gradient, inputs))
        parts = [
            lefts.index_select(0, left).mul_(rights.index_select(0, right)).sum(dim=-1)
            for left, right in zip(
                outputs.split(PLACES_AT_ONCE), features.split(PLACES_AT_ONCE), strict=True
            )
        ]
        return torch.cat(parts).T


Matrix = WholeMatrix | ChosenPlaces


def find_matrices(
    modules: Mapping[str, nn.Module], places: Selection | None = None
) -> dict[str, Matrix]:
    """Return the weights of `modules` at `places`, or all of them without `places`.

    With `places`, modules without any are left out.
    """
    if places is None:
        return {name: WholeMatrix(module, name) for name, module in modules.items()}
    return {
        name: ChosenPlaces(modules[name], indices, name)
        for name, indices in places.indices.items()
        if name in modules
    }


def raise_to(values: torch.Tensor, statistic: Statistic) -> torch.Tensor:
    """Return the values, their magnitudes or their squares: what the statistic sums."""
    if statistic is Statistic.MEAN:
        return values
    return values.abs() if statistic is Statistic.MEAN_ABSOLUTE else values.float().square()
