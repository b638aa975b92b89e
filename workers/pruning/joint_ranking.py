"""Joint ranking: each component is weighed together with those chosen before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from workers.domain import Selection
from workers.pruning.damage import predict_damage
from workers.pruning.ranking import Ranking

COUPLING_WEIGHT = 16.0
"""Weight of the damage a component does together with those chosen before, beside its own.

Above 1 because the components chosen later add to that damage, too: the total is bounded, not the
next step. Measured on SmolLM2, 16,000 weights against toxicity: KL 0.0184 without coupling, 0.0138
at weight 1, 0.0064 at 8, 0.0052 at 16, 0.0047 at 32, while the benefit falls by 2, 10, 11 and 13
per cent (docs/decisions/0014).
"""

STEPS = 128
"""Times the damage done so far is computed anew in one ranking. Smaller steps changed nothing
(docs/decisions/0014)."""

FALL_SPREAD = 2.0
"""How many times as fast as a sample's mean lead its most endangered leads are taken to fall: a
correction lifts the leads of a list's words and lowers those of its commas (docs/decisions/0016).
Chosen by hand; not measured."""

DEAREST = 64.0
"""Highest price of damage to a text at its limit; 1 is the price at half its limit. Chosen by
hand; not measured."""


class Ledger(Protocol):
    """What the components chosen so far cost a text, and what each further one would add."""

    def add(self, taken: torch.Tensor) -> None:
        """Count the components at the places `taken`, int64 `(taken,)`, as chosen."""

    @property
    def damage(self) -> float:
        """Predicted damage of all chosen components together, nats a token."""

    def compute_costs(self) -> torch.Tensor:
        """Return what each component would add, `(component,)` float64, nats a token."""


class Guard(Protocol):
    """A text that must keep working: what removing the components of a pool costs it."""

    @property
    def name(self) -> str:
        """The text's name."""

    @property
    def limit(self) -> float:
        """Most it may lose, nats a token."""

    def open(self) -> Ledger:
        """Return a ledger in which nothing is chosen yet."""


@dataclass(frozen=True, eq=False)
class DivergenceGuard:
    """Guards a text's predictions as a whole: their loss to first, divergence to second order."""

    name: str
    limit: float
    first_order: torch.Tensor
    """`(component,)` float64: rise of the text's loss to first order, nats a token."""
    divergence: torch.Tensor
    """`(component,)` float64: KL divergence each removal causes by itself, nats a token."""
    rows: torch.Tensor
    """`(row, component)` float32: removing the set m causes the divergence ½‖rows · m‖²."""

    def open(self) -> Ledger:
        """Return a ledger in which nothing is chosen yet."""
        return _DivergenceLedger(self)


class _DivergenceLedger:
    """Optimal Brain Damage plus the off-diagonal terms of the Combinatorial Brain Surgeon."""

    def __init__(self, guard: DivergenceGuard) -> None:
        self._guard = guard
        self._disturbance = torch.zeros(len(guard.rows))

    def add(self, taken: torch.Tensor) -> None:
        self._disturbance += self._guard.rows[:, taken].sum(dim=1)

    @property
    def damage(self) -> float:
        return 0.5 * float(self._disturbance.square().sum())

    def compute_costs(self) -> torch.Tensor:
        guard = self._guard
        coupled = (guard.rows.T @ self._disturbance).double().mul_(COUPLING_WEIGHT)
        return predict_damage(guard.first_order, guard.divergence, coupled)


@dataclass(frozen=True, eq=False)
class MarginGuard:
    """Guards right continuations by their tokens' leads: logit minus the best other logit."""

    name: str
    limit: float
    rows: torch.Tensor
    """`(sample, component)` float32: fall of a sample's mean lead when one is removed, logits."""
    leads: tuple[torch.Tensor, ...]
    """For each sample the base model's leads of its tokens, `(token,)`, logits."""

    def open(self) -> Ledger:
        """Return a ledger in which nothing is chosen yet."""
        return _MarginLedger(self)


class _MarginLedger:
    """The logistic loss of falling leads, log(1 + exp(−lead)), a mean over tokens."""

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
        """Return the predicted lead of each token once the chosen components are gone."""
        return self._leads - FALL_SPREAD * self._falls.repeat_interleave(self._counts)


@dataclass(frozen=True, eq=False)
class Pool:
    """The components to choose from, and the guards of all texts that must keep working."""

    components: Selection
    guards: tuple[Guard, ...]
    """The reference text first: its damage always counts, that of others as they near their
    limits."""


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
    """Return the price of damage to a text that has used up the share `use` of its limit.

    0 while nothing is lost, 1 at half the limit (as much as damage to the reference text), then
    steeply more: x / (1 − x), the slope of the barrier −x − log(1 − x) of interior-point methods
    (Boyd and Vandenberghe, Convex Optimization, section 11.2), at most `DEAREST`.
    """
    if use <= 0:
        return 0.0
    return min(use / (1 - use), DEAREST) if use < 1 else DEAREST


def rank_jointly(
    pool: Pool,
    benefit: torch.Tensor,
    floor: float,
    limit: int,
    cost_weight: float = 1.0,
    prices: Mapping[str, float] | None = None,
    most_of_module: int | None = None,
    allowed: torch.Tensor | None = None,
) -> Ranking:
    """Return at most `limit` components of the pool, best first.

    `benefit` `(component,)` is what the removal of each brings. The score is
    benefit ÷ cost^`cost_weight`. The cost adds up, over all guards, the predicted damage to
    their texts: as `predict_damage` has it for the reference text, with the coupling to the
    components chosen already, (Gᵀ G m)ₖ, times `COUPLING_WEIGHT` (Yu et al. 2022, the
    Combinatorial Brain Surgeon); by falling leads for the others, at their present price (see
    `_add_costs`). `floor`, nats a token of the reference text, is added to every cost. `prices`
    (guard's name → price) are least prices, raised where earlier trials lost too much. With
    `most_of_module`, no module gives more components than that; with `allowed` `(component,)`,
    boolean, only those come into question.

    The choice is greedy: the best `limit` / `STEPS` components at a time, never taken back.
    Components without benefit are never ranked, so fewer than `limit` may come back.
    """
    useful = benefit.clamp(min=0)
    ledgers = [guard.open() for guard in pool.guards]
    available = useful > 0 if allowed is None else allowed & (useful > 0)
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
    """Return what each component would cost all texts, in nats a token of the first text.

    Damage to another text is converted as a share of its limit: the same share of the first
    text's limit, times the text's present price.
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
    """Return the last step of `order` without the components beyond `most` of their module.

    Changes `order` and `available` in place: a full module offers nothing any more.
    """
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
    """Return for each component its module's position and its index in the module."""
    places = list(components.indices.values())
    if not places:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    lengths = torch.tensor([len(indices) for indices in places])
    return torch.arange(len(places)).repeat_interleave(lengths), torch.cat(places)
