"""The search section of a report: charts of gain against amount and of gain against cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from excise.names import Granularity
from excise.reports.correction import BudgetLimits, CorrectionReport, SearchStep
from excise.reports.text import format_number, format_percent, format_share
from workers.reports.abilities import name_bounds
from workers.reports.charts import Axis, build_axis, build_log_axis, choose_labels
from workers.reports.gates import name_gate

DRAWN_GAINS = (-0.2, 1.0)
"""Range of gains on the charts; gains outside are drawn at the edge. Chosen by hand."""
_MOST_JOINED = 16
"""Largest number of amounts whose mean gains are joined by a line; with more, the line would be
mostly noise. Chosen by hand."""
_CHARACTER = 0.02
"""Approximate width of a label's character, as a share of the axis."""
_MOST_OPEN = 24
"""Largest number of trials shown in a table; more are only in report.json. Chosen by hand."""


@dataclass(frozen=True)
class DoseSeries:
    """The gains of one behaviour at all amounts of one granularity."""

    behaviour: str
    number: int
    points: list[tuple[SearchStep, float]]
    """Each trial with its gain."""
    line: list[tuple[int, float]]
    """(amount, mean gain), by ascending amount; empty if no line is drawn."""


@dataclass(frozen=True)
class DosePanel:
    """Dose–response chart of one granularity."""

    granularity: Granularity
    series: list[DoseSeries]
    amount_axis: Axis
    labels: list[int]
    """Amounts that are written below the axis."""
    gain_axis: Axis


@dataclass(frozen=True)
class ParetoChart:
    """Mean gain against KL divergence, one point per trial."""

    steps: list[SearchStep]
    """The trials; the chosen one is last, so that it is drawn on top."""
    front: list[tuple[float, float]]
    """Corners (KL, gain) of the Pareto front's staircase, by ascending KL."""
    kl_axis: Axis
    gain_axis: Axis
    budget: BudgetLimits | None
    granularities: list[Granularity]


@dataclass(frozen=True)
class SearchView:
    """Everything a report shows of a search."""

    dose: list[DosePanel]
    pareto: ParetoChart | None
    """None if no trial changed the model at all."""
    steps: list[SearchStep]
    behaviours: list[str]
    has_chosen: bool
    is_clipped: bool
    """Whether any gain lies outside the range drawn."""
    is_long: bool
    abilities: dict[str, str]
    """Protected slice → what the model does there."""
    summary: str
    """Which limit bound the chosen trial, and which most others; with several behaviours, how they
    were weighed. Empty if no trial was chosen."""

    def name_bound(self, step: SearchStep) -> str:
        """Return the limit of which a trial used the largest share, in words for readers."""
        return _name_bound(step, self.abilities)


def build_search_view(report: CorrectionReport) -> SearchView | None:
    """Return the search's charts and trials; None if there was no search."""
    steps = report.search
    if not steps:
        return None
    listed = [behaviour.name for behaviour in report.behaviours]
    gained = {name for step in steps for name in step.gains}
    names = [name for name in listed if name in gained] + sorted(gained.difference(listed))
    least, most = DRAWN_GAINS
    gains = [gain for step in steps for gain in (*step.gains.values(), step.gain)]
    axis = build_axis([0.0, *(min(most, max(least, gain)) for gain in gains)], intervals=6)
    granularities = list(dict.fromkeys(step.granularity for step in steps))
    return SearchView(
        dose=[
            _build_dose([step for step in steps if step.granularity is kind], kind, names, axis)
            for kind in granularities
        ],
        pareto=_build_pareto(steps, report.budget, granularities, axis),
        steps=steps,
        behaviours=names,
        has_chosen=any(step.chosen for step in steps),
        is_clipped=any(not least <= gain <= most for gain in gains),
        is_long=len(steps) > _MOST_OPEN,
        abilities=(abilities := name_bounds(report.abilities)),
        summary=" ".join(
            filter(None, (_describe_bound(steps, abilities), _describe_emphasis(steps)))
        ),
    )


def _name_bound(step: SearchStep, abilities: Mapping[str, str]) -> str:
    return abilities.get(step.bound_by) or name_gate(step.bound_by)


def _describe_bound(steps: Sequence[SearchStep], abilities: Mapping[str, str]) -> str:
    """Return which limit the chosen trial used most, and which one stopped most others."""
    chosen = next((step for step in steps if step.chosen), None)
    if chosen is None:
        return ""
    told = (
        f"Of its limits the chosen trial used “{_name_bound(chosen, abilities)}” most, "
        f"{format_share(chosen.use, 0)} of what the search allows."
    )
    over = Counter(_name_bound(step, abilities) for step in steps if not step.within_budget)
    if not over:
        return told
    name, count = over.most_common(1)[0]
    return f"{told} Over budget: {over.total()} trials, {count} of them first by “{name}”."


def _describe_emphasis(steps: Sequence[SearchStep]) -> str:
    """Return what the chosen trial attained for each of several behaviours, and their emphasis."""
    chosen = next((step for step in steps if step.chosen), None)
    if chosen is None or len(chosen.attained) < 2:
        return ""
    listed = ", ".join(
        f"{name} {format_share(share, 0)}" for name, share in chosen.attained.items()
    )
    told = (
        "Of the effects that the search wants, twice what the gates ask, it attained on the tuning "
        f"prompts: {listed}."
    )
    if len(set(chosen.emphasis.values())) < 2:
        return told
    least = min(chosen.emphasis.values())
    weighed = ", ".join(
        f"{name} × {format_number(own / least, 2)}" for name, own in chosen.emphasis.items()
    )
    return f"{told} It was ranked with more weight on what had attained less: {weighed}."


