"""Real text out of a data folder: slices, halves, and rows that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.workers.abilities.kinds import told
from workers.abilities.probe import Area
from workers.abilities.real_text import (
    RealTextError,
    build_real_kind,
    find_purpose,
    load_real_slices,
    read_rows,
)
from workers.abilities.source import Purpose, Source


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def mention(number: int, **changes: object) -> dict[str, object]:
    return {
        "text": f"My neighbour number {number} is a kind woman. ", "label": "non-hateful",
        "functionality": "ident_neutral_nh", "target": "women", **changes,
    }  # fmt: skip


def score(number: int, **changes: object) -> dict[str, object]:
    return {
        "text": f"text {number} about people who live here", "label": "neutral",
        "toxicity_score": 1.5, "target": ["physical dis"], **changes,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "hatecheck.jsonl", [mention(number) for number in range(200)])
    write(tmp_path / "toxigen.jsonl", [score(number) for number in range(200)])
    prompts = [
        {"domain": "race", "group": "Asian_Americans", "entity": "x", "prompt": f"Person {n} was a "
         "singer and"} for n in range(200)
    ]  # fmt: skip
    write(tmp_path / "bold.jsonl", prompts)
    tweets = [{"text": f"@you &amp; I saw {n} birds http://t.co/x", "label": "neither"} for n in
              range(200)]  # fmt: skip
    write(tmp_path / "davidson.jsonl", tweets)
    return tmp_path


NAMES = [
    "hatecheck.groups", "hatecheck.women", "toxigen.physical_dis", "bold.race",
    "bold.asian_americans", "davidson.neither",
]  # fmt: skip


def test_slices_have_the_items_asked_for_and_halves_share_no_text(folder: Path) -> None:
    verdict, protection = (load_real_slices(folder, purpose, 1, 60) for purpose in Purpose)
    assert list(verdict) == list(protection) == NAMES
    for name in NAMES:
        one, two = ({told(own) for own in half[name]} for half in (verdict, protection))
        assert len(one) == len(two) == 30
        assert not one & two


def test_the_same_seed_loads_the_same(folder: Path) -> None:
    def load(seed: int) -> object:
        return load_real_slices(folder, Purpose.VERDICT, seed, 60)

    assert load(1) == load(1)
    assert load(1) != load(2)


def test_a_slice_with_too_few_items_is_left_out(folder: Path) -> None:
    write(folder / "hatecheck.jsonl", [mention(number) for number in range(20)])
    found = load_real_slices(folder, Purpose.VERDICT, 1, 60)
    assert list(found) == NAMES[2:]


def test_no_folder_and_no_files_are_no_slices(tmp_path: Path) -> None:
    assert load_real_slices(None, Purpose.VERDICT, 1, 60) == {}
    assert load_real_slices(tmp_path, Purpose.VERDICT, 1, 60) == {}


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RealTextError, match=r"nowhere is no folder\. Set it"):
        load_real_slices(tmp_path / "nowhere", Purpose.VERDICT, 1, 60)


def test_only_harmless_rows_are_read(tmp_path: Path) -> None:
    rows = [
        mention(1, functionality="derog_neg_emote_h"),
        mention(2, functionality="counter_quote_nh"),
        mention(3, functionality="profanity_nh", target=None),
        mention(4, text="Too short"),
    ]
    found = read_rows(write(tmp_path / "hatecheck.jsonl", rows))
    assert {name: len(texts) for name, texts in found.items()} == {
        "hatecheck.counter_speech": 1, "hatecheck.profanity": 1,
    }  # fmt: skip
    scored = [score(1, label="hate"), score(2, toxicity_score=2.5), score(3, target="a/b")]
    assert list(read_rows(write(tmp_path / "toxigen.jsonl", scored))) == ["toxigen.a_b"]
    tweets = [{"text": "one two three four five", "label": "hate"}]
    assert read_rows(write(tmp_path / "davidson.jsonl", tweets)) == {}


def test_tweets_lose_their_handles_and_links(folder: Path) -> None:
    texts = read_rows(folder / "davidson.jsonl")["davidson.neither"]
    assert texts[0] == "& I saw 0 birds"


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    rows = [score(1, text="word " * 500)]
    (text,) = read_rows(write(tmp_path / "toxigen.jsonl", rows))["toxigen.physical_dis"]
    assert len(text.split()) == 60


def test_two_groups_texts_of_one_template_serve_one_purpose() -> None:
    texts = [f"There is {who} on my football team." for who in (
        "a woman", "an immigrant", "a black person", "a trans person", "a Muslim")]  # fmt: skip
    assert len({find_purpose(text) for text in texts}) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "neutral"}, "line 2: field 'toxicity_score' must be a number, found nothing"),
        (score(1, text=7), "line 2: field 'text' must be a text, found 7"),
        (score(1, target=[3]), "line 2: field 'target' must be a text or a list of texts"),
        (score(1, toxicity_score=True), "line 2: field 'toxicity_score' must be a number"),
        ([1], "line 2: no JSON object"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_its_file_left_out(
    folder: Path, row: object, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(folder / "toxigen.jsonl", [score(0), row])
    with pytest.raises(RealTextError) as raised:
        read_rows(path)
    assert f"{path}, {message}" in str(raised.value)
    found = load_real_slices(folder, Purpose.VERDICT, 1, 60)
    assert list(found) == [name for name in NAMES if not name.startswith("toxigen")]
    assert message in caplog.text


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_line_that_is_no_json_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "bold.jsonl"
    path.write_bytes(b"\n" + line)
    with pytest.raises(RealTextError, match="line 2: no JSON"):
        read_rows(path)


def test_a_kind_of_real_text_is_drawn_from_its_probes(folder: Path) -> None:
    probes = load_real_slices(folder, Purpose.VERDICT, 1, 60)["hatecheck.women"]
    kind = build_real_kind("hatecheck.women", probes)
    source = Source(0, Purpose.VERDICT)
    assert {kind.draw(source) for _ in probes} == set(probes)
    assert (kind.area, kind.items) == (Area.NEIGHBOURHOOD, 2)
