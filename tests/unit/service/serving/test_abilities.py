from __future__ import annotations

import json
from typing import Any, cast

import pytest

from excise.cli.ability_summary import count_kept, describe_kept
from excise.reports.abilities import AbilityChange
from excise.resources.serving import AbilitiesView
from service.artifacts import ArtifactStore
from service.models import Job, JobArtifact, ModelVersion
from service.serving.abilities import read_abilities, summarise_abilities
from service.serving.views import view_version
from tests.unit.excise.cli.fake_service import build_report


def build_ability(sentence: str, before: float, after: float, **changes: Any) -> AbilityChange:
    values = {
        "name": "slice",
        "area": "copying",
        "sentence": sentence,
        "items": 60,
        "nats_before": 1.0,
        "nats_interval": (0.0, 0.1),
        "accuracy_interval": (-0.05, 0.0),
        "accuracy_before": before,
        "accuracy_after": after,
        "max_accuracy_fall": 0.05,
        "nats_change": 0.01,
        "max_nats_rise": 0.1,
        "is_gated": True,
        "within": True,
    }
    return AbilityChange(**{**values, **changes})


def summarise(*abilities: AbilityChange) -> AbilitiesView:
    found = summarise_abilities(abilities)
    assert found is not None
    return found


def test_what_the_base_cannot_do_is_neither_kept_nor_lost() -> None:
    found = summarise(
        build_ability("copy", 0.9, 0.9),
        build_ability("sing", 0.02, 0.0, is_gated=False),
        build_ability("count on", 1.0, 0.5, within=False),
    )
    assert (found.able, found.within) == (2, 1)
    assert [one.sentence for one in found.lost] == ["count on"]


def test_the_worst_comes_first_by_whichever_figure_is_over_its_limit() -> None:
    found = summarise(
        build_ability("quote", 0.8, 0.7, within=False),
        build_ability("write JSON", 0.8, 0.8, nats_change=1.4, within=False),
        build_ability("count on", 0.9, 0.5, within=False, max_nats_rise=None),
        build_ability("add", 0.9, 0.89, within=False, max_accuracy_fall=0.0),
    )
    assert [one.sentence for one in found.lost] == ["add", "write JSON", "count on", "quote"]


def test_nothing_measured_is_no_summary_and_nothing_able_is_one() -> None:
    assert summarise_abilities([]) is None
    unable = summarise(build_ability("sing", 0.02, 0.0, is_gated=False))
    assert unable == AbilitiesView(able=0, within=0, lost=[])
    assert "nothing to lose" in describe_kept(unable)


def test_words_that_postgresql_cannot_hold_are_mended() -> None:
    lost = summarise(build_ability("say \0now", 1.0, 0.0, within=False)).lost
    assert lost[0].sentence == "say now"


class Files:
    """An artifact store that holds one file, whatever it is asked for."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def get(self, sha256: str) -> bytes:
        return self._content


def read(content: bytes) -> AbilitiesView | None:
    job = Job(id="job_1", artifacts=[JobArtifact(name="report.json", sha256="0" * 64)])
    return read_abilities(cast(ArtifactStore, Files(content)), job)


def write_report(**changes: Any) -> bytes:
    return json.dumps(build_report("passed") | changes).encode()


def test_the_abilities_of_a_job_s_report_are_read() -> None:
    listed = json.loads(build_ability("count on", 1.0, 0.5, within=False).model_dump_json())
    found = read(write_report(abilities=[listed | {"a newer field": 1}], newer=[]))
    assert found == summarise(build_ability("count on", 1.0, 0.5, within=False))
    assert read(write_report()) is None
    assert read(write_report(schema_version=2)) is None


ABILITY = json.loads(build_ability("copy", 1.0, 1.0).model_dump_json())


@pytest.mark.parametrize(
    "content",
    [
        b"not JSON",
        b"[]",
        write_report(schema_version=1, abilities=[ABILITY]),
        write_report(abilities=None),
        write_report(abilities=[{"name": "copying"}]),
        write_report(abilities=[ABILITY | {"nats_change": float("inf")}]),
    ],
    ids=["text", "a list", "old", "null", "another form", "an infinite figure"],
)
def test_a_report_of_a_form_that_is_not_known_says_nothing(
    content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(content) is None
    assert "job_1: report.json cannot be read" in caplog.text


def build_version(abilities: dict[str, Any] | None) -> ModelVersion:
    return ModelVersion(
        id="mv_1",
        job_id="job_1",
        kind="adapter",
        base_model="tiny",
        pool="main",
        verdict="rejected",
        abilities=abilities,
        status="queued",
        files={},
        created_at="2026-01-01T00:00:00Z",
    )


def test_the_version_object_shows_what_its_row_holds() -> None:
    found = summarise(build_ability("count on", 1.0, 0.5, within=False))
    assert view_version(build_version(found.model_dump(mode="json"))).abilities == found
    assert view_version(build_version(None)).abilities is None


def test_one_line_says_how_many_are_kept_and_names_the_worst() -> None:
    names = [f"ability {number}" for number in range(5)]
    lost = [build_ability(name, 0.83, 0.03, within=False, nats_change=2.1) for name in names]
    found = summarise(build_ability("copy", 0.9, 0.9), *lost)
    line = describe_kept(found)
    assert line.startswith("1 of 6 within limits. Lost: “ability 0” (83 % → 3 % right, +2.10 nats")
    assert line.endswith("and 2 more.")
    assert "ability 3" not in line
    kept = summarise(build_ability("copy", 0.9, 0.9))
    assert describe_kept(kept) == "1 of 1 within limits"
    assert "none on record" in describe_kept(None)
    assert [count_kept(one) for one in (found, kept, None)] == ["1 of 6", "1 of 1", "-"]
