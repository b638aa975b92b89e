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

from excise.names import GateOutcome, Granularity
from excise.reports.common import ModelIdentity
from excise.reports.correction import CorrectionReport, Leftover, PatchSummary, SplitEffect
from excise.reports.gate_run import GateReport
from excise.reports.token_limits import TokenLimitUse
from tests.unit.workers.reports.reports import (
    HOSTILE,
    LOOP,
    damage_gate,
    effect_gate,
    leftovers,
    no_effect,
    rejected,
    repetition,
    report,
    sample,
    several,
    toxic_sample,
    toxicity,
    unmeasured_gate,
)
from workers.reports.correction import (
    NonFiniteReportError,
    render_html,
    render_json,
    render_markdown,
)
from workers.reports.gate_run import render_gate_markdown


class Page(HTMLParser):
    """The tags, attributes and text of a page; fails where tags do not nest."""

    VOID = frozenset({"meta", "br", "input"})

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


PARTIALS = [report, several, no_effect, rejected]


@pytest.mark.parametrize("build", PARTIALS)
def test_same_report_gives_same_bytes(build):
    for render in (render_json, render_markdown, render_html):
        assert render(build()) == render(CorrectionReport.model_validate_json(render_json(build())))


def test_timings_do_not_reach_a_page():
    slower = report(timings={"attribution": 1.0, "search": 2.0})
    assert render_html(report()) == render_html(slower)
    assert render_markdown(report()) == render_markdown(slower)


def test_json_is_sorted_indented_and_round_trips():
    content = render_json(several())
    assert content.endswith(b"}\n")
    assert list(json.loads(content)) == sorted(json.loads(content))
    assert b'\n  "attribution": {\n    "attributor"' in content
    assert CorrectionReport.model_validate_json(content) == several()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("render", [render_json, render_markdown, render_html])
def test_a_non_finite_figure_is_refused_by_name(render, value):
    found = repetition()
    evaluator = found.evaluators[0]
    tune = SplitEffect(n=1, before=value, after=0.0)
    measures = [evaluator.measures[0].model_copy(update={"tune": tune})]
    broken = found.model_copy(
        update={"evaluators": [evaluator.model_copy(update={"measures": measures})]}
    )
    place = r"behaviours\[0\]\.evaluators\[0\]\.measures\[0\]\.tune\.before"
    with pytest.raises(NonFiniteReportError, match=place):
        render(report(behaviours=[broken]))


FIGURES = [
    "Passed", "Every gate was measured", "Endless repetition", "response uniqueness",
    "0.55", "180", "107", "46", "0.187", "0.609", "+0.422", "+0.307", "+0.538",
    "7 draws", "+0.030", "+0.006", "+0.054", "97.8", "41.1", "\N{MINUS SIGN}56.7", "61", "0.208",
    "wikitext-2-test", "512", "20,440", "26.96", "27.31", "+1.31", "+1.50",
    "0.0171", "0.0712", "20,441", "46,080", "0.011",
    "model.layers.3.mlp.down_proj", "17, 901", "4, 1333, 1501",
    "640 neurons", "+31.3", "75.33", "+179.40", "2.4183", "round 3", "chosen", "over",
    "Endless repetition: effect", "at least this", "≥ 0.31", "0.4221", "0.3615 to 0.4836",
    "0.1873 → 0.6094", "≤ 1.50", "26.96 → 27.31", "40",
    "Best prompt", "Tuned prompt", "0.200", "0.900", "0.500",
    "attnlrp", "benefit_damage", "1234577", "2.10.0+cpu", "5.1.0",
    "SmolLM2-135M-Instruct", "9f2b" * 16,
    "excise reproduce manifest.json", "excise patch apply --base", "excise patch revert",
]  # fmt: skip

OF_SEVERAL = [
    "Effect on toxicity", "Effect on endless repetition", "2 of 2 evaluators must agree",
    "detoxify/detoxify_minilm", "alt-profanity-check", "19.7", "8.5", "2.3× fewer",
    "Probability of at least one", "60.7", "29.6", "Expected worst score", "0.543", "0.288",
    "Mean score", "0.229", "0.121", "17.2", "7.4",
    "Together and alone", "12.5", "93", "89", "+0.476",
    "5 samples a prompt, temperature 0.9", "Greedy, up to 50 tokens",
    "With one response a prompt", "2 heads", "+41.0", "+52.0", "+46.5",
    "Rude prompt", "Stubborn prompt", "0.950", "0.020",
]  # fmt: skip


def plain_markdown(content: CorrectionReport) -> str:
    rendered = MarkdownIt("commonmark").enable("table").render(render_markdown(content))
    return html.unescape(re.sub(r"<[^>]+>", "", rendered))


