"""What is to be copied was given before."""

from __future__ import annotations

import pytest

from tests.unit.workers.abilities.kinds import VOCABULARY, draw, told
from workers.abilities import copying
from workers.abilities.copying import RANDOM_TOKENS, draw_random_tokens
from workers.abilities.probe import SliceKind
from workers.abilities.source import Purpose, Source


def test_the_second_half_of_random_tokens_is_the_first() -> None:
    drawn = draw_random_tokens(Source(0, Purpose.VERDICT, vocabulary=VOCABULARY))
    ids = drawn.token_ids
    assert len(ids) == 2 * RANDOM_TOKENS
    assert ids[:RANDOM_TOKENS] == ids[RANDOM_TOKENS:]
    assert set(ids) <= set(VOCABULARY)
    assert len(set(ids)) > RANDOM_TOKENS // 2


@pytest.mark.parametrize("kind", copying.SLICES[1:], ids=lambda kind: kind.name)
@pytest.mark.parametrize("purpose", list(Purpose))
def test_what_is_to_be_written_stands_before(kind: SliceKind, purpose: Purpose) -> None:
    for own in draw(kind, purpose):
        before = own.user or ""
        for part in own.parts:
            if part.is_target:
                assert part.text.strip("\n.!'\",<>/b? ”’);") in before
            before += part.text
        assert before in told(own)
