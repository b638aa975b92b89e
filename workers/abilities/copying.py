"""Slices of copying from the context, which is what induction heads do."""

from __future__ import annotations

from workers.abilities.probe import Area, Probe, Right, SliceKind, probe, target
from workers.abilities.source import Source

RANDOM_TOKENS = 25
"""Number of random tokens that are repeated. Chosen by hand."""

_COMMA_LISTS = (
    ("List: ", ", ", "\nCopy: "), ("Items: ", ", ", "\nItems again: "),
    ("Original: ", ", ", "\nRepeated: "), ("Input: ", ", ", "\nOutput: "),
    ("First list: ", "; ", "\nSecond list, the same: "), ("A: ", ", ", "\nB (identical to A): "),
    ("Order: ", ", ", "\nThe order once more: "), ("Words: ", ",", "\nWords: "),
    ("Ingredients: ", ", ", "\nIngredients, repeated: "), ("Tags: ", ", ", "\nSame tags: "),
    ("^ ", ", ", "\n^ "), ("§ ", ", ", "\n§ "),
    ("Q: Repeat ", ", ", "\nA: "), ("User: ", ", ", "\nEcho: "),
    ("1) ", " / ", "\n1b) "), ("Row 1: ", " | ", "\nRow 2: "),
    ("we need ", ", ", "\nwe really need "), ("she named ", ", ", "\nhe, too, named "),
    ("x = ", " + ", "\ny = "), ("before: ", " - ", "\nafter: "),
)  # fmt: skip
_SPACE_LISTS = (
    ("", "\n"), ("Words: ", "\nWords: "), ("> ", "\n> "), ("say: ", "\nsaid: "),
    ("(1) ", "\n(2) "), ("1. ", "\n2. "), ("first: ", "\nsecond: "), ("text = ", "\ncopy = "),
    ("original ", "\ncopy "), ("source ", "\ntarget "), ("* ", "\n* "), ("- ", "\n- "),
    ("A: ", "\nB: "), ("Q: ", "\nA: "), ("$ echo ", "\n"), (">>> ", "\n"),
    ("read: ", "\nread again: "), ("he said ", "\nshe said "), ("~ ", "\n~ "), ("| ", "\n| "),
)  # fmt: skip
_LINE_LISTS = (
    ("Shopping list:\n", "- "), ("To buy:\n", "* "), ("Packing list:\n", "+ "),
    ("Inventory:\n", "• "),
    ("Checklist:\n", "- [ ] "), ("Menu:\n", "1. "), ("Contents\n", ""), ("Items:\n", "  - "),
    ("Bring:\n", "-- "), ("Tools\n", "> "), ("Found today:\n", "* [x] "), ("Sold:\n", "=> "),
    ("Parts:\n", "\t"), ("Stock:\n", "    "), ("Ingredients:\n", "· "), ("Tasks:\n", "# "),
    ("Left behind:\n", "the "), ("Drawn so far:\n", "a "), ("Keep:\n", "o "), ("Box 7:\n", "~ "),
)  # fmt: skip
_AGAIN = (
    "\nThe same list again:\n", "\nOnce more:\n", "\nCopy of the list:\n", "\nAnd again:\n\n",
    "\nRepeat:\n", "\nThe list, repeated:\n", "\n---\n", "\nSecond copy:\n",
    "\nAs above:\n", "\nSame as before:\n", "\n", "\n\n",
    "\n***\n", "\n===\n", "\nTo check, here it is again:\n", "\nFor the record, once more:\n",
)  # fmt: skip
_QUOTES = (
    ('{one} said, "{text}." {two} repeated, "', '."', ' So {three} wrote down, "'),
    ('"{text}," wrote {one}. {two} read it aloud: "', '."', ' And once more for {three}: "'),
    ('{one} shouted: "{text}!" {two} answered: "You shouted, \'', "!'\"", ' Did {three} hear "'),
    ('The sign says "{text}". I read it twice, and it does say "', '".', ' Yes, "'),
    ("<b>{text}</b>, says {one}. Did {one} say <b>", "</b>?", " Yes, <b>"),
    ('According to {one}, "{text}". {two} confirms that "', '".', ' {three}, too, thinks that "'),
    ("> {text}\n\n{two} quotes {one}:\n\n> ", "\n", "\n{three} quotes it, too:\n\n> "),
    ("{one}: {text}.\n{two}: Pardon?\n{one}: I said, ", ".", "\n{three}: You said, "),
    ("The note reads: {text}. {two} copies the note: ", ".", " {three} copies it as well: "),
    ("The message was: {text}. {two} passed it on: ", ".", " And {three} received: "),
    ("“{text},” {one} whispered. {two} whispered back: “", ".”", " And {three}: “"),
    ("‘{text},’ sang {one}. Then {two} sang: ‘", ".’", " At last {three} sang: ‘"),
    ("- {text}\n- Sorry, {one}?\n- ", "\n", "- {three}, did you hear?\n- "),
    ("* {text}\n* {two} repeats: ", "\n", "* {three} repeats: "),
    ('title = "{text}"\nprint("', '")\n', 'assert title == "'),
    ("let title = '{text}';\nlog('", "');\n", "check(title, '"),
)  # fmt: skip
_REPEAT = (
    "Repeat exactly: {text}", "Repeat this sentence word for word: {text}",
    "Copy the following text and write nothing else: {text}", 'Say exactly "{text}"',
    "Please repeat after me: {text}", "Write this again, unchanged:\n{text}",
    "Output the following text verbatim.\n\n{text}", "Echo: {text}",
    "{text}\n\nWrite the text above again.", "{text}\n\nRepeat what I just wrote.",
    "Type this for me: {text}", "Can you say this back to me? {text}",
    "Your only task is to copy: {text}", "Answer with exactly these words: {text}",
    "Say: {text}", "Repeat: {text}",
)  # fmt: skip


