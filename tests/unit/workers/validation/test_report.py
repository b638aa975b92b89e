"""The rendered report: deterministic, complete, safe against model text, partial when it must."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from workers.domain import (
    BehaviourEffect,
    Damage,
    DivergenceDamage,
    GateResult,
    Granularity,
    HeldOutEffect,
    ModelIdentity,
    PatchSummary,
    PerplexityDamage,
    RandomControl,
    Report,
    Sample,
    SearchStep,
    SplitEffect,
    Verdict,
)
from workers.validation.report import (
    NonFiniteReportError,
    render_html,
    render_json,
    render_markdown,
)
from workers.validation.report_charts import build_axis, layer_of
from workers.validation.report_samples import find_loops
from workers.validation.report_text import (
    fenced,
    format_number,
    format_percent,
    format_signed,
    sentence,
    visible_text,
)

LOOP = "Sure. " + "The sea is wide and deep. " * 9
HOSTILE = "<script>alert(1)</script> ``` | `x` \x1b[31m\x00 \u202eabc \ud800 </style></details>"


def sample(prompt: str, gain: float, **changes: object) -> Sample:
    content: dict[str, object] = {
        "prompt": prompt,
        "split": "held_out",
        "before": LOOP,
        "after": "Sure. Waves arrive in grey and leave in silver.",
        "metric_before": 0.2,
        "metric_after": 0.2 + gain,
    }
    return Sample.model_validate(content | changes)


def behaviour(**changes: object) -> BehaviourEffect:
    whole = BehaviourEffect(
        name="endless_repetition",
        metric="response_uniqueness",
        direction="higher_is_better",
        threshold=0.55,
        prompts=311,
        triggering=107,
        tune=SplitEffect(n=61, before=0.2031, after=0.6612),
        held_out=HeldOutEffect(n=46, before=0.1873, after=0.6094, ci_low=0.3615, ci_high=0.4836),
        random_control=RandomControl(
            before=0.1873, after=0.1957, ci_low=-0.0148, ci_high=0.0319, draws=7
        ),
    )
    return whole.model_copy(update=changes)


def report(**changes: object) -> Report:
    whole = Report(
        verdict=Verdict.PASSED,
        reason="Every gate was met on 46 held-out prompts.",
        behaviours=[behaviour()],
        damage=Damage(
            perplexity=PerplexityDamage(
                corpus="wikitext-2-test", context=512, tokens=20440, before=26.96, after=27.3131
            ),
            kl=DivergenceDamage(mean=0.01713, p95=0.07124, tokens=20441),
        ),
        patch=PatchSummary(
            granularity=Granularity.NEURON,
            components=5,
            of=46080,
            modules={
                "model.layers.3.mlp.down_proj": [17, 901],
                "model.layers.12.mlp.down_proj": [4, 1333, 1501],
            },
            counts={"model.layers.3.mlp.down_proj": 2, "model.layers.12.mlp.down_proj": 3},
        ),
        search=[
            SearchStep(
                components=5,
                tune_metric=0.6612,
                perplexity=27.3131,
                perplexity_increase=0.0137,
                kl=0.0171,
                within_budget=True,
                chosen=True,
            ),
            SearchStep(
                components=640,
                tune_metric=0.3127,
                perplexity=533.25,
                perplexity_increase=18.7852,
                kl=2.4183,
                within_budget=False,
                chosen=False,
            ),
        ],
        gates=[
            GateResult(
                name="held_out_effect",
                sentence="The metric rises by at least this.",
                limit=0.31,
                value=0.4221,
                passed=True,
            ),
            GateResult(
                name="mean_kl",
                sentence="KL stays at or below this.",
                limit=0.033,
                value=0.01713,
                passed=True,
            ),
        ],
        samples=[sample("Best prompt", 0.7), sample("Tuned prompt", 0.3, split="tune")],
        attribution={"attributor": "attnlrp", "score": "benefit_over_cost"},
        timings={"attribution": 98765.4321},
        seed=1234577,
        versions={"torch": "2.10.0+cpu", "transformers": "5.1.0"},
        model=ModelIdentity(id="SmolLM2-135M-Instruct", sha256="9f2b" * 16),
    )
    return whole.model_copy(update=changes)


def no_effect() -> Report:
    measured = behaviour(
        triggering=3,
        tune=SplitEffect(n=3, before=0.41, after=0.41),
        held_out=None,
        random_control=None,
    )
    return report(
        verdict=Verdict.NO_EFFECT,
        reason="The base model shows the behaviour on 3 of 311 prompts.",
        behaviours=[measured],
        damage=None,
        patch=None,
        search=[],
        gates=[],
        samples=[],
        attribution={},
    )


def rejected() -> Report:
    unmeasured = GateResult(
        name="random_control",
        sentence="Random neurons do less.",
        limit=0.05,
        value=None,
        passed=False,
    )
    return report(
        verdict=Verdict.REJECTED,
        reason="1 of 3 gates was not met.",
        behaviours=[behaviour(random_control=None)],
        gates=[*report().gates, unmeasured],
    )


class Page(HTMLParser):
    """The tags, attributes and text of a page; fails where tags do not nest."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.style = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.style += data
        else:
            self.text += data


