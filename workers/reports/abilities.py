"""The abilities section of a report: a sentence, a chart and a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from excise.reports.abilities import AbilityChange
from excise.reports.text import format_number, format_share, format_signed
from workers.gates.abilities import LEAST_ACCURACY
from workers.reports.charts import Axis

OPEN_ROWS = 12
"""Rows of the table that are not folded; lost abilities are never folded. Chosen by hand."""

NAMED = 3
"""Largest number of lost abilities that the headline names. Chosen by hand."""
_HEADING = 1.3
"""Height of an area's heading in the chart, in rows."""
_AXIS = Axis(0, 100, [0, 50, 100], 0)
_NO_LIMIT = "none"


@dataclass(frozen=True)
class AbilityRow:
    """One ability in the form in which it is shown; accuracies to draw are in per cent."""

    sentence: str
    items: int
    right: str
    """`before → after`."""
    points: str
    """Change of the share right in percentage points, with its 95 % interval."""
    points_interval: str
    nats: str
    nats_interval: str
    control: str
    """Change by a random selection, in points and nats; empty if it was not measured."""
    limit: str
    """Limits of the changes in points and nats."""
    state: str
    """`within`, `lost` or `ungated`."""
    drawn: str
    """The figure beside the chart: the one that is nearest to its limit."""
    before: float
    after: float
    limit_at: float | None
    """The lowest accuracy allowed; None if it is not limited."""
    control_at: float | None


@dataclass(frozen=True)
class AbilityArea:
    """The abilities of one area, in the report's order."""

    heading: str
    rows: list[AbilityRow]


@dataclass(frozen=True)
class AbilitiesView:
    """Everything a report shows of abilities."""

    headline: str
    has_lost: bool
    panels: list[list[AbilityArea]]
    """The two halves of the chart; the second is left out if there is little to show."""
    axis: Axis
    open_rows: list[AbilityRow]
    """The rows that are not folded: lost abilities first, then those nearest to their limits."""
    folded_rows: list[AbilityRow]
    unable: str
    """A sentence on what the base could not do; empty if it could do everything."""
    has_control: bool


def build_abilities(changes: Sequence[AbilityChange]) -> AbilitiesView | None:
    """Return what a report shows of abilities; None if none was measured."""
    if not changes:
        return None
    ordered = sort_by_use(changes)
    split = max(OPEN_ROWS, sum(not change.within for change in changes))
    rows = [_build_row(change) for change in ordered]
    return AbilitiesView(
        headline=describe_abilities(changes),
        has_lost=any(not change.within for change in changes),
        panels=_split_areas(_group(changes)),
        axis=_AXIS,
        open_rows=rows[:split],
        folded_rows=rows[split:],
        unable=_describe_unable(changes),
        has_control=any(change.control_accuracy_change is not None for change in changes),
    )


def compute_use(change: AbilityChange) -> float:
    """Return the share of its limit that a change uses up, for the figure that uses more of it.

    It is 0 if nothing fell or nothing is limited, above 1 if a limit is exceeded, and infinity if
    a limit of 0 is exceeded.
    """
    return max(
        _share(change.nats_change, change.max_nats_rise),
        _share(change.accuracy_before - change.accuracy_after, change.max_accuracy_fall),
    )


def sort_by_use(changes: Sequence[AbilityChange]) -> list[AbilityChange]:
    """Return the changes sorted: lost ones, then the nearest to their limits, then unable ones.

    Unable ones are slices of which the base itself is not able. The sort is stable.
    """

    def place(change: AbilityChange) -> tuple[bool, bool, float]:
        return change.within, not change.is_gated, -compute_use(change)

    return sorted(changes, key=place)


def describe_abilities(changes: Sequence[AbilityChange]) -> str:
    """Return one sentence: what is lost, or how near to its limit the nearest ability is."""
    gated = [change for change in sort_by_use(changes) if change.is_gated]
    lost = [change for change in gated if not change.within]
    if not gated:
        return "The base model can do none of what was asked, so there was nothing to lose."
    if lost:
        named = ", ".join(_tell(change) for change in lost[:NAMED])
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        rest = f"{len(gated) - len(lost)} of {len(gated)} abilities are within their limits."
        return f"Lost: {named}{more}. {rest}"
    kept = f"All {len(gated)} abilities are within their limits"
    if compute_use(gated[0]) <= 0:
        return f"{kept}, and none is worse than before."
    return f"{kept}; the nearest to its limit is {_tell(gated[0])}."