def describe_rank_limit(report: CorrectionReport) -> str | None:
    """Return what the limit on pruned neurons per module cost; None if there is no limit."""
    cost = report.rank_limit
    chosen = next((step for step in report.search if step.chosen), None)
    if cost is None or chosen is None:
        return None
    step = cost.unlimited
    if cost.kept_out == 0:
        return (
            f"serving.max_rank {cost.max_rank} cost nothing: the chosen trial takes at most "
            f"{cost.fullest} from one module anyway."
        )
    gain, before = (format_percent(one.gain, 1) for one in (step, chosen))
    increase = format_percent(step.perplexity_increase)
    budget = "within" if step.within_budget else "over"
    return (
        f"serving.max_rank {cost.max_rank} kept {cost.kept_out} of the {step.components} best "
        f"{step.granularity.value}s out; without it one module would lose {cost.fullest}. The "
        f"chosen trial's settings and ranking without the limit, measured once on the tuning "
        f"prompts: mean gain {gain} instead of {before}, perplexity {increase}, "
        f"KL {format_number(step.kl, 4)}, {budget} budget. The search did not go on from there."
    )


def describe_lines(report: CorrectionReport) -> str | None:
    """On how many lines pruned weights lie, and what the limit on them costs by prediction."""
    lines = report.lines
    if lines is None or not lines.ranks:
        return None
    most, mean = max(lines.ranks.values()), fmean(lines.ranks.values())
    told = (
        f"The pruned weights lie on {most} rows and columns of a matrix at most, {mean:.1f} on "
        f"average over {len(lines.ranks)} matrices: {_describe_adapter(lines.ranks, most)}."
    )
    found = lines.forecast
    if found is None:
        return f"{told} serving.max_rank set no limit."
    return (
        f"{told} serving.max_rank allowed {lines.max_rank}. Without it the same ranking prunes "
        f"{found.weights} weights, {found.kept} of these among them, that need rank "
        f"{found.free_rank}; predicted benefit under the limit: {format_share(found.benefit, 0)} "
        "of theirs."
    )


def _describe_adapter(modules: Iterable[str], rank: int) -> str:
    if any("experts" in module for module in modules):
        return "experts are among them, which no adapter here changes"
    return f"an adapter of rank {rank} holds them"


def _build_dose(
    steps: Sequence[SearchStep], granularity: Granularity, names: Sequence[str], gain_axis: Axis
) -> DosePanel:
    amounts = sorted({step.components for step in steps})
    axis = _build_amount_axis(amounts)
    chosen = {step.components for step in steps if step.chosen}
    places = [axis.at(amount, 0, 1) for amount in amounts]
    gap = _CHARACTER * (len(f"{amounts[-1]:,}") + 1)
    shown = choose_labels(places, [amount in chosen for amount in amounts], gap)
    return DosePanel(
        granularity=granularity,
        series=[_build_series(steps, name, number) for number, name in enumerate(names)],
        amount_axis=axis,
        labels=[amount for amount, is_shown in zip(amounts, shown, strict=True) if is_shown],
        gain_axis=gain_axis,
    )


def _build_amount_axis(amounts: Sequence[int]) -> Axis:
    """Return a logarithmic axis a little wider than the amounts, some of which are its ticks."""
    low, high = max(amounts[0], 1), max(amounts[-1], 1)
    margin = 2.0 if low == high else (high / low) ** 0.05
    return Axis(low / margin, high * margin, [], 0, is_logarithmic=True)


def _build_series(steps: Sequence[SearchStep], name: str, number: int) -> DoseSeries:
    by_amount: defaultdict[int, list[float]] = defaultdict(list)
    for step in steps:
        if name in step.gains:
            by_amount[step.components].append(step.gains[name])
    line = [(amount, fmean(by_amount[amount])) for amount in sorted(by_amount)]
    return DoseSeries(
        behaviour=name,
        number=number,
        points=[(step, step.gains[name]) for step in steps if name in step.gains],
        line=line if 1 < len(line) <= _MOST_JOINED else [],
    )


def _build_pareto(
    steps: Sequence[SearchStep],
    budget: BudgetLimits | None,
    granularities: list[Granularity],
    gain_axis: Axis,
) -> ParetoChart | None:
    costs = [step.kl for step in steps] + ([budget.kl_mean] if budget else [])
    if not any(cost > 0 for cost in costs):
        return None
    return ParetoChart(
        steps=sorted(steps, key=lambda step: step.chosen),
        front=_trace_front([step for step in steps if step.on_front]),
        kl_axis=build_log_axis(costs),
        gain_axis=gain_axis,
        budget=budget,
        granularities=granularities,
    )


def _trace_front(steps: Sequence[SearchStep]) -> list[tuple[float, float]]:
    """Return the best gain at or below each KL divergence, as the corners of a staircase."""
    corners: list[tuple[float, float]] = []
    for step in sorted(steps, key=lambda step: (step.kl, step.gain)):
        if corners:
            corners.append((step.kl, corners[-1][1]))
        corners.append((step.kl, step.gain))
    return corners
