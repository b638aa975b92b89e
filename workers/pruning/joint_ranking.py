"""Ranking of components whose removals add up: each is weighed beside those chosen before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from workers.domain import Selection
from workers.pruning.ranking import Ranking
from workers.pruning.scoring import LEAST_DIVERGENCE_SHARE

COUPLING_WEIGHT = 16.0
"""How much the damage done together with those chosen before weighs beside a component's own.

More than 1, as what is chosen later adds to it: the whole of it is bounded, not the next step. On
SmolLM2, 16,000 weights against toxicity: KL 0.0184 without, 0.0138 at 1, 0.0064 at 8, 0.0052 at
16, 0.0047 at 32; what they bring falls by 2, 10, 11 and 13 per cent.
"""

STEPS = 128
"""Times that the damage done so far is computed anew."""

FALL_SPREAD = 2.0
"""How much faster than a sample's mean lead the leads fall that matter: a list's words fall, its
commas do not."""

DEAREST = 64.0
"""Most that damage to a text near its limit costs, beside the same damage far from it."""


class Ledger(Protocol):
    """What the components chosen so far cost a text, and what each further one would."""

    def add(self, taken: torch.Tensor) -> None:
        """Count the components at the places `taken`."""

    @property
    def damage(self) -> float:
        """What they cost together, as foretold, nats a token."""

    def compute_costs(self) -> torch.Tensor:
        """Return what each component would cost besides, `(component,)` float64, nats a token."""


class Guard(Protocol):
    """A text that must keep working: what removing the components of a pool costs it."""

    @property
    def name(self) -> str:
        """What the text is called."""

    @property
    def limit(self) -> float:
        """What may be lost, nats a token."""

    def open(self) -> Ledger:
        """Return a ledger in which nothing is chosen yet."""


@dataclass(frozen=True, eq=False)
class DivergenceGuard:
    """Guards a text's whole predictions: loss to first order, divergence to second."""

    name: str
    limit: float
    first_order: torch.Tensor
    """`(component,)` float64: rise of its loss to first order, nats a token."""
    own: torch.Tensor
    """`(component,)` float64: divergence that each causes by itself, nats a token."""
    rows: torch.Tensor
    """`(row, component)` float32: ½‖rows·m‖² is the divergence that removing m causes."""

    def open(self) -> Ledger:
        """Return a ledger in which nothing is chosen yet."""
        return _DivergenceLedger(self)


class _DivergenceLedger:
    """Optimal Brain Damage, with the off-diagonal terms of the Combinatorial Brain Surgeon."""

    def __init__(self, guard: DivergenceGuard) -> None:
        self._guard = guard
        self._least = guard.own * LEAST_DIVERGENCE_SHARE
        self._costs = guard.first_order + guard.own
        self._disturbance = torch.zeros(len(guard.rows))

    def add(self, taken: torch.Tensor) -> None:
        self._disturbance += self._guard.rows[:, taken].sum(dim=1)

    @property
    def damage(self) -> float:
        return 0.5 * float(self._disturbance.square().sum())

    def compute_costs(self) -> torch.Tensor:
        coupled = (self._guard.rows.T @ self._disturbance).double().mul_(COUPLING_WEIGHT)
        return torch.maximum(coupled.add_(self._costs), self._least)


@dataclass(frozen=True, eq=False)
class MarginGuard:
    """Guards right continuations, by the lead of their tokens over the best other ones."""

    name: str
    limit: float
    rows: torch.Tensor
    """`(sample, component)` float32: fall of the sample's mean lead with each, in logits."""
    leads: tuple[torch.Tensor, ...]
    """For each sample the leads of its tokens, `(token,)`."""

    def open(self) -> Ledger:
        """Return a ledger in which nothing is chosen yet."""
        return _MarginLedger(self)


class _MarginLedger:
    """The loss of tokens whose leads fall: log(1 + exp(−lead)), the logistic loss."""

    def __init__(self, guard: MarginGuard) -> None:
        self._rows = guard.rows
        self._counts = torch.tensor([len(part) for part in guard.leads])
        self._leads = torch.cat(guard.leads).double()
        self._falls = torch.zeros(len(guard.rows), dtype=torch.float64)

    def add(self, taken: torch.Tensor) -> None:
        self._falls += self._rows[:, taken].sum(dim=1)

    @property
    def damage(self) -> float:
        after = functional.softplus(-self._left()).mean()
        return float(after - functional.softplus(-self._leads).mean())

    def compute_costs(self) -> torch.Tensor:
        slopes = torch.sigmoid(-self._left()).split(self._counts.tolist())
        weights = torch.stack([part.sum() for part in slopes]).mul_(FALL_SPREAD / len(self._leads))
        return (self._rows.T @ weights.float()).double().clamp_(min=0)

    def _left(self) -> torch.Tensor:
        """Return each token's lead after what was chosen, as foretold."""
        return self._leads - FALL_SPREAD * self._falls.repeat_interleave(self._counts)


