"""What became of a model's abilities, at the terminal: a sentence, and the worst of each area."""

from __future__ import annotations

import math

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.commands.output import clean

_NAMED = 3
"""Lost abilities that the sentence names."""


class Ability(BaseModel):
    """One ability of a report: what the model could do, and what it can now."""

    area: str
    sentence: str
    nats_change: float
    accuracy_before: float
    accuracy_after: float
    max_nats_rise: float | None
    max_accuracy_fall: float | None
    is_gated: bool
    within: bool

    @property
    def use(self) -> float:
        """The share of its limits used up, by the figure nearer to one; 0 where nothing fell."""
        fall = self.accuracy_before - self.accuracy_after
        return max(
            _share(self.nats_change, self.max_nats_rise), _share(fall, self.max_accuracy_fall)
        )

    @property
    def place(self) -> tuple[bool, bool, float]:
        """Sort key: what is lost first, then the nearest to its limit, what is not gated last."""
        return self.within, not self.is_gated, -self.use

    @property
    def right(self) -> str:
        """Which share of items is right, before and after."""
        return f"{100 * self.accuracy_before:.0f} % → {100 * self.accuracy_after:.0f} %"


def print_abilities(abilities: list[Ability], console: Console) -> None:
    """Print the sentence and the table, where abilities were measured."""
    if not abilities:
        return
    console.print()
    console.print(_build_table(abilities))
    console.print(Text(clean(describe_abilities(abilities))))
    unable = [ability.sentence for ability in abilities if not ability.is_gated]
    if unable:
        console.print(Text(clean(f"Not gated, as the base can hardly do it: {', '.join(unable)}.")))


def describe_abilities(abilities: list[Ability]) -> str:
    """Return one sentence: what is lost, or which ability is nearest to its limit."""
    gated = sorted((one for one in abilities if one.is_gated), key=lambda one: one.place)
    lost = [one for one in gated if not one.within]
    if not gated:
        return "The base model can do none of what was asked, so there was nothing to lose."
    if lost:
        named = ", ".join(_tell(one) for one in lost[:_NAMED])
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        return f"Lost: {named}{more}."
    kept = f"All {len(gated)} abilities are within their limits"
    if gated[0].use <= 0:
        return f"{kept}, and none is worse than before."
    return f"{kept}; the nearest to its limit is {_tell(gated[0])}."


def _build_table(abilities: list[Ability]) -> Table:
    """An area a row, with the ability that is lost or nearest to its limit."""
    areas: dict[str, list[Ability]] = {}
    for one in abilities:
        areas.setdefault(one.area, []).append(one)
    table = Table(
        "", "within limits", "nearest to its limit", "right", "nats a token", "",
        title="Abilities", title_justify="left",
    )  # fmt: skip
    for area, members in areas.items():
        _add_area(table, area, members)
    return table


def _add_area(table: Table, area: str, members: list[Ability]) -> None:
    gated = [one for one in members if one.is_gated]
    if not gated:
        table.add_row(clean(area), "not gated", "", "", "", "")
        return
    worst = min(gated, key=lambda one: one.place)
    within = sum(one.within for one in gated)
    outcome = Text("ok", style="green") if worst.within else Text("LOST", style="bold red")
    figures = worst.right, f"{worst.nats_change:+.2f}", outcome
    table.add_row(clean(area), f"{within} of {len(gated)}", clean(worst.sentence), *figures)


def _tell(ability: Ability) -> str:
    return f"“{ability.sentence}” ({ability.right} right, {ability.nats_change:+.2f} nats a token)"


def _share(rise: float, limit: float | None) -> float:
    if limit is None or rise <= 0:
        return 0.0
    return rise / limit if limit > 0 else math.inf
