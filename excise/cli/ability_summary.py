"""Summary of abilities at the terminal: a sentence, and the worst ability of each area."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from excise.cli.output import clean
from excise.cli.tables import print_table
from excise.reports.abilities import AbilityChange, AbilityFigures
from excise.resources.serving import AbilitiesView

_NAMED = 3
"""Largest number of lost abilities that the sentence names. Chosen by hand."""
NONE_ABLE = "The base model can do none of what was asked, so there was nothing to lose."


def print_abilities(abilities: list[AbilityChange], console: Console) -> None:
    """Print the sentence and the table, if abilities were measured."""
    if not abilities:
        return
    console.print()
    print_table(_build_table(abilities), console)
    console.print(Text(clean(describe_abilities(abilities))))
    unable = [ability.sentence for ability in abilities if not ability.is_gated]
    if unable:
        console.print(Text(clean(f"Not gated, as the base can hardly do it: {', '.join(unable)}.")))


def describe_abilities(abilities: list[AbilityChange]) -> str:
    """Return one sentence: what is lost, or which ability is nearest to its limit."""
    gated = sorted((one for one in abilities if one.is_gated), key=lambda one: one.place)
    lost = [one for one in gated if not one.within]
    if not gated:
        return NONE_ABLE
    if lost:
        return describe_lost(lost)
    kept = f"All {len(gated)} abilities are within their limits"
    if gated[0].use <= 0:
        return f"{kept}, and none is worse than before."
    return f"{kept}; the nearest to its limit is {_tell(gated[0])}."


def describe_lost(lost: Sequence[AbilityFigures]) -> str:
    """Return one sentence that names the lost abilities, in the given order."""
    named = ", ".join(_tell(one) for one in lost[:_NAMED])
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    return f"Lost: {named}{more}."


def describe_kept(abilities: AbilitiesView | None) -> str:
    """Return one line about a version: how many abilities are kept, and which are lost."""
    if abilities is None:
        return "none on record; the job's report says whether they were measured"
    if not abilities.able:
        return NONE_ABLE
    kept = f"{count_kept(abilities)} within limits"
    return f"{kept}. {describe_lost(abilities.lost)}" if abilities.lost else kept


def count_kept(abilities: AbilitiesView | None) -> str:
    """Return how many abilities a version keeps, for a table's cell."""
    return "-" if abilities is None else f"{abilities.within} of {abilities.able}"


def _build_table(abilities: list[AbilityChange]) -> Table:
    """Return a table with one row per area and its ability that is lost or nearest to its limit."""
    areas: dict[str, list[AbilityChange]] = {}
    for one in abilities:
        areas.setdefault(one.area, []).append(one)
    table = Table(
        "", "within limits", "nearest to its limit", "right", "nats a token", "",
        title="Abilities", title_justify="left",
    )  # fmt: skip
    for area, members in areas.items():
        _add_area(table, area, members)
    return table


def _add_area(table: Table, area: str, members: list[AbilityChange]) -> None:
    gated = [one for one in members if one.is_gated]
    if not gated:
        table.add_row(clean(area), "not gated", "", "", "", "")
        return
    worst = min(gated, key=lambda one: one.place)
    within = sum(one.within for one in gated)
    outcome = Text("ok", style="green") if worst.within else Text("LOST", style="bold red")
    figures = worst.right, f"{worst.nats_change:+.2f}", outcome
    table.add_row(clean(area), f"{within} of {len(gated)}", clean(worst.sentence), *figures)


def _tell(ability: AbilityFigures) -> str:
    return f"“{ability.sentence}” ({ability.right} right, {ability.nats_change:+.2f} nats a token)"
