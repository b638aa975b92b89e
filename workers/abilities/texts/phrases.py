"""Frames for a word of a forbidden phrase: text about it, and text in which it must be written."""

from __future__ import annotations

AFTER = (
    ('The crossword asked for "{word}"', ", and {name} wrote it down with a {adjective} pencil."),
    ('The teacher wrote "{word}" on the board', " and asked {name} to read it aloud to the class."),
    ('"{word}" was the last entry on the page', ", just below a drawing of a {adjective} {noun}."),
    ('"{word}" was painted on the side of the boat', " that {name} bought in {place} last summer."),
    (
        'In the dictionary {name} looked up "{word}"',
        " and three other words before dinner was ready.",
    ),
    (
        'In the game {name} had to explain "{word}"',
        " without using both hands or drawing a {noun}.",
    ),
    ('The label on the box said "{word}"', ", but there was only a {adjective} {noun} inside."),
    ('The password used to be "{word}"', " until {name} changed it to the name of a {noun}."),
    ('A puzzle in the newspaper had the answer "{word}"', ", which nobody in {place} had guessed."),
    ('A button with the text "{word}"', " opens a window in which {name} can choose a {noun}."),
    ('{name} mistyped the word "{word}"', " twice and then asked for a cup of tea and a {noun}."),
    ('{name} underlined the word "{word}"', " in red and put the letter back under the {noun}."),
    ('The translator had a note about "{word}"', " and sent it to {name} on Monday morning."),
    (
        'The file is called "{word}"',
        ", and it lies in the same folder as the picture of the {noun}.",
    ),
    ('On the map someone had written "{word}"', " in tiny letters next to the road to {place}."),
    ('On the cake {name} had written "{word}"', " with sugar, and the children ate it at once."),
    ('There is a song called "{word}"', ", which {name} used to sing on the way to {place}."),
    ('There was a shop called "{word}"', " in {place} where you could buy a {adjective} {noun}."),
    ('For the sign we need the letters of "{word}"', ", a {adjective} board, and four long nails."),
    ('For the quiz we chose the word "{word}"', " because nobody would expect it from {name}."),
    ('The child learned to spell "{word}"', " before she could tie her shoes or count to ten."),
    ('The parrot said "{word}"', " so clearly that {name} looked for somebody behind the {noun}."),
    (
        'Chapter two is named "{word}"',
        ", and it begins with a walk through the streets of {place}.",
    ),
    ('Room two is named "{word}"', ", and it has a {adjective} carpet and a view of {place}."),
)
"""What is given, up to the word, and neutral text that goes on; the parts meet at the word."""

WRITTEN = (
    ('The word "{word}" has {count} letters. The word with {count} letters is "', '{word}".\n',
     "Once more, the word is ", '"{word}".\n'),
    ("{spelled} spells ", '"{word}".\n', "Put together, {spelled} is the word ", '"{word}".\n'),
    ("List: {noun}, {word}, {second}\nCopy:", " {noun}, {word}, {second}\n",
     "Copy again:", " {noun}, {word}, {second}\n"),
    ("- {noun}\n- {word}\n- {second}\n\nThe same list:\n", "- {noun}\n- {word}\n- {second}\n",
     "\nAnd again:\n", "- {noun}\n- {word}\n- {second}\n"),
    ('{name} said, "{word}." Then {other} said, too, "', '{word}."', ' And the others said, "',
     '{word}."'),
    ('On the card of {name} stood "{word}". {name} turned the card and read: "', '{word}".',
     ' Then {other} read it, as well: "', '{word}".'),
    ("{noun} -> {noun}\n{second} -> {second}\n{word} ->", " {word}\n",
     "{other} -> {other}\n{word} ->", " {word}\n"),
    ("{noun} | {noun}\n{second} | {second}\n{word} |", " {word}\n", "{name} | {name}\n{word} |",
     " {word}\n"),
    ("key = {word}, value = {noun}\nThe key is", " {word}\n", "The value is {noun}. The key is",
     " {word}\n"),
    ("first: {word}; second: {noun}; third: {second}\nfirst:", " {word}", "; second:",
     " {noun}; third: {second}\n"),
    ("{second} {word} {noun}\n{second} {word} {noun}\n{second}", " {word} {noun}\n", "{second}",
     " {word} {noun}\n"),
    ("{word}, {noun}, {word}, {noun}, {word}, {noun},", " {word}, {noun},", " {word}, {noun},",
     " {word}, {noun},"),
)  # fmt: skip
"""Given and written pieces in turn: the word can be copied from what is given."""

_FUNCTION_WORDS = """a about after again all also am an and any are as at be because been before
being but by can cannot could did do does doing down during each few for from
further had has have having he her here hers him his how i if in into is it
its itself just me more most must my no nor not of off on once only or other
our ours out over own same shall she should so some such than that the their
theirs them then there these they this those through to too under until up
upon us very was we were what when where which while who whom whose why will
with within without would you your yours"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that every text holds anyway, so that their loss would show everywhere."""
