"""How far long-running work has got, and how long it will still take.

A stage lists its work in parts, in the order in which they are done. The cost of a unit is counted
in tokens that pass through the model, so that responses, texts and rows add up; how long a token
takes is measured during the work, for each kind of unit. A listener may raise to stop the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from excise.estimates.cost import GENERATION_SHARE, PASS_SHARE

Advance = Callable[[float], None]
"""Called with the number of units of work just finished, which may be a fraction; may raise to
stop."""

FORWARD = 1.0
"""Cost of a token in a forward pass: the unit of all costs."""

BACKWARD = 2.0
"""Cost of a token in a backward pass, which takes twice as many products."""

GENERATED = PASS_SHARE / GENERATION_SHARE
"""Cost of a generated token: the machine does fewer products a second while it generates."""

TRUSTED_SHARE = 0.02
"""Once this share of all work was of one kind, the pace of that kind counts as much as the pace of
all kinds together. Chosen by hand; not measured."""

LEAST_UNIT = 1e-6
"""A part with fewer units left counts as done, because fractions of units do not add up exactly."""


@dataclass(frozen=True)
class Standing:
    """How far a stage has got."""

    done: int
    """Work done, in tokens that pass through the model."""
    total: int
    """Work done and still to do; it may grow or shrink as more becomes known."""
    message: str = ""
    """The same in plain units: `trial 2 of at most 8: 30 of 52 responses`."""
    remaining_seconds: float | None = None
    """Seconds until the stage ends, at the pace so far; None while nothing is done."""


Progress = Callable[[Standing], None]
"""Called whenever a stage has got further; may raise to stop."""


@dataclass(frozen=True)
class Part:
    """Units of work of one kind, done one after another."""

    noun: str
    """What the units are, in the plural; units with the same name are expected to take the same
    time for the same cost."""
    costs: Sequence[float]
    """Cost of each unit, in the order in which they are done."""
    step: str = ""
    """The step they belong to, as shown to users; empty if the stage has only one."""

    @property
    def units(self) -> int:
        """Number of units."""
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
        """Return a text for users: how many units are done."""
        before = f"{self.step}: " if self.step else ""
        return f"{before}{int(units + LEAST_UNIT)} of {self.units} {self.noun}"


def count_alike(noun: str, units: int, cost: float = FORWARD, step: str = "") -> Part:
    """Return a part whose units all cost the same."""
    return Part(noun, (cost,) * units, step)


def read_texts(
    noun: str, lengths: Iterable[int], *, passes: float = FORWARD, step: str = ""
) -> Part:
    """Return the part for texts that are read whole, longest first, as batches are built.

    `lengths` are their numbers of tokens, `passes` is the cost of each token.
    """
    return Part(noun, tuple(passes * own for own in sorted(lengths, reverse=True)), step)


def answer_prompts(
    lengths: Iterable[int], new_tokens: int, samples: int = 1, *, step: str = ""
) -> Part:
    """Return the part for responses to prompts of these lengths, shortest prompt first."""
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
    """What is known about all units with the same name."""

    cost_left: float = 0.0
    seconds: float = 0.0
    """Seconds that the units took whose time was measured."""
    cost: float = 0.0
    """Cost of these units."""


class Counter:
    """Adds up finished units of work, part by part, and reports what is left.

    It is an `Advance`: finished units are counted towards the parts in their order; units beyond
    the last part are ignored.
    """

    def __init__(
        self,
        progress: Progress,
        parts: Iterable[Part],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Report at once how much work there is. `clock` returns seconds."""
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
        """Count `units` more as done."""
        now = self._clock()
        costs = self._fill(units)
        if costs:
            self._learn(costs, now - self._last)
            self._last = now
        self._tell()

    def skip(self, units: float) -> None:
        """Count `units` as done before or elsewhere: they say nothing about the pace."""
        self._fill(units)
        self._last = self._clock()
        self._tell()

    def begin(self, step: str) -> None:
        """Continue with the first open part of a step; all parts before it count as done.

        Nothing happens if the step has no open part.
        """
        for number, own in enumerate(self._counts):
            if own.part.step == step and own.is_open:
                self._close(number)
                return

    def expect(self, part: Part) -> None:
        """Replace the open part of the same step and kind by `part`; without one, do it next."""
        for own in self._counts:
            if own.is_open and (own.part.step, own.part.noun) == (part.step, part.noun):
                own.part = part
                break
        else:
            self._counts.insert(self._place, _Count(part))
        self._settle()

    def finish(self) -> None:
        """Count everything as done."""
        self._close(len(self._counts))

    def _close(self, place: int) -> None:
        """Count all parts before a place as done."""
        for own in self._counts[:place]:
            own.done = float(own.part.units)
        self._settle()

    def _settle(self) -> None:
        """Add up what is done and left, find the first open part, and report both."""
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
        """Count `units` towards the open parts; return kind → their cost."""
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
        """Divide the seconds among the kinds of units that they were spent on, by their costs."""
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
        """Describe the first open part or, if none is open, the last one that was worked on."""
        if self._place < len(self._counts):
            own = self._counts[self._place]
            return own.part.describe(own.done)
        return self._latest.describe(self._latest.units) if self._latest.units else ""

    def _predict(self, total: float) -> float | None:
        """Return the seconds left, with each kind at its own pace as far as that is known."""
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
    """Do nothing: the callback for callers that do not follow the work."""


def pass_over(standing: Standing) -> None:
    """Do nothing: the `Progress` for callers that do not follow the work."""
