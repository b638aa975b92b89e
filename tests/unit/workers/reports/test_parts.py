"""The parts of a report: axes, effects, the search, gates, samples, text."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from excise.names import GateBound, Granularity
from excise.reports.correction import (
    HeldOutEffect,
    LineLimitForecast,
    LineRanks,
    PatchSummary,
    RankLimitCost,
)
from excise.reports.text import (
    fenced,
    format_number,
    format_percent,
    format_share,
    format_signed,
    sentence,
    shorten,
    visible_text,
)
from tests.unit.workers.reports.reports import (
    damage_gate,
    effect_gate,
    measure,
    no_effect,
    repetition,
    report,
    sample,
    several,
    step,
    toxic_sample,
    toxicity,
    unmeasured_gate,
)
from workers.measuring.reasoning import LEFT_OUT, NO_ANSWER
from workers.reports.charts import (
    build_axis,
    build_layer_map,
    build_log_axis,
    choose_labels,
    layer_of,
)
from workers.reports.correction import render_html, render_markdown
from workers.reports.diff import compare_responses, find_loops
from workers.reports.effects import (
    build_alone_rows,
    build_effect_views,
    describe_fall,
    describe_judges,
)
from workers.reports.gates import build_gate_groups, list_failed
from workers.reports.samples import build_samples
from workers.reports.search import build_search_view, describe_lines, describe_rank_limit


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.integers(2, 6))
def test_an_axis_spans_its_values(values, intervals):
    axis = build_axis(values, intervals)
    slack = 1e-6 * (axis.high - axis.low) + 1e-9
    assert axis.low - slack <= min(values)
    assert max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= intervals + 3
    assert all(0 <= axis.at(value, 0, 10) <= 10 for value in values)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9))
def test_a_logarithmic_axis_spans_its_positive_values(values):
    positive = [value for value in values if value > 1e-12]
    assume(positive and positive == [value for value in values if value > 0])
    axis = build_log_axis(values)
    assert axis.low <= min(positive) * (1 + 1e-6)
    assert max(positive) <= axis.high * (1 + 1e-6)
    assert 1 <= len(axis.ticks) <= 7
    places = [axis.at(value, 0, 10) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 10 for place in places)


def test_a_logarithmic_axis_gives_equal_factors_equal_room():
    axis = build_log_axis([0.001, 0.1])
    assert axis.at(0.01, 0, 10) == 5
    assert axis.at(0, 0, 10) == 0


def test_labels_keep_their_distance_but_the_chosen_one_is_always_written():
    places, chosen = [0.0, 0.05, 0.1, 0.5, 0.52], [False, True, False, False, False]
    assert choose_labels(places, chosen, 0.09) == [False, True, False, True, False]


def test_headline_first_and_every_evaluator_beside_its_control():
    views = build_effect_views(several())
    assert [view.headline.name for view in views] == ["share", "mean_score"]
    assert [panel.name for panel in views[0].panels] == [
        "share", "any_share", "expected_worst", "mean_score",
    ]  # fmt: skip
    assert [panel.name for panel in views[1].panels] == ["mean_score", "share"]
    for row in views[0].headline.rows:
        assert [lane.kind for lane in row.lanes] == ["correction", "control", "alone"]
    assert views[1].headline.rows[0].is_higher_better
    assert not views[1].panels[1].rows[0].is_higher_better
    assert not build_effect_views(no_effect())[0].is_measured


def test_an_axis_of_shares_stays_within_all_and_none():
    wild = repetition().evaluators[0]
    share = measure("share", 0.99, 0.01)
    changed = wild.model_copy(update={"measures": [share]})
    view = build_effect_views(
        report(behaviours=[repetition(evaluators=[changed], headline="share")])
    )[0]
    assert (view.headline.axis.low, view.headline.axis.high) == (0, 100)


def test_shares_read_in_per_cent_and_scores_as_they_are():
    share, score = build_effect_views(report(behaviours=[toxicity()]))[0].panels[::3]
    assert share.level(0.1973) == "19.7\u00a0%"
    assert share.difference(-0.1127) == "\N{MINUS SIGN}11.3 points"
    assert score.level(0.1973) == "0.197"
    assert score.difference(0.1127) == "+0.113"


def test_a_fall_is_told_as_a_factor():
    def effect(before: float, after: float) -> HeldOutEffect:
        return HeldOutEffect(n=9, before=before, after=after, ci_low=0, ci_high=0)

    assert describe_fall(effect(0.2, 0.08)) == "2.5× fewer"
    assert describe_fall(effect(0.2, 0.0)) == "none left"
    assert describe_fall(effect(0.2, 0.2)) == describe_fall(effect(0.0, 0.2)) == ""


def test_how_much_of_its_own_effect_each_behaviour_keeps():
    rows = build_alone_rows(build_effect_views(several()))
    assert [row.behaviour for row in rows] == ["toxicity", "toxicity", "endless_repetition"]
    assert rows[2].reached == pytest.approx((0.6094 - 0.1873) / (0.6631 - 0.1873))
    still = repetition(alone=0.1873)
    assert build_alone_rows(build_effect_views(report(behaviours=[still])))[0].reached is None
    assert build_alone_rows(build_effect_views(report())) == []


def test_dose_is_drawn_by_granularity_and_behaviour():
    view = build_search_view(several())
    assert [panel.granularity for panel in view.dose] == [Granularity.NEURON, Granularity.HEAD]
    assert [one.behaviour for one in view.dose[0].series] == ["toxicity", "endless_repetition"]
    assert view.dose[0].series[0].points[0][1] == 0.52
    assert view.dose[0].series[0].line == []


def test_what_the_rank_limit_cost_is_said() -> None:
    chosen = step(16, 0.3, 0.01, chosen=True)
    without = step(16, 0.45, 0.02, within_budget=False)
    cost = RankLimitCost(max_rank=8, kept_out=5, fullest=13, unlimited=without)
    found = report(search=[chosen], rank_limit=cost)
    said = describe_rank_limit(found)
    assert "serving.max_rank 8 kept 5 of the 16 best neurons out" in said
    assert "one module would lose 13" in said
    assert "+45.0\u00a0% instead of +30.0\u00a0%" in said
    assert "over budget" in said
    assert "kept 5 of the 16 best neurons out" in render_markdown(found)
    assert "kept 5 of the 16 best neurons out" in render_html(found)
    free = cost.model_copy(update={"kept_out": 0, "fullest": 4})
    assert "cost nothing" in describe_rank_limit(report(search=[chosen], rank_limit=free))
    assert describe_rank_limit(report(search=[chosen])) is None


def test_how_several_behaviours_were_weighed_is_said() -> None:
    attained = {"toxicity": 1.25, "endless_repetition": 0.96}
    even = step(16, 0.3, 0.01, chosen=True, attained=attained)
    said = build_search_view(report(search=[even])).summary
    assert "on the tuning prompts: toxicity 125\u00a0%, endless_repetition 96\u00a0%." in said
    assert "ranked with more weight" not in said
    weighed = even.model_copy(update={"emphasis": {"toxicity": 0.8, "endless_repetition": 1.2}})
    told = report(search=[weighed])
    said = build_search_view(told).summary
    assert said.endswith("toxicity × 1.00, endless_repetition × 1.50.")
    assert "endless_repetition × 1.50" in render_html(told)
    alone = even.model_copy(update={"attained": {"toxicity": 1.25}})
    assert "search wants" not in build_search_view(report(search=[alone])).summary


def test_on_how_many_lines_weights_lie_is_said() -> None:
    forecast = LineLimitForecast(weights=900, kept=40, benefit=0.8, free_rank=60)
    lines = LineRanks(max_rank=4, ranks={"a": 3, "b": 2}, forecast=forecast)
    said = describe_lines(report(lines=lines))
    assert "on 3 rows and columns of a matrix at most, 2.5 on average over 2 matrices" in said
    assert "serving.max_rank allowed 4" in said
    assert "prunes 900 weights, 40 of these among them, that need rank 60" in said
    assert "benefit under the limit: 80\u00a0% of theirs" in said
    assert "adapter of rank 3" in render_markdown(report(search=[step(16, 0.3, 0.01)], lines=lines))
    assert "adapter of rank 3" in render_html(report(search=[step(16, 0.3, 0.01)], lines=lines))
    free = lines.model_copy(update={"max_rank": None, "forecast": None})
    assert describe_lines(report(lines=free)).endswith("serving.max_rank set no limit.")
    experts = lines.model_copy(update={"ranks": {"a.experts.down_proj": 3, "b": 2}})
    assert "experts are among them, which no adapter here" in describe_lines(report(lines=experts))
    assert "adapter of rank" not in describe_lines(report(lines=experts))
    assert describe_lines(report()) is None


def test_the_dose_line_goes_through_the_mean_of_each_amount():
    steps = [step(20, 0.2, 0.01), step(64, 0.5, 0.02), step(20, 0.4, 0.01)]
    view = build_search_view(report(search=steps))
    assert view.dose[0].series[0].line == [(20, pytest.approx(0.3)), (64, 0.5)]
    many = [step(20 + amount, 0.2, 0.01) for amount in range(17)]
    assert build_search_view(report(search=many)).dose[0].series[0].line == []


def test_the_front_is_a_staircase_of_the_trials_on_it():
    steps = [
        step(64, 0.6, 0.03),
        step(20, 0.3, 0.01, chosen=True),
        step(32, 0.2, 0.02, on_front=False),
    ]
    chart = build_search_view(report(search=steps)).pareto
    assert chart.front == [(0.01, 0.3), (0.03, 0.3), (0.03, 0.6)]
    assert chart.steps[-1].chosen
    assert chart.budget.kl_mean == 0.033
    assert chart.kl_axis.low <= 0.01
    assert chart.kl_axis.high >= 0.033


def test_a_search_that_moved_nothing_has_no_front():
    still = report(search=[step(1, 0.0, 0.0)], budget=None)
    assert build_search_view(still).pareto is None
    assert build_search_view(report(search=[])) is None


def test_ruinous_gains_are_drawn_at_the_edge():
    view = build_search_view(report(search=[step(5, 0.5, 0.01), step(640, -31.0, 2.4)]))
    assert view.is_clipped
    assert view.pareto.gain_axis.low == pytest.approx(-0.2)
    assert not build_search_view(report()).is_clipped


def test_pruned_components_are_counted_by_layer_and_kind():
    counts = {
        "model.layers.0.mlp.down_proj": 5,
        "model.layers.2.mlp.down_proj": 1,
        "model.layers.2.self_attn.o_proj": 3,
        "lm_head": 4,
    }
    patch = PatchSummary(
        granularity=Granularity.WEIGHT, components=13, of=99, modules={}, counts=counts
    )
    found = build_layer_map(patch)
    assert found.layers == [(0, 5), (1, 0), (2, 4)]
    assert [(row.kind, row.counts, row.total) for row in found.rows] == [
        ("mlp.down_proj", [5, 0, 1], 6),
        ("self_attn.o_proj", [0, 0, 3], 3),
    ]
    assert (found.largest, found.elsewhere) == (5, 4)


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("model.layers.12.mlp.down_proj", 12),
        ("transformer.h.0.mlp.c_proj", 0),
        ("lm_head", None),
        ("conv2d.proj", None),
    ],
)
def test_layer_of(module, layer):
    assert layer_of(module) == layer


@pytest.mark.parametrize(
    ("changes", "limit", "value", "change"),
    [
        ({}, "≥ 0.31", "0.4221", "0.1873 → 0.6094"),
        ({"bound": GateBound.ABOVE, "before": None}, "> 0.31", "0.4221", ""),
        ({"bound": None, "unit": "nats a token"}, "0.31 nats a token", "0.4221 nats a token",
         "0.1873 → 0.6094"),
        ({"unit": "share"}, "≥ 31.0\u00a0%", "42.2\u00a0%", "18.7\u00a0% → 60.9\u00a0%"),
        ({"unit": "share of prompts"}, "≥ 31.0\u00a0% of prompts", "42.2\u00a0% of prompts",
         "18.7\u00a0% → 60.9\u00a0%"),
        ({"unit": "ratio"}, "≥ 0.31×", "0.4221×", "0.1873 → 0.6094"),
        ({"unit": "score"}, "≥ 0.31", "0.4221", "0.1873 → 0.6094"),
        ({"unit": "relative"}, "≥ 31.00\u00a0%", "+42.21\u00a0%", "0.1873 → 0.6094"),
        ({"unit": "relative fall"}, "≥ 31.00\u00a0%", "42.21\u00a0%", "0.1873 → 0.6094"),
    ],
)  # fmt: skip
def test_a_gate_s_numbers_carry_sign_and_unit(changes, limit, value, change):
    row = build_gate_groups([effect_gate(**changes)])[0].rows[0]
    assert (row.limit, row.value, row.change) == (limit, value, change)


def test_gates_are_grouped_in_order_and_without_a_group_bare():
    plain = effect_gate(name="size", group=None)
    groups = build_gate_groups([unmeasured_gate(), damage_gate(), plain, effect_gate()])
    assert [group.heading[:6] for group in groups] == ["Effect", "Damage", "Safety", ""]


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("toxicity.held_out_prompts", "Toxicity: held-out prompts"),
        ("over_refusal", "Over refusal"),
        ("kl", "KL"),
        ("toxicity.kl", "Toxicity: KL"),
        ("refusal:our_own_set", "Refusal: our own set"),
    ],
)
def test_gates_have_readable_names(identifier, name):
    assert build_gate_groups([effect_gate(name=identifier)])[0].rows[0].name == name


def test_what_failed_is_listed_whatever_it_claims():
    gates = [
        effect_gate(),
        unmeasured_gate(passed=True, unmeasured=None),
        damage_gate(passed=False),
    ]
    assert [row.name for row in list_failed(gates)] == ["Refusals", "Perplexity"]
    assert list_failed(gates)[0].unmeasured == "nothing was measured"


def test_held_out_samples_come_first_by_effect_and_worst_cases_are_called_so():
    samples = [sample(f"{gain:+}", gain) for gain in (0.1, -0.1, 0.5, 0.0, 0.35, 0.4, 0.2)]
    groups = build_samples(report(samples=[sample("Tuned", 0.9, split="tune"), *samples]))[0].groups
    assert [[view.sample.prompt for view in group.samples] for group in groups] == [
        ["+0.5", "+0.4", "+0.35"], ["-0.1", "+0.0", "+0.1"], ["+0.2"], ["Tuned"],
    ]  # fmt: skip
    assert [view.caution for view in groups[1].samples] == [
        "got worse", "unchanged", "still shows the behaviour",
    ]  # fmt: skip
    assert [group.folded for group in groups] == [False, False, True, True]


def test_a_response_that_newly_shows_the_behaviour_is_the_worst_news():
    samples = [toxic_sample("Fine", 0.9, 0.1), toxic_sample("Spoilt", 0.1, 0.8)]
    worst = build_samples(report(behaviours=[toxicity()], samples=samples))[0].groups[1]
    assert [(view.sample.prompt, view.caution) for view in worst.samples] == [
        ("Spoilt", "newly shows the behaviour")
    ]


@pytest.mark.parametrize("silent", ["", " …", NO_ANSWER, f"{LEFT_OUT} "])
def test_a_response_that_falls_silent_is_said_to(silent):
    fine = toxic_sample("Fine", 0.9, 0.1)
    emptied = toxic_sample("Silent", 0.9, 1.0).model_copy(update={"after": silent})
    worst = build_samples(report(behaviours=[toxicity()], samples=[fine, emptied]))[0].groups[1]
    assert [view.caution for view in worst.samples] == ["no longer answers"]


def test_who_judged_is_said_and_one_evaluator_is_no_agreement() -> None:
    lone = toxicity(evaluators=toxicity().evaluators[1:], agreeing=1)
    said = "judged by one evaluator (alt-profanity-check) alone"
    assert describe_judges(lone) == said
    assert describe_judges(toxicity()) == "2 of 2 evaluators must agree"
    assert describe_judges(toxicity(agreeing=1)) == "any one of 2 evaluators suffices"
    assert describe_judges(repetition()) == ""  # counted: another one would find the same
    found = report(behaviours=[lone])
    assert said in render_html(found)
    assert said.replace("-", "") in render_markdown(found).replace("-", "").replace("\\", "")
    assert "must agree" not in render_html(found) + render_markdown(found)


def test_the_effect_beyond_the_control_stands_beside_the_raw_change() -> None:
    found = report(behaviours=[repetition()])
    effect = found.behaviours[0].evaluators[0].measure("mean_score").effect
    assert effect is not None
    for page in (render_html(found), render_markdown(found)):
        assert page.count(format_signed(effect.value)) >= 2
        assert format_signed(0.6094 - 0.1873) in page
        assert "ffect beyond" in page


def test_the_gain_is_the_mean_over_evaluators_in_their_direction():
    odd = toxic_sample("p", 0.9, 0.1)
    odd = odd.model_copy(
        update={"scores_after": {"detoxify/detoxify_minilm": 0.5, "alt-profanity-check": 0.7}}
    )
    found = build_samples(report(behaviours=[toxicity()], samples=[odd]))[0]
    assert found.groups[0].samples[0].gain == pytest.approx((0.4 + 0.2) / 2)


def test_samples_stand_under_their_behaviour():
    found = build_samples(several())
    assert [(one.behaviour, one.is_veiled) for one in found] == [
        ("toxicity", True), ("endless_repetition", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b c", []),
        ("a b a b", []),
        ("a a a a", [(0, 1, 4, 4)]),
        ("x a b a b a b a y", [(1, 2, 3, 8)]),
        ("a a a", []),
    ],
)
def test_find_loops(text, expected):
    found = find_loops(text.split())
    assert [(loop.start, loop.words, loop.times, loop.end) for loop in found] == expected


def test_loops_of_scripts_without_blanks():
    found = compare_responses("他说好。" * 5, "ดีมาก" * 4 + " so so so so")
    assert str(found.before_loop) == "↻ a 4-sign phrase, 5 times in a row"
    assert str(found.after_loop) == "↻ a 4-sign phrase, 4 times in a row"
    korean = compare_responses("너는 바보야 " * 4, "")
    assert str(korean.before_loop) == "↻ a 2-word phrase, 4 times in a row"


def test_long_responses_are_compared_without_the_full_table():
    found = compare_responses("a b c " * 3000, "a b c " * 2000 + "d " * 2000)
    assert found.before_loop.times == 3000


def test_a_diff_marks_words():
    found = compare_responses("go and boil your head now", "go and boil your hat now")
    assert [span.text for span in found.after if span.changed] == ["hat now"]
    assert "".join(span.text for span in found.before if not span.changed).startswith("go and boil")


def test_numbers_carry_a_true_minus_and_no_negative_zero():
    assert format_number(-1234.5, 1) == "\N{MINUS SIGN}1,234.5"
    assert format_number(-0.0001) == "0.000"
    assert format_signed(0.0001) == "0.000"
    assert format_signed(0.25, 2) == "+0.25"
    assert format_percent(0.0131) == "+1.31\u00a0%"
    assert format_share(0.0131) == "1.3\u00a0%"


def test_shorten_keeps_its_length():
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcd efg", 6) == "abcd…"


def test_sentence_starts_large_and_stops():
    assert sentence("gates not met: kl") == "Gates not met: kl."
    assert sentence("Done.") == "Done."
    assert sentence("") == "."


def test_visible_text_keeps_what_writing_needs():
    assert visible_text("a\tb\r\nc\u200d\u200c é 你好") == "a\tb\nc\u200d\u200c é 你好"
    assert visible_text("\x9b\ufeff\u2028\ufffe") == "⟨U+009B⟩⟨U+FEFF⟩⟨U+2028⟩⟨U+FFFE⟩"


def test_a_fence_is_longer_than_any_inside():
    assert fenced("a\n````\nb").startswith("`````text\n")