@pytest.mark.parametrize(
    ("build", "figure"), [(report, f) for f in FIGURES] + [(several, f) for f in OF_SEVERAL]
)
def test_every_figure_of_the_report_appears(build, figure):
    assert figure in Page(render_html(build())).text
    assert figure in plain_markdown(build())


@pytest.mark.parametrize("build", PARTIALS)
def test_the_verdict_comes_first(build):
    text = Page(render_html(build())).text
    reason = build().reason.removesuffix(".")
    said = reason[0].upper() + reason[1:] + "."
    assert text.index(said) < text.index("Perplexity")
    first, _, second = render_markdown(build()).splitlines()[:3]
    assert first.startswith(("# ✅ Passed: ", "# ❌ Rejected: ", "# ⚪ No effect: "))
    assert second == f"**{said}**"


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


@pytest.mark.parametrize("build", PARTIALS)
def test_every_chart_has_a_name_and_a_description_of_its_own(build):
    page = Page(render_html(build()))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    charts = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    for chart in charts:
        named = chart["aria-labelledby"].split()
        assert len(named) == 2
        assert set(named) <= set(ids)
    hidden = [a for tag, a in page.tags if tag == "svg" and "aria-hidden" in a]
    assert len(charts) + len(hidden) == [tag for tag, _ in page.tags].count("svg")


def test_no_effect_says_what_was_not_measured():
    for text in (Page(render_html(no_effect())).text, render_markdown(no_effect())):
        assert "No effect" in text
        assert "not measured" in text
        assert "no patch: the model is as it was" in text
        assert "No gate was evaluated" in text
        assert "excise patch" not in text
        assert "excise reproduce" in text
        assert "Before and after" not in text
        assert "None" not in text


def test_an_unmeasured_gate_is_a_failed_one_and_says_why():
    lying = rejected().model_copy(update={"gates": [unmeasured_gate(passed=True)]})
    for build in (rejected(), lying):
        row = next(x for x in render_markdown(build).splitlines() if x.startswith("| **Refusals**"))
        assert "not measured: the job names no set of harmful instructions | ≤ 5.0" in row
        assert row.endswith("| ❌ fail |")
        text = Page(render_html(build)).text
        assert "Not measured: the job names no set of harmful instructions" in text
    page = render_html(rejected())
    assert "2 of 3 limits met" in page
    assert page.count('<tr class="fail">') == 1
    assert "do not ship" in page


def test_the_reason_lists_every_failed_gate_in_words():
    failed = damage_gate(value=0.0312, passed=False)
    content = rejected().model_copy(update={"gates": [effect_gate(), failed, unmeasured_gate()]})
    text = Page(render_html(content)).text
    verdict = text[: text.index("held-out prompts. Random")]
    assert "grows by at most this share. Measured +3.12\u00a0%, limit ≤ 1.50\u00a0%." in verdict
    assert "Not measured: the job names no set of harmful instructions." in verdict
    assert "Endless repetition: effect" not in verdict
    lines = render_markdown(content).splitlines()
    assert [line[:10] for line in lines if line.startswith("- **")][:2] == [
        "- **Perple", "- **Refusa",
    ]  # fmt: skip


def test_gates_stand_under_what_they_watch():
    gates = [unmeasured_gate(), damage_gate(), effect_gate()]
    for text in (Page(render_html(report(gates=gates))).text, render_markdown(report(gates=gates))):
        order = [text.index(heading) for heading in ("Effect: does", "Damage: does", "Safety: is")]
        assert order == sorted(order)
        assert text.rindex("Endless repetition: effect") < order[1]


def test_notes_of_gates_and_gates_not_asked_for_are_told():
    noted = damage_gate(note="shows nothing: this gate could not have failed")
    content = report(gates=[noted], not_asked=["over_refusal", "zero_shot"])
    for text in (Page(render_html(content)).text, plain_markdown(content)):
        assert "Shows nothing: this gate could not have failed." in text
        assert "Not asked for, and not checked: over refusal, zero shot." in text
    assert "Not asked for" not in render_html(report())


def test_answers_that_were_cut_off_are_counted():
    use = TokenLimitUse(
        subject="<b>ads", max_new_tokens=64, responses=40, before=3, after=12,
        length_before=30.0, length_after=41.25, uniqueness_before=0.9, uniqueness_after=0.8,
    )  # fmt: skip
    content = report(token_limits=[use])
    for text in (Page(render_html(content)).text, plain_markdown(content)):
        assert "<b>ads: 12 of 40 at 64 tokens, 3 of the base's; mean length 41.2," in text
        assert "mean uniqueness 0.800, the base's 0.900" in text
        assert "reached the token limit (max_new_tokens), with the mean length in tokens" in text
    assert "reached the token limit" not in render_html(report())


