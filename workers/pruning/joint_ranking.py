"""Joint ranking: the cost of each component depends on the components chosen before it."""

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
"""Factor on the damage that a component does jointly with those chosen before it.

It is above 1 because components chosen later will interact with this one as well: what must stay
small is the total damage, not that of the next step. Measured on SmolLM2 with 16,000 weights
against toxicity: KL 0.0184 without coupling and 0.0138, 0.0064, 0.0052 and 0.0047 at factors 1, 8,
16 and 32, while the benefit falls by 2, 10, 11 and 13 per cent (docs/decisions/0014).
"""

STEPS = 128
"""How many times one ranking recomputes the damage done so far. Smaller steps changed nothing
(docs/decisions/0014)."""

FALL_SPREAD = 2.0
"""Every token's lead is assumed to fall this many times as fast as its sample's mean lead, because
leads do not fall evenly: a correction raised the leads of a list's words and lowered those of its
commas (docs/decisions/0016). With 1, the first trial of the demo's job loses 18 points of refrains;
with 2, less than 1.3 (benchmarks/RESULTS.md)."""

ROWS_AT_ONCE = 16
"""Rows converted to float32 at a time. With 512 rows of 102,000 components, 16 at a time take no
longer than one product of float32 rows (15 and 18 ms), 64 twice as long."""

DEAREST = 64.0
"""Highest price of damage to a text, reached near its limit; the price at half the limit is 1.
Chosen by hand; not measured."""


class Ledger(Protocol):
    """Running account of one text: the damage so far, and what each further removal would add."""

    def add(self, taken: torch.Tensor) -> None:
        """Record as chosen the components at positions `taken` of the pool, int64 `(taken,)`."""

    @property
    def damage(self) -> float:
        """Predicted damage of removing all chosen components together, nats per token."""

    def compute_costs(self) -> torch.Tensor:
        """Return the damage each component would add, `(component,)` float64, nats per token."""


class Guard(Protocol):
    """A protected text, and how to predict what removing components of a pool costs it."""

    @property
    def name(self) -> str:
        """The text's name."""

    @property
    def limit(self) -> float:
        """Largest damage the text may take, nats per token."""

    def open(self) -> Ledger:
        """Return a ledger in which nothing is chosen yet."""


@dataclass(frozen=True, eq=False)
class DivergenceGuard:
    """Guard of all predictions of a text, by loss to first and divergence to second order."""

    name: str
    limit: float
    first_order: torch.Tensor
    """`(component,)` float64: increase of the text's loss to first order, nats per token."""
    divergence: torch.Tensor
    """`(component,)` float64: KL divergence of removing each component alone, nats per token."""
    rows: torch.Tensor
    """`(row, component)`, G: removing the set with indicator m causes ½‖G m‖² nats."""

    def open(self) -> Ledger:
        """Return a ledger in which nothing is chosen yet."""
        return _DivergenceLedger(self)


class _DivergenceLedger:
    """Optimal Brain Damage, plus the off-diagonal terms of the Combinatorial Brain Surgeon."""

    def __init__(self, guard: DivergenceGuard) -> None:
        self._guard = guard
        self._disturbance = torch.zeros(len(guard.rows))

    def add(self, taken: torch.Tensor) -> None:
        self._disturbance += _sum_columns(self._guard.rows, taken)

    @property
    def damage(self) -> float:
        return 0.5 * float(self._disturbance.square().sum())

    def compute_costs(self) -> torch.Tensor:
        guard = self._guard
        coupled = _add_rows(guard.rows, self._disturbance).double().mul_(COUPLING_WEIGHT)
        return predict_damage(guard.first_order, guard.divergence, coupled)


@dataclass(frozen=True, eq=False)
class MarginGuard:
    """Guard of right continuations, by each token's lead: its logit minus the best other logit.

    It watches both figures that a slice is judged by: nats per token, and the share of items that
    are right.
    """

    name: str
    limit: float
    fall_limit: float
    """Largest fall of the share of items that are right."""
    rows: torch.Tensor
    """`(sample, component)`: fall of a sample's mean lead per removed component, logits."""
    leads: tuple[torch.Tensor, ...]
    """One tensor `(token,)` per sample: the leads of its tokens in the base model, logits."""
    edges: torch.Tensor
    """`(item,)`: the smallest lead of each item's tokens in the base model, logits."""

    def open(self) -> Ledger:
        """Return a ledger in which nothing is chosen yet."""
        return _MarginLedger(self)


