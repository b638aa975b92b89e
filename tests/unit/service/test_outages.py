"""An outage has one beginning and one end; what is noted in between is counted."""

from __future__ import annotations

from service.outages import OutageRecord


def test_only_changes_are_reported_and_each_part_has_its_own() -> None:
    outages = OutageRecord()
    assert outages.note_success("broker") == 0
    assert [outages.note_failure("broker") for _ in range(3)] == [True, False, False]
    assert outages.note_failure("database")
    assert [outages.note_success("broker") for _ in range(2)] == [3, 0]
    assert outages.note_failure("broker")
    assert not outages.note_failure("database")
