"""The table that sets a search's knowledge of a slice beside the verdict's."""

from __future__ import annotations

from benchmarks.protection import describe, draw_search
from excise.specs.abilities import AbilitiesGateSpec
from tests.unit.workers.abilities.tokenizers import build_byte_tokenizer
from workers.abilities.catalogue import SLICES, build_slices
from workers.abilities.source import Purpose
from workers.abilities.state import SliceFigures
from workers.correction.slice_damage import compare_slice
from workers.gates.abilities import compare_slices

TOKENIZER = build_byte_tokenizer()
KINDS = [kind for kind in SLICES if kind.name == "opposites"]


def figures(nats: list[float]) -> SliceFigures:
    count = len(nats)
    return SliceFigures(
        nats=tuple(nats), right=(1,) * count, tokens=(1,) * count, leads=(1.0,) * count
    )


def test_the_search_s_items_are_none_of_the_verdict_s() -> None:
    search = draw_search(TOKENIZER, 0, KINDS)
    verdict = build_slices(TOKENIZER, Purpose.VERDICT, 0, kinds=KINDS)
    assert list(search) == list(verdict) == ["opposites"]
    texts = {probe.sample.token_ids for probe in search["opposites"]}
    assert not texts & {probe.sample.token_ids for probe in verdict["opposites"]}


def test_a_row_tells_what_both_halves_lost_and_how_sure_the_search_is() -> None:
    probes = list(
        {p.sample.response_ids: p for p in draw_search(TOKENIZER, 0, KINDS)["opposites"]}.values()
    )[:3]
    lost = compare_slice(probes, figures([1.0] * 3), figures([1.0, 1.1, 1.2]))
    (change,) = compare_slices(
        KINDS,
        {"opposites": figures([1.0] * 4)},
        {"opposites": figures([1.3, 1.1, 1.2, 1.2])},
        {},
        AbilitiesGateSpec(),
    )
    row = describe("opposites", probes, lost, change)
    # 0.1 on average; 2.92 standard errors of 0.1 / √3 above that.
    assert row == "| opposites | 3, 3 | +0.100 | +0.269 | 4 | +0.200 [-0.018, +0.418] |"
