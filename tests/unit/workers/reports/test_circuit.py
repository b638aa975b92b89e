"""The report of a circuit job: its verdict, its chart, and pages that hold what was measured."""

from __future__ import annotations

import json

import pytest
from markdown_it import MarkdownIt

from excise.names import Granularity, Verdict
from excise.reports.circuit import (
    ChosenCircuit,
    CircuitCurve,
    CircuitPoint,
    CircuitReport,
    CircuitTask,
    HeatmapRow,
    HeldOutCircuit,
)
from excise.reports.common import ModelIdentity
from workers.circuits.verdict import judge_circuit
from workers.reports.circuit import (
    DRAWN_RETENTION,
    build_curve_chart,
    render_circuit_html,
    render_circuit_markdown,
)
from workers.reports.rendering import (
    REVERT_COMMAND,
    NonFiniteReportError,
    render_json,
    write_apply_command,
)

HOSTILE = "<script>alert(1)</script>|`\x1b"


def point(share: float, retention: float) -> CircuitPoint:
    return CircuitPoint(
        share=share,
        kept=round(share * 1000),
        metric=4 * retention,
        faithfulness=retention,
        retention=retention,
        accuracy=0.75,
    )


def curve(attributor: str, chosen: float = 0.15, peak: float = 1.4) -> CircuitCurve:
    points = [point(0.01, -0.1), point(0.1, 0.6), point(0.5, peak), point(1.0, 1.0)]
    return CircuitCurve(
        attributor=attributor,
        empty_metric=0.1,
        cpr=1.21,
        cmd=0.43,
        points=points,
        chosen=point(chosen, 0.93),
    )


def chosen_circuit(retention: float = 0.95, kept: int = 1500) -> ChosenCircuit:
    return ChosenCircuit(
        attributor="attnlrp",
        kept=kept,
        of=10_000,
        held_out=HeldOutCircuit(
            whole_metric=4.0,
            metric=4.0 * retention,
            retention=retention,
            accuracy=1.0,
            zero_retention=-0.07,
        ),
    )


def report(**changes: object) -> CircuitReport:
    circuit = chosen_circuit()
    verdict, reason, gates = judge_circuit(circuit, threshold=0.9, max_share=0.5)
    rows = [
        HeatmapRow(
            module=f"model.layers.{layer}.mlp.down_proj",
            components=500,
            kept=kept,
            relevance=0.5,
            absolute_relevance=1.5,
            cells=[0.25, -0.5],
        )
        for layer, kept in ((0, 1234), (1, 266))
    ]
    whole = CircuitReport(
        verdict=verdict,
        reason=reason,
        granularity=Granularity.NEURON,
        ablation="counterfactual",
        order="signed",
        threshold=0.9,
        task=CircuitTask(
            name="ioi",
            metric="logit_difference",
            rows={"discovery": 21, "choice": 22, "held_out": 23},
            whole_metric=4.5,
            corrupted_metric=-0.5,
            whole_accuracy=0.875,
        ),
        curves=[curve("attnlrp"), curve("wanda", 0.4)],
        circuit=circuit,
        heatmap=rows,
        gates=gates,
        patch_note="What the patch does.",
        timings={"discover": 1.0},
        seed=3,
        versions={"torch": "2"},
        model=ModelIdentity(id="tiny", sha256="ab" * 32),
    )
    return whole.model_copy(update=changes)


def test_the_chart_goes_through_every_size_and_marks_the_chosen_one() -> None:
    chart = build_curve_chart([curve("attnlrp"), curve("wanda", 0.001)])
    assert chart is not None
    first, second = chart.lines
    assert [retention for _, retention in first.points] == [-0.1, 0.6, 0.93, 1.4, 1.0]
    assert first.chosen in first.points
    assert second.points[0] == second.chosen == (0.0, 0.93)  # the smallest size of all
    assert first.points[-1][0] == second.points[-1][0] == 1.0
    assert first.points[0][0] == pytest.approx(1 / 3)  # 1 % between 0.1 % and 100 %
    assert chart.ticks == [
        (pytest.approx(at), pytest.approx(share))
        for at, share in ((0.0, 0.001), (1 / 3, 0.01), (2 / 3, 0.1), (1.0, 1.0))
    ]
    assert not chart.is_clipped
    assert chart.retention_axis.low <= -0.1
    assert chart.retention_axis.high >= 1.4


def test_a_value_beyond_the_chart_is_said_to_be() -> None:
    chart = build_curve_chart([curve("attnlrp", peak=90.0)])
    assert chart is not None
    assert chart.is_clipped
    assert chart.retention_axis.high <= DRAWN_RETENTION[1] + 1
    clipped = render_circuit_html(report(curves=[curve("attnlrp", peak=90.0)]))
    assert "drawn at its end" in clipped
    assert "drawn at its end" not in render_circuit_html(report())


def test_no_curve_gives_no_chart_and_one_whole_model_a_chart() -> None:
    assert build_curve_chart([]) is None
    whole = point(1.0, 1.0)
    only = curve("random").model_copy(update={"points": [whole], "chosen": whole})
    chart = build_curve_chart([only])
    assert chart is not None
    assert chart.lines[0].points == [(1.0, 1.0)]


def test_pages_hold_what_was_measured() -> None:
    page, text = render_circuit_html(report()), render_circuit_markdown(report())
    for shown in (
        "Indirect object identification",
        "attnlrp",
        "wanda",
        "1,500",
        "ab" * 32,
        "signed",
    ):
        assert shown in page
        assert shown in text
    assert page.count("<polyline") == 2
    assert page.count('class="for"') == page.count('class="against"') == 2
    assert "More than 100" in page
    assert "More than 100" not in render_circuit_html(report(order="absolute"))
    assert "<script" not in page
    tables = [
        token for token in MarkdownIt().enable("table").parse(text) if token.type == "table_open"
    ]
    assert len(tables) == 6
    assert "What the patch does." in page


def test_only_a_patch_comes_with_the_commands_that_apply_it() -> None:
    for render in (render_circuit_html, render_circuit_markdown):
        assert "excise patch" not in render(report())
        shown = render(report(has_patch=True))
        assert write_apply_command(report().verdict) in shown
        assert REVERT_COMMAND in shown


def test_the_same_report_gives_the_same_bytes_whatever_its_timings() -> None:
    later = report(timings={"discover": 9.0})
    assert render_circuit_html(report()) == render_circuit_html(later)
    assert render_circuit_markdown(report()) == render_circuit_markdown(later)
    assert CircuitReport.model_validate(json.loads(render_json(report()))) == report()


def test_a_task_that_the_model_does_not_do() -> None:
    empty = report(
        verdict=Verdict.NO_EFFECT, reason="too weak", circuit=None, curves=[], heatmap=[]
    )
    empty = empty.model_copy(update={"gates": []})
    page, text = render_circuit_html(empty), render_circuit_markdown(empty)
    assert "No effect" in page
    assert "none found" in page
    assert "<polyline" not in page
    assert "Circuits by attributor" not in text


def test_names_are_escaped() -> None:
    task = report().task.model_copy(update={"name": HOSTILE})
    page = render_circuit_html(report(task=task))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page + render_circuit_markdown(report(task=task))


def test_a_figure_that_is_not_finite_is_refused() -> None:
    broken = curve("attnlrp").model_copy(update={"cpr": float("nan")})
    with pytest.raises(NonFiniteReportError, match=r"curves\[0\].cpr"):
        render_circuit_html(report(curves=[broken]))