def test_a_behaviour_that_may_offend_stays_behind_a_click():
    page = render_html(several())
    opened = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    for text in ("Rude prompt", "Stubborn prompt", "nincompoop"):
        assert text in page
        assert text not in opened
    assert "Loop prompt" in opened
    assert "<details open" not in page
    lines = render_markdown(several())
    opened = re.sub(r"<details>.*?</details>", "", lines, flags=re.DOTALL)
    assert "Rude prompt" in lines
    assert "Rude prompt" not in opened
    assert "Loop prompt" in opened


@pytest.mark.parametrize(
    ("kind", "is_open"),
    [("repetition", True), ("phrase", False), ("custom", False), ("something new", False)],
)
def test_only_repetition_is_shown_unasked(kind, is_open):
    content = report(behaviours=[repetition(kind=kind)])
    opened = re.sub(r"<details.*?</details>", "", render_html(content), flags=re.DOTALL)
    assert ("Best prompt" in opened) is is_open


def test_a_sample_of_a_behaviour_that_is_not_listed_is_hidden_too():
    content = report(samples=[toxic_sample("Rude prompt", 0.9, 0.1)])
    page = render_html(content)
    assert "Rude prompt" in page
    assert "Rude prompt" not in re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("build", PARTIALS)
def test_markdown_tables_are_well_formed(build):
    tables = markdown_tables(render_markdown(build()))
    assert tables
    assert all(len(set(rows)) == 1 and len(rows) >= 3 for rows in tables)
    rendered = MarkdownIt("commonmark").enable("table").render(render_markdown(build()))
    assert rendered.count("<table>") == len(tables)


def hostile(text: str) -> CorrectionReport:
    evil = {"prompt": text, "before": text, "after": text * 2}
    scores = {"scores_before": {text: 0.1}, "scores_after": {text: 0.2}}
    effects = toxicity(alone=True).evaluators
    renamed = [effects[0].model_copy(update={"evaluator": text}), effects[1]]
    loose = repetition().model_copy(update={"name": text, "decoding": text})
    return several().model_copy(
        update={
            "reason": text,
            "behaviours": [loose, toxicity(evaluators=renamed, decoding=text, kind=text)],
            "overlap": [several().overlap[0].model_copy(update={"first": text})],
            "search": [
                several().search[0].model_copy(update={"origin": text, "gains": {text: 0.5}})
            ],
            "gates": [
                unmeasured_gate(name=text, sentence=text, unmeasured=text, unit=text, note=text),
                effect_gate(name=f"a.{text}", unit=text),
            ],
            "samples": [
                toxic_sample(text, 0.9, 0.1).model_copy(update=evil | scores),
                sample(text, 0.1).model_copy(update=evil | {"behaviour": text}),
                sample(text, 0.2, split="tune").model_copy(update=evil),
            ],
            "patch": PatchSummary(
                granularity=Granularity.NEURON,
                components=3,
                of=4,
                modules={text: [0], f"layers.1.{text}": [1, 2]},
                counts={text: 1, f"layers.1.{text}": 2},
            ),
            "not_asked": [text],
            "attribution": {text: text},
            "versions": {text: text},
            "model": ModelIdentity(id=text, sha256=text),
        }
    )


def assert_harmless(text: str) -> None:
    source, lines = render_html(hostile(text)), render_markdown(hostile(text))
    known = {tag for build in PARTIALS for tag, _ in Page(render_html(build())).tags}
    page = Page(source)
    assert {tag for tag, _ in page.tags} <= known
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
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
    assert CorrectionReport.model_validate(json.loads(render_json(hostile(HOSTILE)))) == hostile(
        HOSTILE
    )


POINTING = "@team #1 a!1 [x](http://evil.example) ![y](//evil.example/z) www.evil.example /close"


