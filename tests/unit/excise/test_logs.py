"""Log lines: valid JSON whatever is logged, with the task's fields, and no secret in any part."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from excise.logs import (
    JsonFormatter,
    PlainFormatter,
    RedactedStream,
    bind_log_fields,
    describe_line,
    log_fields,
)

KEY = "exc_" + "k" * 43


def build_record(message: object, *args: object, **changes: Any) -> logging.LogRecord:
    record = logging.LogRecord("service.x", logging.INFO, "x.py", 1, message, args, None)
    vars(record).update(changes)
    return record


def format_json(record: logging.LogRecord, **fields: str) -> dict[str, Any]:
    line = JsonFormatter(fields).format(record)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def catch(error: Exception) -> Any:
    try:
        raise error
    except type(error):
        return sys.exc_info()


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters()), st.lists(st.text(st.characters())))
def test_every_line_is_ascii_json(message: str, args: list[str]) -> None:
    """Also with half surrogate pairs, and with arguments that do not fit the message."""
    line = JsonFormatter().format(build_record(message, *args))
    assert line.isascii()
    assert set(json.loads(line)) == {"time", "level", "logger", "message"}


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["L", "N"]), max_size=20))
def test_no_part_of_a_line_holds_a_key(around: str) -> None:
    text = f"{around} {KEY} {around}"
    record = build_record(
        f"m {text} %s %s",
        text,
        {"url": text},
        exc_info=catch(ValueError(text)),
        stack_info=f"Stack\n{text}",
        extra_text=text,
        extra_list=[text, {"deep": (text, KEY.encode())}],
    )
    assert "kkkkkkkk" not in JsonFormatter({"field": text}).format(record)
    assert "kkkkkkkk" not in PlainFormatter().format(record)


def test_a_terminal_obeys_no_line_for_people() -> None:
    text = "kept\x1b[2J \x9b1A figures\n::error::forged ##[stop]"
    expected = "kept [2J  1A figures\n: :error::forged ## [stop]"
    assert PlainFormatter().format(build_record(text)) == f"info: {expected}"
    assert describe_line(JsonFormatter().format(build_record(text))) == f"info: {expected}"
    assert describe_line(text) == expected


def test_the_fields_of_process_task_and_record_are_in_the_line() -> None:
    with log_fields(request_id="r1"):
        line = format_json(build_record("m", job_id="j1"), worker="w1")
    assert (line["worker"], line["request_id"], line["job_id"]) == ("w1", "r1", "j1")
    assert "request_id" not in format_json(build_record("m"))


def test_a_field_cannot_replace_the_message() -> None:
    assert format_json(build_record("m", level="none"))["level"] == "info"


def test_fields_bound_in_a_task_stay_there() -> None:
    from contextvars import copy_context

    copy_context().run(bind_log_fields, request_id="r1")
    assert "request_id" not in format_json(build_record("m"))


def test_a_key_that_is_cut_through_is_left_out() -> None:
    """Of a long message the beginning and the end are kept, but no half of a secret."""
    for shift in range(0, 60, 7):
        text = "é " * 8170 + "." * shift + f" {KEY} " + "é " * 20_000 + KEY + "." * (16 * 1024 - 20)
        shown = format_json(build_record(text))["message"]
        assert "kkkkkk" not in shown
        assert len(shown) < 40_000


def test_a_stream_sees_a_secret_that_is_written_in_pieces() -> None:
    target = io.StringIO()
    stream = RedactedStream(target)
    for piece in ("key ", KEY[:9], KEY[9:], "\nand ", "no line end"):
        stream.write(piece)
    assert target.getvalue() == "key ***\n"
    stream.flush()
    assert target.getvalue() == "key ***\nand no line end"


def test_a_person_reads_json_lines_as_text() -> None:
    line = JsonFormatter().format(build_record("it is %s", "late", exc_info=catch(KeyError("x"))))
    assert describe_line(line).startswith("info: it is late\nTraceback")
    assert describe_line("FATAL:  no such role") == "FATAL:  no such role"
    assert describe_line("12") == "12"
