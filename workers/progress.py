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

    def finish(self) -> None:
        self.done = float(self.part.units)


@dataclass
class _Pace:
    """How long units of one kind took."""

    seconds: float = 0.0
    cost: float = 0.0


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
        self._paces: dict[str, _Pace] = {}
        self._clock = clock
        self._last = clock()
        self._tell()

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
        numbers = (
            number
            for number, own in enumerate(self._counts)
            if own.part.step == step and own.is_open
        )
        first = next(numbers, None)
        if first is not None:
            self._close(self._counts[:first])

    def expect(self, part: Part) -> None:
        """Put `part` in the place of the open one of its step and kind; without one, do it next."""
        for own in self._counts:
            if own.is_open and (own.part.step, own.part.noun) == (part.step, part.noun):
                own.part = part
                break
        else:
            self._counts.insert(self._find_open(), _Count(part))
        self._tell()

    def finish(self) -> None:
        """Say that no more is to be done."""
        self._close(self._counts)

    def _close(self, counts: Sequence[_Count]) -> None:
        for own in counts:
            own.finish()
        self._tell()

    def _find_open(self) -> int:
        """Return the place of the first open part, or that behind the last."""
        places = (number for number, own in enumerate(self._counts) if own.is_open)
        return next(places, len(self._counts))

    def _fill(self, units: float) -> dict[str, float]:
        """Return kind → what the units cost that were taken in."""
        costs: dict[str, float] = {}
        for own in self._counts[self._find_open() :]:
            taken = min(units, own.part.units - own.done)
            if taken <= 0:
                continue
            before = own.cost_done
            own.done += taken
            costs[own.part.noun] = costs.get(own.part.noun, 0.0) + own.cost_done - before
            units -= taken
        return costs

    def _learn(self, costs: dict[str, float], seconds: float) -> None:
        """Share the seconds among the kinds of units that they were spent on."""
        whole = sum(costs.values())
        for noun, cost in costs.items():
            pace = self._paces.setdefault(noun, _Pace())
            pace.seconds += seconds * cost / whole if whole else 0.0
            pace.cost += cost

    def _tell(self) -> None:
        done = sum(own.cost_done for own in self._counts)
        total = done + sum(own.cost_left for own in self._counts)
        place = self._find_open()
        self._progress(
            Standing(
                done=round(done),
                total=round(total),
                message=self._describe(place),
                remaining_seconds=self._predict(total),
            )
        )

    def _describe(self, place: int) -> str:
        """Return how far the part at a place is; behind the last one, that one."""
        if place < len(self._counts):
            own = self._counts[place]
            return own.part.describe(own.done)
        last = next((own.part for own in reversed(self._counts) if own.part.units), None)
        return "" if last is None else last.describe(last.units)

    def _predict(self, total: float) -> float | None:
        """Return the seconds left: each kind at its own pace, as far as that is known."""
        cost = sum(pace.cost for pace in self._paces.values())
        if not cost:
            return None
        usual = sum(pace.seconds for pace in self._paces.values()) / cost
        trusted = TRUSTED_SHARE * total
        left = 0.0
        for own in self._counts:
            if own.is_open:
                pace = self._paces.get(own.part.noun, _Pace())
                own_pace = (pace.seconds + trusted * usual) / (pace.cost + trusted)
                left += own.cost_left * own_pace
        return left


def ignore(units: float) -> None:
    """Listen to nothing: the callback of callers that do not care how far work came."""


def pass_over(standing: Standing) -> None:
    """Listen to nothing that a counter says."""