def _describe_unable(changes: Sequence[AbilityChange]) -> str:
    unable = [change.sentence for change in changes if not change.is_gated]
    if not unable:
        return ""
    least = format_share(LEAST_ACCURACY, 0)
    return f"Not gated, as the base itself is right on under {least} there: {', '.join(unable)}."


def name_bounds(changes: Sequence[AbilityChange]) -> dict[str, str]:
    """Return slice → what the model does there, to explain a trial's limit to readers."""
    return {change.name: change.sentence for change in changes}


def _tell(change: AbilityChange) -> str:
    """Return an ability as text, with the figure that is nearest to its limit."""
    figure = f"{_right(change)} right"
    if _is_bound_by_nats(change):
        figure = f"{_nats(change.nats_change)} nats a token, {figure}"
    return f"“{change.sentence}” ({figure})"


def _share(rise: float, limit: float | None) -> float:
    if limit is None or rise <= 0:
        return 0.0
    return rise / limit if limit > 0 else math.inf


def _is_bound_by_nats(change: AbilityChange) -> bool:
    fall = change.accuracy_before - change.accuracy_after
    nats = _share(change.nats_change, change.max_nats_rise)
    return nats > _share(fall, change.max_accuracy_fall)


def _build_row(change: AbilityChange) -> AbilityRow:
    state = "ungated" if not change.is_gated else "within" if change.within else "lost"
    fall, control = change.max_accuracy_fall, change.control_accuracy_change
    is_nats = state == "lost" and _is_bound_by_nats(change)
    return AbilityRow(
        sentence=change.sentence,
        items=change.items,
        right=_right(change),
        points=_points(change.accuracy_after - change.accuracy_before),
        points_interval=_interval(change.accuracy_interval, _points),
        nats=_nats(change.nats_change),
        nats_interval=_interval(change.nats_interval, _nats),
        control=_describe_control(change),
        limit=_describe_limit(change),
        state=state,
        drawn=f"{_nats(change.nats_change)} nats" if is_nats else _right(change),
        before=100 * change.accuracy_before,
        after=100 * change.accuracy_after,
        limit_at=None
        if fall is None or not change.is_gated
        else 100 * (change.accuracy_before - fall),
        control_at=None if control is None else 100 * (change.accuracy_before + control),
    )


def _group(changes: Sequence[AbilityChange]) -> list[AbilityArea]:
    areas: dict[str, list[AbilityRow]] = {}
    for change in changes:
        areas.setdefault(change.area, []).append(_build_row(change))
    return [AbilityArea(heading, rows) for heading, rows in areas.items()]


def _split_areas(areas: list[AbilityArea]) -> list[list[AbilityArea]]:
    """Return the areas, in order, split into two halves of about the same height."""
    heights = [len(area.rows) + _HEADING for area in areas]
    total = sum(heights)
    cut = min(
        range(1, len(areas) + 1),
        key=lambda end: abs(2 * sum(heights[:end]) - total),
    )
    return [half for half in (areas[:cut], areas[cut:]) if half]


def _right(change: AbilityChange) -> str:
    return f"{format_share(change.accuracy_before, 0)} → {format_share(change.accuracy_after, 0)}"


def _nats(value: float) -> str:
    return format_signed(value, 2)


def _points(value: float) -> str:
    return format_signed(100 * value, 0)


def _interval(interval: tuple[float, float], write: Callable[[float], str]) -> str:
    return f"{write(interval[0])} to {write(interval[1])}"


def _describe_control(change: AbilityChange) -> str:
    if change.control_accuracy_change is None or change.control_nats_change is None:
        return ""
    return f"{_points(change.control_accuracy_change)}, {_nats(change.control_nats_change)}"


def _describe_limit(change: AbilityChange) -> str:
    if not change.is_gated:
        return "not gated"
    fall, rise = change.max_accuracy_fall, change.max_nats_rise
    points = _NO_LIMIT if fall is None else format_number(-100 * fall, 0)
    return f"{points}, {_NO_LIMIT if rise is None else format_signed(rise, 2)}"