def find_pointing(markdown: str) -> list[str]:
    """What a forge would make of the text outside of code: links, images, mentions, references."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    inner = [child for token in tokens for child in token.children or []]
    text = "".join(child.content for child in inner if child.type == "text")
    found = [child.type for child in inner if child.type in {"link_open", "image"}]
    return found + re.findall(r"@team|#1|!1|^/close", text)


def test_no_text_mentions_anybody_or_leads_anywhere():
    pointing = render_markdown(hostile(POINTING)), render_markdown(hostile("/close @team"))
    gates = [unmeasured_gate(name=POINTING, sentence=POINTING, unmeasured=POINTING, note=POINTING)]
    identity = ModelIdentity(id=POINTING, sha256=POINTING)
    judged = GateReport(
        outcome=GateOutcome.GATES_NOT_MET,
        model=identity,
        against=identity,
        gates=gates,
        not_asked=[],
        dtype="float32",
        seed=0,
        versions={POINTING: POINTING},
        notes=[POINTING],
    )
    for text in (*pointing, render_gate_markdown(judged).decode()):
        assert "team" in text
        assert find_pointing(text) == []


@settings(max_examples=40, deadline=None)
@given(
    st.text(
        alphabet=st.one_of(st.sampled_from("<>&\"'`|\\*_[]()#\n\r\t ~$!{}%-."), st.characters()),
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


def test_without_a_patch_only_the_base_responses_are_shown():
    def base(prompt: str, score: float) -> object:
        return sample(prompt, 0.0, scores_before={"response uniqueness": score})

    shown = [base("Mild", 0.4), base("Severe", 0.1)]
    nothing = no_effect().model_copy(update={"samples": shown, "search": report().search[2:]})
    for text in (Page(render_html(nothing)).text, render_markdown(nothing)):
        assert "What the base model answers" in text
        assert text.index("Severe") < text.index("Mild")
        assert "↻ a 6-word phrase, 9 times in a row" in text
        assert "Waves arrive" not in text
        assert "Worst case" not in text


def test_figures_over_samples_are_left_out_where_there_is_one_sample():
    page = render_html(report())
    assert 'id="effect-1-2"' in page
    assert 'id="effect-1-3"' not in page
    assert len(re.findall(r'id="effect-1-\d"', render_html(report(behaviours=[toxicity()])))) == 4


def test_chance_and_the_behaviour_alone_share_the_correction_s_axis():
    page = render_html(several())
    chart = re.search(r'<svg[^>]*aria-labelledby="effect-1-1 .*?</svg>', page, re.DOTALL)[0]
    for kind in ("correction", "control", "alone"):
        assert chart.count(f'class="after {kind}"') == 2
    assert chart.count('class="was"') == 6
    plain = render_html(report(behaviours=[toxicity()]))
    assert 'class="after alone"' not in plain
    assert "Together and alone" not in plain


def test_a_report_without_behaviours_still_renders():
    Page(render_html(report(behaviours=[], samples=[])))
    assert render_markdown(report(behaviours=[])).startswith("# ✅ Passed: correction in")


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


def test_modules_without_a_layer_are_counted_apart():
    odd = report().patch.model_copy(
        update={"modules": {"lm_head": [1, 2]}, "counts": {"lm_head": 2}}
    )
    assert "2 in modules without a layer number" in render_html(report(patch=odd))


LEFT = ("also states", "brass monkey", "37", "36", "38", "Leftover prompt", "is not counted")


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_what_is_left_is_shown_unfolded(render):
    page = html.unescape(render(report(leftovers=[leftovers("endless_repetition")])))
    section = page[page.index("What is left, and what came instead") :]
    section = section[: section.index("Gates")]
    assert "details" not in section
    for text in LEFT:
        assert text in section
    assert "What is left" not in render(report())


@pytest.mark.parametrize(
    ("behaviour", "kind", "words_open"),
    [("slogan", "phrase", True), ("toxicity", "toxicity", False), ("own", "custom", False)],
)
def test_texts_that_may_offend_are_left_behind_a_click(behaviour, kind, words_open):
    own = toxicity(name=behaviour, kind=kind)
    found = report(behaviours=[own], leftovers=[leftovers(behaviour)], samples=[])
    assert_veiled(render_html(found), "Leftover prompt", veiled=True)
    assert_veiled(render_html(found), "brass monkey", veiled=not words_open)
    assert_veiled(render_markdown(found), "brass monkey", veiled=not words_open)
    Page(render_html(found))


def assert_veiled(page: str, text: str, *, veiled: bool) -> None:
    before = page[: page.index(text)]
    assert (before.count("<details") > before.count("</details>")) is veiled


@pytest.mark.parametrize("render", [render_html, render_markdown, render_json])
def test_remedies_and_advice_are_told(render):
    gate = damage_gate(passed=False, value=0.9, remedy="prune less of it")
    page = render(report(gates=[gate], advice=["larger amounts may do more"]))
    page = page if isinstance(page, str) else page.decode()
    assert "rune less of it" in page
    assert "arger amounts may do more" in page


def test_the_patch_of_a_rejected_job_is_applied_knowingly():
    for render in (render_html, render_markdown):
        assert "--output CORRECTED_DIR --rejected" in render(rejected())
        assert "--rejected" not in render(report())


def test_hostile_words_that_are_left_do_nothing():
    found = [Leftover(words=HOSTILE, before=1, after=2, p_value=0.01)]
    own = leftovers("endless_repetition", left=found, pattern=HOSTILE)
    page = render_html(report(leftovers=[own]))
    assert "<script" not in page
    Page(page)
    markdown_tables(render_markdown(report(leftovers=[own])))