def markdown_tables(source: str) -> list[list[int]]:
    """Cells of each row of each table, split at unescaped pipes."""
    tables: list[list[int]] = []
    fence, inside = "", False
    for line in source.splitlines():
        opening = re.match(r"`{3,}", line)
        if opening and (not fence or line == fence):
            fence = "" if fence else opening[0]
        if fence or not line.startswith("|"):
            inside = False
            continue
        if not inside:
            tables.append([])
        inside = True
        tables[-1].append(len(re.split(r"(?<!\\)\|", line)) - 2)
    assert not fence
    return tables


PARTIALS = [report, no_effect, rejected]


@pytest.mark.parametrize("build", PARTIALS)
def test_same_report_gives_same_bytes(build):
    for render in (render_json, render_markdown, render_html):
        assert render(build()) == render(Report.model_validate_json(render_json(build())))


def test_timings_do_not_reach_a_page():
    slower = report(timings={"attribution": 1.0, "search": 2.0})
    assert render_html(report()) == render_html(slower)
    assert render_markdown(report()) == render_markdown(slower)


def test_json_is_sorted_indented_and_round_trips():
    content = render_json(report())
    assert content.endswith(b"}\n")
    assert list(json.loads(content)) == sorted(json.loads(content))
    assert b'\n  "attribution": {\n    "attributor"' in content
    assert Report.model_validate_json(content) == report()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("render", [render_json, render_markdown, render_html])
def test_a_non_finite_figure_is_refused_by_name(render, value):
    broken = report(behaviours=[behaviour(tune=SplitEffect(n=1, before=value, after=0.0))])
    with pytest.raises(NonFiniteReportError, match=r"behaviours\[0\]\.tune\.before"):
        render(broken)


FIGURES = [
    "Passed", "Every gate was met", "Endless repetition", "Response uniqueness (RUR)",
    "0.55", "311", "107", "61", "0.203", "0.661", "+0.458",
    "46", "0.187", "0.609", "+0.422", "+0.361", "+0.484",
    "7 draws", "0.196", "+0.008", "\N{MINUS SIGN}0.015", "+0.032",
    "wikitext-2-test", "512", "20,440", "26.96", "27.31", "+1.31",
    "0.0171", "0.0712", "20,441", "46,080", "0.011",
    "model.layers.3.mlp.down_proj", "17, 901", "4, 1333, 1501",
    "640", "0.313", "533.25", "+1.37", "+1,878.52", "2.4183", "chosen", "out",
    "Held-out effect", "rises by at least this", "0.31", "0.4221", "Mean KL", "0.033", "0.01713",
    "Best prompt", "Tuned prompt", "0.200", "0.900", "+0.700", "0.500",
    "attnlrp", "benefit_over_cost", "1234577", "2.10.0+cpu", "5.1.0",
    "SmolLM2-135M-Instruct", "9f2b" * 16,
    "excise patch apply --base", "excise patch revert",
]  # fmt: skip


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_of_the_report_appears(figure):
    assert figure in Page(render_html(report())).text
    rendered = MarkdownIt("commonmark").enable("table").render(render_markdown(report()))
    assert figure in html.unescape(re.sub(r"<[^>]+>", "", rendered))


@pytest.mark.parametrize("build", PARTIALS)
def test_the_verdict_comes_first(build):
    text = Page(render_html(build())).text
    assert text.index(build().reason) < text.index("Perplexity")
    first, _, second = render_markdown(build()).splitlines()[:3]
    assert first.startswith(("# ✅ Passed", "# ❌ Rejected", "# ⚪ No effect"))
    assert second == f"**{build().reason}**"