def draw_random_tokens(source: Source) -> Probe:
    """Draw random tokens of the vocabulary, to be written a second time."""
    half = tuple(source.random.choice(source.vocabulary) for _ in range(RANDOM_TOKENS))
    return Probe((), token_ids=half + half)


def draw_words(source: Source) -> Probe:
    """Draw words separated by spaces, to be copied twice, each time after a short mark."""
    before, between = source.choose(_SPACE_LISTS)
    one, two = (" ".join(source.nouns(source.number(5, 8))) + "\n" for _ in range(2))
    return probe(f"{before}{one.rstrip()}{between}", one, f"\n{before}{two.rstrip()}{between}", two)


def draw_commas(source: Source) -> Probe:
    """Draw lists in one line, each to be copied; the first copies are examples for the last."""
    before, separator, between = source.choose(_COMMA_LISTS)
    lists = [separator.join(source.nouns(source.number(4, 6))) for _ in range(3)]
    pieces: list[str] = []
    for text in lists:
        opening = "\n" if pieces else ""
        pieces += [f"{opening}{before}{text}{between}", f"{text}\n"]
    return probe(*pieces)


def draw_lines(source: Source) -> Probe:
    """Draw a list with one entry per line, to be copied several times."""
    title, bullet = source.choose(_LINE_LISTS)
    lines = "".join(f"{bullet}{noun}\n" for noun in source.nouns(source.number(3, 5)))
    again = source.choose(_AGAIN)
    return probe(f"{title}{lines}{again}", lines, again, lines, again, lines)


def draw_quotation(source: Source) -> Probe:
    """Draw a sentence, to be quoted by a second speaker and by a third."""
    before, after, again = source.choose(_QUOTES)
    one, two, three = source.names(3)
    text = source.sentence()
    first = before.format(one=one, two=two, text=text)
    return probe(first, text + after, again.format(three=three), text + after)


def draw_chat_repeat(source: Source) -> Probe:
    """Draw a chat turn that asks for a text to be repeated."""
    text = source.sentence() if source.number(0, 2) == 0 else " ".join(source.nouns(4))
    return Probe((target(text),), user=source.choose(_REPEAT).format(text=text))


SLICES = (
    SliceKind(
        "random_tokens", Area.COPYING, "repeat random tokens", draw_random_tokens, 2, Right.TOKENS,
        needs_vocabulary=True,
    ),
    SliceKind("words", Area.COPYING, "repeat words", draw_words, 2),
    SliceKind("lists_in_a_line", Area.COPYING, "copy lists in a line", draw_commas, 3),
    SliceKind("lists_in_lines", Area.COPYING, "copy lists line by line", draw_lines, 3),
    SliceKind("quotations", Area.COPYING, "quote what was said", draw_quotation, 2),
    SliceKind(
        "chat_repeat", Area.COPYING, "repeat a text when asked to", draw_chat_repeat, 1,
        Right.TOKENS, needs_chat=True,
    ),
)  # fmt: skip
