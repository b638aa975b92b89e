"""Probes to tokens: what is marked, wherever a tokenizer joins characters."""

from __future__ import annotations

from hypothesis import given as for_all
from hypothesis import strategies as st

from tests.unit.workers.abilities.tokenizers import build_byte_tokenizer
from tests.unit.workers.models.test_encoding import BEGINS, BOS, build_tokenizer
from workers.abilities.encoding import EncodedProbe, encode_probes
from workers.abilities.probe import Part, Probe, given, probe, target
from workers.models.encoding import encode_chat, encode_part
from workers.models.tokenizer import Tokenizer

BYTES = build_byte_tokenizer()
JOINED = build_byte_tokenizer(merges=200)
OTHER = Probe((given("a"), target("b"), given("c")))
PARTS = st.lists(
    st.builds(Part, st.sampled_from(["She be", " at", " the", "ré", " {n", "ever", "", "."]),
              st.booleans()),
    max_size=6,
)  # fmt: skip


def encode_probe(tokenizer: Tokenizer, item: Probe) -> EncodedProbe:
    """Return the probe as it is encoded beside others."""
    _, found, _ = encode_probes(tokenizer, [OTHER, item, OTHER])
    return found


@for_all(PARTS)
def test_the_marks_are_those_of_the_spans(parts: list[Part]) -> None:
    for tokenizer in (BYTES, JOINED):
        item = Probe((given("To "), *parts))
        encoded = encode_probe(tokenizer, item)
        text = "".join(part.text for part in item.parts)
        assert encoded.sample.token_ids == encode_part(tokenizer, text)
        assert sum(encoded.spans) == sum(encoded.sample.is_explained)
        assert len(encoded.spans) == sum(part.is_target for part in parts)


@for_all(PARTS)
def test_a_token_a_byte_is_marked_as_its_part_says(parts: list[Part]) -> None:
    encoded = encode_probe(BYTES, Probe((given("To "), *parts)))
    marks = [part.is_target for part in parts for _ in part.text.encode()]
    assert encoded.sample.is_explained == tuple(marks[marks.index(True) :] if any(marks) else ())


def test_a_token_across_the_border_belongs_to_the_later_part() -> None:
    joined = next(text for text in ("the", "er", "in") if len(encode_part(JOINED, text)) == 1)
    encoded = encode_probe(JOINED, probe("?" + joined[0], joined[1:]))
    assert encoded.sample.prompt_ids == encode_part(JOINED, "?")
    assert encoded.sample.response_ids == encode_part(JOINED, joined)
    assert encoded.spans == (1,)


def test_random_tokens_come_twice_and_the_first_again_is_no_target() -> None:
    for tokenizer, beginning in ((build_tokenizer(), ()), (build_tokenizer(BEGINS), (BOS,))):
        encoded = encode_probe(tokenizer, Probe((), token_ids=(4, 5, 6, 4, 5, 6)))
        assert encoded.sample.prompt_ids == (*beginning, 4, 5, 6, 4)
        assert encoded.sample.response_ids == (5, 6)
        assert encoded.sample.is_explained == (True, True)
        assert encoded.spans == (1, 1)


def test_a_text_has_the_beginning_of_its_tokenizer() -> None:
    encoded = encode_probe(build_tokenizer(BEGINS), probe("w1 w2", " w3"))
    assert encoded.sample.prompt_ids == (BOS, 1, 2)


def test_a_chat_begins_with_its_user_turn() -> None:
    encoded = encode_probe(BYTES, Probe((target("Yes."),), user="Well?"))
    assert encoded.sample.prompt_ids == encode_chat(BYTES, [{"role": "user", "content": "Well?"}])
    assert BYTES.decode(encoded.sample.response_ids) == "Yes."
    assert encoded.spans == (4,)


def test_the_end_of_a_chat_s_answer_belongs_to_its_last_target() -> None:
    tokenizer = build_byte_tokenizer()
    tokenizer.eos_token = "e"
    end = tokenizer.eos_token_id
    chat = encode_probe(
        tokenizer, Probe((target("Yes"), given(" or "), target("no")), user="Well?")
    )
    assert chat.sample.response_ids == (*encode_part(tokenizer, "Yes or no"), end)
    assert chat.spans == (3, 3)
    assert chat.sample.is_explained[-1]
    open_end = encode_probe(tokenizer, Probe((target("Yes"), given(" or")), user="Well?"))
    assert open_end.sample.response_ids == encode_part(tokenizer, "Yes or")
    plain = encode_probe(tokenizer, Probe((given("a"), target("bc"))))
    assert plain.sample.response_ids == encode_part(tokenizer, "bc")


def test_a_token_that_nothing_stands_before_is_no_target() -> None:
    encoded = encode_probe(BYTES, Probe((target("ab"), target("c"))))
    assert encoded.spans == (1, 1)
    assert encoded.sample.prompt_ids == encode_part(BYTES, "a")
    assert encoded.sample.response_ids == encode_part(BYTES, "bc")