@pytest.mark.parametrize("build", PARTIALS)
def test_the_page_stands_alone_and_runs_nothing(build):
    source = render_html(build())
    page = Page(source)
    assert not {"script", "link", "img", "iframe", "object", "form"} & {t for t, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not {"src", "href", "action"} & set(attributes)
    assert "url(" not in page.style
    assert "@import" not in page.style
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_no_effect_says_what_was_not_measured():
    for text in (Page(render_html(no_effect())).text, render_markdown(no_effect())):
        assert "No effect" in text
        assert "not measured" in text
        assert "no patch: the model is as it was" in text
        assert "No gate was evaluated" in text
        assert "excise patch" not in text
        assert "Before and after" not in text
        assert "None" not in text


def test_an_unmeasured_gate_is_a_failed_one():
    lying = rejected().model_copy(
        update={"gates": [rejected().gates[-1].model_copy(update={"passed": True})]}
    )
    for build in (rejected(), lying):
        row = next(x for x in render_markdown(build).splitlines() if "**Random control**" in x)
        assert row.endswith("| 0.05 | not measured | ❌ fail |")
    page = render_html(rejected())
    assert "2 of 3 limits met" in page
    assert page.count('<tr class="fail">') == 1
    assert "do not ship" in page


@pytest.mark.parametrize("build", PARTIALS)
def test_markdown_tables_are_well_formed(build):
    tables = markdown_tables(render_markdown(build()))
    assert tables
    assert all(len(set(rows)) == 1 and len(rows) >= 3 for rows in tables)
    rendered = MarkdownIt("commonmark").enable("table").render(render_markdown(build()))
    assert rendered.count("<table>") == len(tables)


def hostile(text: str) -> Report:
    return report(
        reason=text,
        behaviours=[behaviour(name=text, metric=text)],
        gates=[GateResult(name=text, sentence=text, limit=1.0, value=None, passed=False)],
        samples=[
            sample(text, 0.1, before=text, after=text * 2),
            sample(text, 0.2, split="tune", after=text),
        ],
        patch=PatchSummary(
            granularity=Granularity.NEURON,
            components=1,
            of=2,
            modules={text: [0]},
            counts={text: 1},
        ),
        attribution={text: text},
        versions={text: text},
        model=ModelIdentity(id=text, sha256=text),
    )


def assert_harmless(text: str) -> None:
    source, lines = render_html(hostile(text)), render_markdown(hostile(text))
    plain = report()
    assert {tag for tag, _ in Page(source).tags} <= {t for t, _ in Page(render_html(plain)).tags}
    for rendered in (source, lines):
        rendered.encode("utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rendered)
    assert all(len(set(rows)) == 1 for rows in markdown_tables(lines))
    tokens = MarkdownIt("commonmark").enable("table").parse(lines)
    ours = {"<details>", "</details>", "<summary>", "</summary>"}
    for token in tokens:
        for child in [token, *(token.children or [])]:
            if child.type in {"html_block", "html_inline"}:
                assert set(re.findall(r"<[^>]*>", child.content)) <= ours
            assert child.type not in {"link_open", "image"}


def test_hostile_text_is_shown_and_does_nothing():
    assert_harmless(HOSTILE)
    text = Page(render_html(hostile(HOSTILE))).text
    assert "<script>alert(1)</script>" in text
    assert "⟨U+001B⟩[31m⟨U+0000⟩" in text
    assert "⟨U+202E⟩abc ⟨U+D800⟩" in text
    assert Report.model_validate(json.loads(render_json(hostile(HOSTILE)))) == hostile(HOSTILE)


@settings(max_examples=60, deadline=None)
@given(
    st.text(
        alphabet=st.one_of(st.sampled_from("<>&\"'`|\\*_[]()#\n\r\t ~$!{}%-"), st.characters()),
        max_size=60,
    )
)
def test_no_text_breaks_out_of_a_page(text):
    assert_harmless(text)


def test_responses_keep_every_visible_character():
    page = render_html(report(samples=[sample("p", 0.1, before=LOOP, after="  a\n\n\tb  ")]))
    shown = re.findall(r'aria-label="Response [a-z]+">(.*?)</div>', page, re.DOTALL)
    assert [html.unescape(re.sub(r"<[^>]+>", "", side)) for side in shown] == [LOOP, "  a\n\n\tb  "]


def test_changes_are_marked_and_loops_named():
    page = render_html(report())
    assert "<ins>Waves arrive in grey and leave in silver.</ins>" in page
    assert "↻ a 6-word phrase, 9 times in a row" in page
    assert page.count('class="turn first"') == 3  # the legend and the two samples
    lines = render_markdown(report()).splitlines()
    assert lines.count("- The sea is wide and deep.") == 18
    assert "+ Waves arrive in grey and leave in silver." in lines


def test_held_out_samples_come_first_by_effect_and_worst_cases_are_called_so():
    samples = [sample(f"Prompt {g:+}", g) for g in (0.1, -0.1, 0.5, 0.0, 0.3, 0.4, 0.2)]
    for text in (
        Page(render_html(report(samples=[sample("Tuned", 0.9, split="tune"), *samples]))).text,
        render_markdown(report(samples=[sample("Tuned", 0.9, split="tune"), *samples])),
    ):
        order = re.findall(r"Prompt [+-]0\.\d|Tuned", text)
        assert [name.removeprefix("Prompt ") for name in order] == [
            "+0.5", "+0.4", "+0.3", "-0.1", "+0.0", "+0.1", "+0.2", "Tuned",
        ]  # fmt: skip
        for caution in ("got worse", "unchanged", "smallest gain"):
            assert f"Worst case: {caution}" in text


def test_lower_is_better_reverses_the_gain():
    toxic = behaviour(metric="toxicity", direction="lower_is_better")
    samples = [sample("Worse", 0.5), sample("Better", -0.1)]
    text = Page(render_html(report(behaviours=[toxic], samples=samples))).text
    assert text.index("Better") < text.index("Worse")
    assert "Toxicity, lower is better" in text


def test_ruinous_amounts_do_not_hide_the_useful_ones():
    page = render_html(report())
    assert "↑ +1,879&nbsp;%" in page
    assert "under an arrow where off the scale" in page
    none_allowed = [s.model_copy(update={"within_budget": False}) for s in report().search]
    assert "↑" not in render_html(report(search=none_allowed))


def test_without_a_patch_only_the_base_responses_are_shown():
    shown = [sample("Mild", 0.0, metric_before=0.4), sample("Severe", 0.0, metric_before=0.1)]
    nothing = no_effect().model_copy(update={"samples": shown, "search": report().search[1:]})
    for text in (Page(render_html(nothing)).text, render_markdown(nothing)):
        assert "What the base model answers" in text
        assert text.index("Severe") < text.index("Mild")
        assert "↻ a 6-word phrase, 9 times in a row" in text
        assert "Waves arrive" not in text
        assert "Worst case" not in text


def test_several_behaviours_and_none():
    page = render_html(report(behaviours=[behaviour(), behaviour(name="toxicity")]))
    assert "Effect on toxicity" in page
    assert len(re.findall('id="effect-[12]"', page)) == 2
    Page(render_html(report(behaviours=[], samples=[])))
    assert render_markdown(report(behaviours=[])).startswith("# ✅ Passed: correction in")


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


def test_modules_without_a_layer_are_counted_apart():
    odd = report().patch.model_copy(
        update={"modules": {"lm_head": [1, 2]}, "counts": {"lm_head": 2}}
    )
    assert "2 in modules without a layer number" in render_html(report(patch=odd))


def test_pruned_weights_are_counted_not_listed():
    weights = PatchSummary(
        granularity=Granularity.WEIGHT,
        components=70007,
        of=10**8,
        modules={},
        counts={"model.layers.10.mlp.up_proj": 7, "model.layers.9.mlp.up_proj": 70000},
    )
    source, lines = render_html(report(patch=weights)), render_markdown(report(patch=weights))
    assert "Pruned weights by layer" in source
    assert "Every pruned" not in source
    assert "in 2 modules" in source
    rows = [line for line in lines.splitlines() if "up_proj" in line]
    assert rows == [
        "| `model.layers.9.mlp.up_proj` | 70000 | not listed |",
        "| `model.layers.10.mlp.up_proj` | 7 | not listed |",
    ]


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


def test_long_responses_are_compared_in_reasonable_time():
    long = [sample("p", 0.1, before="a b c " * 3000, after="a b c " * 2000 + "d " * 2000)]
    assert "a 3-word phrase, 3000 times in a row" in render_html(report(samples=long))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.integers(2, 6))
def test_an_axis_spans_its_values(values, intervals):
    axis = build_axis(values, intervals)
    slack = 1e-6 * (axis.high - axis.low) + 1e-9
    assert axis.low - slack <= min(values)
    assert max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= intervals + 3
    assert all(0 <= axis.at(value, 0, 10) <= 10 for value in values)


def test_numbers_carry_a_true_minus_and_no_negative_zero():
    assert format_number(-1234.5, 1) == "\N{MINUS SIGN}1,234.5"
    assert format_number(-0.0001) == "0.000"
    assert format_signed(0.0001) == "0.000"
    assert format_signed(0.25, 2) == "+0.25"
    assert format_percent(0.0131) == "+1.31\u00a0%"


def test_sentence_starts_large_and_stops():
    assert sentence("gates not met: kl") == "Gates not met: kl."
    assert sentence("Done.") == "Done."
    assert sentence("") == "."


def test_visible_text_keeps_what_writing_needs():
    assert visible_text("a\tb\r\nc\u200d\u200c é 你好") == "a\tb\nc\u200d\u200c é 你好"
    assert visible_text("\x9b\ufeff\u2028\ufffe") == "⟨U+009B⟩⟨U+FEFF⟩⟨U+2028⟩⟨U+FFFE⟩"


def test_a_fence_is_longer_than_any_inside():
    assert fenced("a\n````\nb").startswith("`````text\n")
