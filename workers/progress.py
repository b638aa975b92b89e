"""How far long-running work came, and how long it will still take.

A stage lists its work in parts, in the order in which they are done. What a unit costs is counted
in tokens that pass through the model, so that responses, texts and rows add up; how long a token
takes is measured on the way, for each kind of unit. Whoever listens may raise to stop the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from excise.estimates.cost import GENERATION_SHARE, PASS_SHARE

Advance = Callable[[float], None]
"""Called with the units of work just finished, shares of one too; may raise to stop."""

FORWARD = 1.0
"""Cost of a token that passes forwards, by which all costs are measured."""

BACKWARD = 2.0
"""Cost of a token that passes backwards: twice the products."""

GENERATED = PASS_SHARE / GENERATION_SHARE
"""Cost of a token that is generated: the machine does fewer products a second for it."""

TRUSTED_SHARE = 0.02
"""Share of all work after which a kind's own pace counts as much as that of all kinds together.
Chosen by hand; not measured."""

LEAST_UNIT = 1e-6
"""Units below which a part counts as done: shares of units do not add up exactly."""


@dataclass(frozen=True)
class Standing:
    """How far a stage came."""

    done: int
    """Work done, in tokens that pass through the model."""
    total: int
    """Work done and still to do; it may grow or shrink as more becomes known."""
    message: str = ""
    """The same in plain units: `trial 2 of at most 8: 30 of 52 responses`."""
    remaining_seconds: float | None = None
    """Of the stage, at the pace so far; None while nothing is done."""


Progress = Callable[[Standing], None]
"""Called whenever a stage came further; may raise to stop."""


@dataclass(frozen=True)
class Part:
    """Units of work of one kind, done one after another."""

    noun: str
    """What they are, in the plural; units of one name are expected to go at one pace."""
    costs: Sequence[float]
    """Cost of each unit, in the order in which they are done."""
    step: str = ""
    """What they are a part of, as people read it; empty where the stage has one step."""

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self.costs)

    @cached_property
    def _sums(self) -> list[float]:
        return list(accumulate(self.costs, initial=0.0))

    def add_up(self, units: float) -> float:
        """Return what the first `units` cost."""
        whole = min(int(units), self.units)
        rest = (units - whole) * self.costs[whole] if whole < self.units else 0.0
        return self._sums[whole] + rest

    def describe(self, units: float) -> str:
        """Return for people that so many units are done."""
        before = f"{self.step}: " if self.step else ""
        return f"{before}{int(units + LEAST_UNIT)} of {self.units} {self.noun}"


def count_alike(noun: str, units: int, cost: float = FORWARD, step: str = "") -> Part:
    """Return a part whose units all cost the same."""
    return Part(noun, (cost,) * units, step)


def read_texts(
    noun: str, lengths: Iterable[int], *, passes: float = FORWARD, step: str = ""
) -> Part:
    """Return the part of texts that are read whole, the longest first, as batches are built.

    `lengths` are their tokens, `passes` what each token costs.
    """
    return Part(noun, tuple(passes * own for own in sorted(lengths, reverse=True)), step)


def answer_prompts(
    lengths: Iterable[int], new_tokens: int, samples: int = 1, *, step: str = ""
) -> Part:
    """Return the part of responses to prompts of such lengths, the shortest prompt first."""
    own = sorted(length for length in lengths for _ in range(samples))
    return Part("responses", tuple(length + GENERATED * new_tokens for length in own), step)


@dataclass
class _Count:
    """A part and how many units of it are done."""

    part: Part
    done: float = 0.0

    @property
    def is_open(self) -> bool:
        return self.part.units - self.done > LEAST_UNIT

    @property
    def cost_done(self) -> float:
        return self.part.add_up(self.done)

    @property
    def cost_left(self) -> float:
        return self.part.add_up(self.part.units) - self.cost_done


@dataclass
class _Kind:
    """What is known of the units of one name."""

    cost_left: float = 0.0
    seconds: float = 0.0
    """That those took whose pace is known."""
    cost: float = 0.0
    """Of those."""


class Counter:
    """Adds up finished units of work, part by part, and says what is left.

    It is an `Advance`: units fill the parts in their order, never beyond the last.
    """

    def __init__(
        self,
        progress: Progress,
        parts: Iterable[Part],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Say at once how much work there is. `clock` is read in seconds."""
        self._progress = progress
        self._counts = [_Count(part) for part in parts]
        self._place = 0
        self._latest = Part("", ())
        self._done = 0.0
        self._kinds: dict[str, _Kind] = {}
        self._clock = clock
        self._last = clock()
        self._settle()

    def __call__(self, units: float) -> None:
        """Take in that so many units more are done."""
        now = self._clock()
        costs = self._fill(units)
        if costs:
            self._learn(costs, now - self._last)
            self._last = now
        self._tell()

    def skip(self, units: float) -> None:
        """Take in that so many units were done before, by whoever: they tell nothing of pace."""
        self._fill(units)
        self._last = self._clock()
        self._tell()

    def begin(self, step: str) -> None:
        """Go on with the first open part of a step: what stands before it is not needed any more.

        Nothing where no part of it is open.
        """
        for number, own in enumerate(self._counts):
            if own.part.step == step and own.is_open:
                self._close(number)
                return

    def expect(self, part: Part) -> None:
        """Put `part` in the place of the open one of its step and kind; without one, do it next."""
        for own in self._counts:
            if own.is_open and (own.part.step, own.part.noun) == (part.step, part.noun):
                own.part = part
                break
        else:
            self._counts.insert(self._place, _Count(part))
        self._settle()

    def finish(self) -> None:
        """Say that no more is to be done."""
        self._close(len(self._counts))

    def _close(self, place: int) -> None:
        """Let everything before a place be done."""
        for own in self._counts[:place]:
            own.done = float(own.part.units)
        self._settle()

    def _settle(self) -> None:
        """Add up what is done and left, find the first open part, and say so."""
        self._add_up()
        self._tell()

    def _add_up(self) -> None:
        self._done = sum(own.cost_done for own in self._counts)
        for kind in self._kinds.values():
            kind.cost_left = 0.0
        for own in self._counts:
            self._kinds.setdefault(own.part.noun, _Kind()).cost_left += own.cost_left
        places = (number for number, own in enumerate(self._counts) if own.is_open)
        self._place = next(places, len(self._counts))

    def _fill(self, units: float) -> dict[str, float]:
        """Return kind → what the units cost that were taken in."""
        costs: dict[str, float] = {}
        while self._place < len(self._counts) and units > 0:
            own = self._counts[self._place]
            self._latest = own.part
            taken = min(units, own.part.units - own.done)
            before = own.cost_done
            own.done += taken
            units -= taken
            cost, noun = own.cost_done - before, own.part.noun
            costs[noun] = costs.get(noun, 0.0) + cost
            self._done += cost
            self._kinds[noun].cost_left -= cost
            if not own.is_open:
                self._add_up()  # the next open part, and no rounding is carried along
        return costs

    def _learn(self, costs: dict[str, float], seconds: float) -> None:
        """Share the seconds among the kinds of units that they were spent on."""
        whole = sum(costs.values())
        for noun, cost in costs.items():
            kind = self._kinds[noun]
            kind.seconds += seconds * cost / whole if whole else 0.0
            kind.cost += cost

    def _tell(self) -> None:
        total = self._done + sum(kind.cost_left for kind in self._kinds.values())
        self._progress(
            Standing(
                done=round(self._done),
                total=round(total),
                message=self._describe(),
                remaining_seconds=self._predict(total),
            )
        )

    def _describe(self) -> str:
        """Return how far the first open part is; without one, the last that was worked on."""
        if self._place < len(self._counts):
            own = self._counts[self._place]
            return own.part.describe(own.done)
        return self._latest.describe(self._latest.units) if self._latest.units else ""

    def _predict(self, total: float) -> float | None:
        """Return the seconds left: each kind at its own pace, as far as that is known."""
        kinds = self._kinds.values()
        cost = sum(kind.cost for kind in kinds)
        if not cost:
            return None
        usual = sum(kind.seconds for kind in kinds) / cost
        trusted = TRUSTED_SHARE * total
        return sum(
            kind.cost_left * (kind.seconds + trusted * usual) / (kind.cost + trusted)
            for kind in kinds
        )


def ignore(units: float) -> None:
    """Listen to nothing: the callback of callers that do not care how far work came."""


def pass_over(standing: Standing) -> None:
    """Listen to nothing that a counter says."""