@dataclass(frozen=True, eq=False)
class Pool:
    """Components to choose from, and what their removals do to each text that must keep working."""

    components: Selection
    guards: tuple[Guard, ...]
    """The reference text first: its damage always counts, that of the others near their limits."""


def gather(components: Selection, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return each component's value `(component,)`, float64; 0 in modules without values."""
    parts = [
        values[name].flatten()[indices].double()
        if name in values
        else torch.zeros(len(indices), dtype=torch.float64)
        for name, indices in components.indices.items()
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def compute_price(use: float) -> float:
    """Return what damage costs a text whose limit is used up to the share `use`.

    Nothing while nothing is lost, as much as damage to the reference text at half the limit,
    then steeply more: x / (1 − x), the slope of the barrier −x − log(1 − x) of interior-point
    methods (Boyd and Vandenberghe, Convex Optimization, section 11.2), at most `DEAREST`.
    """
    if use <= 0:
        return 0.0
    return min(use / (1 - use), DEAREST) if use < 1 else DEAREST


def rank_jointly(
    pool: Pool,
    benefit: Mapping[str, torch.Tensor],
    floor: float,
    limit: int,
    cost_weight: float = 1.0,
    prices: Mapping[str, float] | None = None,
    most_of_module: int | None = None,
) -> Ranking:
    """Return at most `limit` components of the pool, best first.

    The score is benefit ÷ cost, where the cost is the sum over all guards of the share of their
    limit that a removal takes, at the guard's present price: the first order of its loss, the
    second order of the component by itself (as Optimal Brain Damage has it), and what it does
    together with those already chosen, (Gᵀ G m)ₖ, times `COUPLING_WEIGHT` (the off-diagonal
    terms of the Combinatorial Brain Surgeon, Yu et al. 2022). `floor` is added to every cost, in
    nats a token of the reference text. `prices` are the least ones, by the guard's name: above 0
    where earlier trials cost a text more than they may.

    No more than `most_of_module` are taken from one module, where that is given.

    Greedy: a hundredth at a time, never taken back. Components without benefit are never ranked,
    so fewer may come back.
    """
    useful = gather(pool.components, benefit).clamp_(min=0)
    ledgers = [guard.open() for guard in pool.guards]
    available = useful > 0
    owners, indices = _list_places(pool.components)
    order: list[torch.Tensor] = []
    count, step = 0, max(1, limit // STEPS)
    while count < limit and bool(available.any()):
        cost = _add_costs(pool.guards, ledgers, prices or {}).add_(floor)
        scores = torch.where(available, useful / cost.pow_(cost_weight), -torch.inf)
        size = min(step, limit - count, int(available.sum()))
        taken = scores.argsort(descending=True, stable=True)[:size]
        order.append(taken)
        available[taken] = False
        if most_of_module is not None:
            taken = _cap(order, owners, available, most_of_module)
        for ledger in ledgers:
            ledger.add(taken)
        count += len(taken)
    chosen = torch.cat(order) if order else torch.empty(0, dtype=torch.int64)
    modules = tuple(pool.components.indices)
    return Ranking(pool.components.granularity, modules, owners[chosen], indices[chosen])


def _add_costs(
    guards: Sequence[Guard], ledgers: Sequence[Ledger], prices: Mapping[str, float]
) -> torch.Tensor:
    """Return what each component costs all texts, in nats a token of the first.

    A nat of another text counts as much as the same share of the first one's limit, at the
    text's present price.
    """
    cost = ledgers[0].compute_costs()
    for guard, ledger in zip(guards[1:], ledgers[1:], strict=True):
        price = max(compute_price(ledger.damage / guard.limit), prices.get(guard.name, 0.0))
        if price:
            cost.add_(ledger.compute_costs(), alpha=price * guards[0].limit / guard.limit)
    return cost


def _cap(
    order: list[torch.Tensor], owners: torch.Tensor, available: torch.Tensor, most: int
) -> torch.Tensor:
    """Drop from the last step what exceeds `most` of a module, close full modules; the rest."""
    before = torch.cat(order[:-1]) if len(order) > 1 else order[0][:0]
    counts = owners[before].bincount(minlength=int(owners.max()) + 1)
    kept = []
    for place in order[-1].tolist():
        owner = owners[place]
        if counts[owner] < most:
            counts[owner] += 1
            kept.append(place)
    available &= counts[owners] < most
    order[-1] = torch.tensor(kept, dtype=torch.int64)
    return order[-1]


def _list_places(components: Selection) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each component's module, by its position, and its index there."""
    places = list(components.indices.values())
    if not places:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    lengths = torch.tensor([len(indices) for indices in places])
    return torch.arange(len(places)).repeat_interleave(lengths), torch.cat(places)