class _MarginLedger:
    """The figure of a slice that is nearer to its limit, in nats per token.

    The loss is log(1 + exp(−lead)), averaged over tokens. The share of items that are right is the
    mean of σ(smallest lead of an item). Which of a slice's items are near the edge is chance, so
    the fall of every sample is held against the smallest leads of all items. A fall of that share
    is converted to nats by the ratio of the two limits.
    """

    def __init__(self, guard: MarginGuard) -> None:
        self._rows = guard.rows
        self._counts = torch.tensor([len(part) for part in guard.leads])
        self._leads = torch.cat(guard.leads).double()
        self._edges = guard.edges.double()
        self._falls = torch.zeros(len(guard.rows), dtype=torch.float64)
        self._nats_per_share = guard.limit / guard.fall_limit

    def add(self, taken: torch.Tensor) -> None:
        self._falls += _sum_columns(self._rows, taken)

    @property
    def damage(self) -> float:
        return max(self._rise, self._fall)

    def compute_costs(self) -> torch.Tensor:
        if self._rise >= self._fall:
            slopes = torch.sigmoid(-self._left()).split(self._counts.tolist())
            weights = torch.stack([part.sum() for part in slopes]).div_(len(self._leads))
        else:
            right = torch.sigmoid(self._edges_left())
            weights = (right * (1 - right)).mean(dim=1).div_(len(right)).mul_(self._nats_per_share)
        return _add_rows(self._rows, weights.mul_(FALL_SPREAD)).double().clamp_(min=0)

    @property
    def _rise(self) -> float:
        """The rise of the loss, nats per token."""
        after = functional.softplus(-self._left()).mean()
        return float(after - functional.softplus(-self._leads).mean())

    @property
    def _fall(self) -> float:
        """The fall of the share of right items, converted to nats per token."""
        lost = torch.sigmoid(self._edges).mean() - torch.sigmoid(self._edges_left()).mean()
        return float(lost) * self._nats_per_share

    def _left(self) -> torch.Tensor:
        """Return each token's predicted lead after the chosen removals, `(token,)`, logits."""
        return self._leads - FALL_SPREAD * self._falls.repeat_interleave(self._counts)

    def _edges_left(self) -> torch.Tensor:
        """Return each item's smallest lead if it fell as each sample's does, `(sample, item)`."""
        return self._edges[None, :] - FALL_SPREAD * self._falls[:, None]


@dataclass(frozen=True, eq=False)
class Pool:
    """The components to choose from, and the guards of all protected texts."""

    components: Selection
    guards: tuple[Guard, ...]
    """The reference text's guard comes first: damage to it always counts. Damage to the others
    counts more the closer they are to their limits."""


def _add_rows(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the sum of the rows times `weights` `(row,)`, `(component,)` float32.

    Few rows at a time are converted to float32, so that no second copy of them all is held.
    """
    total = torch.zeros(rows.shape[1])
    parts = zip(rows.split(ROWS_AT_ONCE), weights.float().split(ROWS_AT_ONCE), strict=True)
    for part, own in parts:
        total.addmv_(part.float().T, own)
    return total


def _sum_columns(rows: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    """Return each row's sum over the components at positions `taken`, `(row,)` float32."""
    return rows[:, taken].sum(dim=1, dtype=torch.float32)


def gather(components: Selection, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the value of each component, `(component,)` float64; 0 in modules without values."""
    parts = [
        values[name].flatten()[indices].double()
        if name in values
        else torch.zeros(len(indices), dtype=torch.float64)
        for name, indices in components.indices.items()
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def compute_price(use: float) -> float:
    """Return the price of further damage to a text that has used up the share `use` of its limit.

    The price is x / (1 − x), at most `DEAREST`: 0 while nothing is lost, 1 at half the limit (the
    price of damage to the reference text), and steeply rising beyond. It is the slope of the
    barrier −x − log(1 − x) used in interior-point methods (Boyd and Vandenberghe, Convex
    Optimization, section 11.2).
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

    The choice is greedy: it takes the best `limit` / `STEPS` components at a time and never
    takes one back. Components without benefit are never ranked, so the result may be shorter
    than `limit`.
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
        # a copy, since a part would keep the whole order in memory until the last step
        taken = scores.argsort(descending=True, stable=True)[:size].clone()
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
    """Return what each component would cost all texts, in nats per token of the first text.

    Damage to another text is converted to the first text's units by the ratio of their limits,
    and multiplied by that text's current price.
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
    """Drop from the last step of `order` what exceeds `most` per module, and return the rest.

    Changes `order` and `available` in place: components of a full module become unavailable.
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
    """Return, for each component, the position of its module and its index in that module."""
    places = list(components.indices.values())
    if not places:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    lengths = torch.tensor([len(indices) for indices in places])
    return torch.arange(len(places)).repeat_interleave(lengths), torch.cat(places)
