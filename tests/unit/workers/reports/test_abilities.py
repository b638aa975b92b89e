"""Abilities as a reader sees them: what is lost first, the rest by how near to its limit it is."""

from __future__ import annotations

import math

import pytest

from excise.reports.abilities import AbilityChange
from tests.unit.workers.reports.reports import HOSTILE, ability, report, step
from workers.abilities.catalogue import SLICES
from workers.reports.abilities import (
    OPEN_ROWS,
    build_abilities,
    compute_use,
    describe_abilities,
    sort_by_use,
)
from workers.reports.correction import render_html, render_markdown

COUNTING = ability("count_on", 0.9, 0.87, area="structure")
COPYING = ability("copy_lists", 0.6, 0.6)
UNABLE = ability("sing", 0.05, 0.0)
LOST = ability("repeat_tokens", 0.6, 0.02, nats_change=3.4)
HEADING = "What else the model can still do"


def many(count: int) -> list[AbilityChange]:
    return [ability(f"ability_{number}", 0.9, 0.9 - number / 1000) for number in range(count)]


@pytest.mark.parametrize(
    ("changes", "use"),
    [
        ({"nats_change": 0.05}, 0.5),
        ({"nats_change": -0.05, "accuracy_after": 0.58}, 0.4),
        ({"nats_change": 0.05, "max_nats_rise": None}, 0.0),
        ({"nats_change": 0.01, "max_nats_rise": 0.0}, math.inf),
        ({"nats_change": 0.0, "max_nats_rise": 0.0}, 0.0),
    ],
)
def test_use_is_the_share_of_the_nearer_limit(changes: dict[str, float], use: float) -> None:
    assert compute_use(COPYING.model_copy(update=changes)) == pytest.approx(use)


def test_lost_ones_come_first_and_what_was_never_there_last() -> None:
    near_in_nats = ability("near_in_nats", 0.9, 0.9, nats_change=0.09)
    order = sort_by_use([UNABLE, COPYING, COUNTING, near_in_nats, LOST])
    assert order == [LOST, near_in_nats, COUNTING, COPYING, UNABLE]


def test_the_sentence_names_the_nearest_by_the_figure_that_is_near() -> None:
    kept = describe_abilities([COPYING, COUNTING, UNABLE])
    assert kept.startswith("All 2 abilities are within their limits; the nearest")
    assert "“count on” (90\u00a0% → 87\u00a0% right)" in kept
    by_nats = describe_abilities([COPYING.model_copy(update={"nats_change": 0.09})])
    assert "“copy lists” (+0.09 nats a token, 60\u00a0% → 60\u00a0% right)" in by_nats


def test_the_sentence_names_what_is_lost_and_counts_the_rest() -> None:
    lost = [LOST.model_copy(update={"name": str(n), "sentence": f"do {n}"}) for n in range(5)]
    text = describe_abilities([COUNTING, *lost, UNABLE])
    assert text.startswith("Lost: “do 0” (")
    assert "and 2 more. 1 of 6 abilities are within their limits." in text
    assert "do 3" not in text


def test_without_a_fall_or_without_an_ability_nothing_is_nearest() -> None:
    better = COPYING.model_copy(update={"nats_change": -0.1})
    assert describe_abilities([better]).endswith("none is worse than before.")
    assert "nothing to lose" in describe_abilities([UNABLE])


def test_rows_beyond_a_dozen_are_folded_but_none_that_is_lost() -> None:
    view = build_abilities(many(OPEN_ROWS + 3))
    assert view is not None
    assert (len(view.open_rows), len(view.folded_rows)) == (OPEN_ROWS, 3)
    assert view.folded_rows[-1].sentence == "ability 9"  # of equals the order of the report
    lost = [LOST.model_copy(update={"name": str(n)}) for n in range(OPEN_ROWS + 2)]
    view = build_abilities([*many(5), *lost])
    assert view is not None
    assert {row.state for row in view.open_rows} == {"lost"}
    assert len(view.folded_rows) == 5


def test_every_ability_is_drawn_once_in_halves_of_about_one_height() -> None:
    changes = [
        ability(kind.name, 0.5, 0.5, area=kind.area.value, sentence=kind.sentence)
        for kind in SLICES
    ]
    view = build_abilities(changes)
    assert view is not None
    drawn = [row.sentence for areas in view.panels for area in areas for row in area.rows]
    assert sorted(drawn) == sorted(kind.sentence for kind in SLICES)
    left, right = (sum(len(area.rows) for area in areas) for areas in view.panels)
    assert abs(left - right) <= 6


def test_what_the_base_could_not_do_is_said_and_has_no_limit() -> None:
    view = build_abilities([COUNTING, UNABLE])
    assert view is not None
    assert view.unable.endswith("under 10\u00a0% there: sing.")
    row = view.open_rows[-1]
    assert (row.state, row.limit, row.limit_at) == ("ungated", "not gated", None)


def test_page_and_markdown_show_lost_ones_unfolded() -> None:
    whole = report(abilities=[*many(20), LOST])
    page, text = render_html(whole), render_markdown(whole)
    for rendered in (page, text):
        assert HEADING in rendered
        assert rendered.index("Repeat tokens") < rendered.index("The other 9")
    assert 'class="now lost"' in page
    assert page.count('<tr class="kept">') == 20
    assert page.index(HEADING) < page.index("<h2>Effect")


def test_without_abilities_there_is_no_section() -> None:
    assert HEADING not in render_html(report())
    assert HEADING not in render_markdown(report())


def test_names_from_elsewhere_are_escaped() -> None:
    hostile = COUNTING.model_copy(update={"sentence": HOSTILE, "area": HOSTILE})
    whole = report(abilities=[hostile], search=[step(5, 0.5, 0.01, bound_by=HOSTILE, chosen=True)])
    page, text = render_html(whole), render_markdown(whole)
    assert "<script" not in page
    assert "\x1b" not in page + text
    assert "\\<script\\>" in text
    assert "<script>" not in text.replace("\\<", "").split("## Before and after")[0]


def test_the_search_says_which_limit_bound_each_trial() -> None:
    steps = [
        step(5, 0.5, 0.01, bound_by="count_on", use=0.83, chosen=True),
        step(9, 0.6, 0.02, bound_by="count_on", use=1.4, within_budget=False),
        step(99, 0.7, 0.5, bound_by="kl", use=19.0, within_budget=False),
        step(12, 0.6, 0.02, bound_by="count_on", use=1.2, within_budget=False),
    ]
    whole = report(search=steps, abilities=[COUNTING])
    for page in (render_html(whole), render_markdown(whole)):
        rendered = page.replace("\u00a0", " ").replace("\\", "")
        assert "“count on” most, 83 % of what the search allows." in rendered
        assert "3 trials, 2 of them first by “count on”" in rendered
        assert "1,900 %" in rendered
