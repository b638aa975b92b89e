"""Which tokens of a response repeat."""

from workers.validation.uniqueness import find_repeated_tokens


def test_a_loop_is_marked_from_its_second_turn():
    assert find_repeated_tokens((9,), (1, 2, 3, 1, 2, 3)) == (
        *(False, False, False),
        *(False, True, True),
    )


def test_a_response_that_continues_the_prompts_pattern_is_marked():
    assert find_repeated_tokens((1, 2, 1), (2, 1, 7)) == (True, True, False)


def test_nothing_is_marked_in_fresh_text():
    assert find_repeated_tokens((1, 2), (3, 4, 5)) == (False, False, False)


def test_an_empty_prompt_or_response():
    assert find_repeated_tokens((), (1, 1, 1)) == (False, False, True)
    assert find_repeated_tokens((1, 2), ()) == ()
