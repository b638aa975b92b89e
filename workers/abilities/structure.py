"""Slices of structured text, in which each piece follows from the pieces before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from workers.abilities import words
from workers.abilities.probe import Area, Probe, SliceKind, probe
from workers.abilities.source import Source

_TOPICS = (
    "name", "item", "product", "title", "label", "tool", "part", "article",
    "object", "thing", "key", "id", "entry", "kind", "type", "word",
)  # fmt: skip
_AMOUNTS = (
    "age", "count", "price", "year", "size", "weight", "score", "stock",
    "length", "height", "value", "number", "total", "sum", "rank", "points",
)  # fmt: skip
_COUNTS = (
    ", ", ",", "\n", "\n\n", " ", "; ", ". ", " | ", " - ", " / ", " -> ", " → ", "\t", "  ",
)  # fmt: skip
_STEPPED = (
    "{}", "({})", "Step {}", "Day {}", "Chapter {}", "Room {}", "No. {}", "#{}",
    "[{}]", "<{}>", "Page {}", "Level {}", "item{}", "line{}", "{}.", "{}:",
)  # fmt: skip
_TIMES = (
    "{a} x {b} = {c}", "{a} × {b} = {c}", "{a}*{b}={c}", "{a} times {b} is {c}", "{a} * {b} = {c}",
    "{b} · {a} = {c}", "{a} × {b} → {c}", "{a} multiplied by {b} is {c}",
    "{a} by {b}: {c}", "{b} by {a}: {c}", "({a} x {b}) = {c}", "[{a} * {b}] = {c}",
    "{b} times {a} makes {c}", "{a} times {b} makes {c}", "{b}x{a}={c}", "{a}x{b}={c}",
)  # fmt: skip
_CHORUS = (
    "Chorus:\n", "Refrain:\n", "[Chorus]\n", "(Refrain)\n", "", "\n", "CHORUS\n", "ALL\n",
    "*Chorus*\n", "_Refrain_\n", "~ ~ ~\n", "* * *\n", "All:\n", "Everyone:\n",
)  # fmt: skip
_INDENTS = (
    ("  ", ",\n"), ("", ",\n"), ("    ", ",\n"), (" ", ", "), ("\t", ",\n"), ("      ", ",\n"),
    ("", " ,\n"), ("  ", " ,\n"),
)  # fmt: skip
_SEPARATORS = (",", ";", "\t", " | ", ", ", "; ", ":", "|")
_RULES = (
    "|---|---|", "| --- | --- |", "|:---|---:|", "|------|------|", "| :-- | --: |", "|-|-|",
    "| ---- | ---- |", "|:-:|:-:|",
)  # fmt: skip
_OUTLINES = (
    ("## ", "- "), ("# ", "* "), ("### ", "1. "), ("#### ", "+ "), ("# ", "• "), ("## ", "1) "),
    ("== ", "  - "), ("-- ", "  * "), ("", "    "), ("", "  · "), ("City: ", "- "),
    ("Trip to ", "* "),
)  # fmt: skip
_PARTIES = (
    ("Supplier", "Customer"), ("Licensor", "Licensee"), ("Landlord", "Tenant"), ("Buyer", "Seller"),
    ("Lender", "Borrower"), ("Company", "Contractor"), ("Agency", "Client"), ("Owner", "Operator"),
    ("Manufacturer", "Dealer"), ("Publisher", "Author"), ("Principal", "Agent"),
    ("Employer", "Employee"), ("Provider", "User"), ("Vendor", "Purchaser"),
    ("Carrier", "Shipper"), ("Lessor", "Lessee"),
)  # fmt: skip
_CLAUSES = (
    "shall not be liable to the {two} for any loss of the {noun}, whether direct or indirect.",
    "shall indemnify the {two} against all claims arising out of the use of the {noun}.",
    "shall give the {two} thirty days' written notice before the {noun} is replaced.",
    "shall not assign any right to the {noun} without the prior written consent of the {two}.",
    "shall keep the {noun} in good repair and let the {two} inspect it upon request.",
    "shall return the {noun} to the {two} at the end of the term of this Agreement.",
    "shall insure the {noun} against fire, theft and flood at the expense of the {two}.",
    "shall store the {noun} in a dry, locked and heated room that the {two} has approved.",
    "shall pay the {two} for the {noun} within thirty days of receipt of a proper invoice.",
    "shall deliver the {noun} to the {two} within sixty days of the date of this order.",
    "shall not disclose the terms on which the {two} bought the {noun} to any third party.",
    "shall not copy, sell or lend the {noun}, in whole or in part, without the {two}'s consent.",
    "may terminate this Agreement if the {two} fails to repair the {noun} within ten days.",
    "may suspend the use of the {noun} if the {two} does not pay the fee when it is due.",
    "shall, at the request of the {two}, provide a written report on the state of the {noun}.",
    "shall, at its own cost, remove every defect of the {noun} of which the {two} complains.",
    "warrants to the {two} that the {noun} is new, free of defects and fit for its purpose.",
    "represents to the {two} that it owns the {noun}, and that no other person has a claim to it.",
    "shall be entitled to a refund if the {noun}, when the {two} delivers it, is damaged.",
    "shall be relieved of its duties if the {noun}, while the {two} uses it, is destroyed.",
    "shall bear the risk of loss of the {noun} until the {two} has signed for it.",
    "shall remain the owner of the {noun} until the {two} has paid the price in full.",
    "shall notify the {two} of any change to the {noun}; such notice shall be in writing.",
    "shall train the staff of the {two} to use the {noun}; such training shall be free of charge.",
)
_ROWS = 4


def _draw_records(source: Source) -> tuple[str, str, list[tuple[str, int]]]:
    """Draw two field names and a few records."""
    values = [source.number(11, 99) for _ in range(_ROWS)]
    records = list(zip(source.nouns(_ROWS), values, strict=True))
    return source.choose(_TOPICS), source.choose(_AMOUNTS), records


def _tell(records: list[tuple[str, int]]) -> str:
    return ", ".join(f"{noun} {value}" for noun, value in records)


def _follow_rows(opening: str, rows: list[str]) -> Probe:
    """Return the probe in which each row from the second on is a target."""
    pieces = [opening + rows[0], rows[1]]
    for row in rows[2:]:
        pieces += ["", row]
    return probe(*pieces)


def draw_json(source: Source) -> Probe:
    """Draw records in words, to be written as a JSON array of objects."""
    topic, amount, records = _draw_records(source)
    indent, end = source.choose(_INDENTS)
    rows = [indent + json.dumps({topic: noun, amount: value}) + end for noun, value in records]
    return _follow_rows(f"{_tell(records)}\n\n[\n", rows)


def draw_csv(source: Source) -> Probe:
    """Draw records in words, to be written as separated values (CSV)."""
    topic, amount, records = _draw_records(source)
    separator = source.choose(_SEPARATORS)
    rows = [f"{noun}{separator}{value}\n" for noun, value in records]
    return _follow_rows(f"{_tell(records)}\n\n{topic}{separator}{amount}\n", rows)


def draw_table(source: Source) -> Probe:
    """Draw records in words, to be written as a Markdown table."""
    topic, amount, records = _draw_records(source)
    rule = source.choose(_RULES)
    rows = [f"| {noun} | {value} |\n" for noun, value in records]
    return _follow_rows(f"{_tell(records)}\n\n| {topic} | {amount} |\n{rule}\n", rows)


def draw_outline(source: Source) -> Probe:
    """Draw a Markdown outline whose sections have the same points."""
    mark, bullet = source.choose(_OUTLINES)
    points = "".join(f"{bullet}{noun}\n" for noun in source.nouns(3))
    one, two, three = source.sample(words.PLACES, 3)
    opening = f"{mark}{one}\n{points}\n{mark}{two}\n"
    return probe(opening, points, f"\n{mark}{three}\n", points)


def draw_code(source: Source) -> Probe:
    """Draw a program whose later lines follow from its earlier ones."""
    return source.choose(_PROGRAMS)(source)


def _draw_class(source: Source) -> Probe:
    fields = source.nouns(4)
    head = f"class {source.nouns(1)[0].title()}:\n    def __init__(self, {', '.join(fields)}):\n"
    return _follow_rows(head, [f"        self.{field} = {field}\n" for field in fields])


def _draw_keys(source: Source) -> Probe:
    name, fields = source.nouns(1)[0], source.nouns(4)
    rows = [f'{field} = {name}["{field}"]\n' for field in fields]
    return _follow_rows(f"# {', '.join(fields)}\n", rows)


def _draw_columns(source: Source) -> Probe:
    fields = source.nouns(4)
    rows = [f"    {field} TEXT NOT NULL,  -- the {field}\n" for field in fields]
    return _follow_rows(f"-- {', '.join(fields)}\nCREATE TABLE {source.nouns(1)[0]} (\n", rows)


def _draw_listing(opening: str, row: str, source: Source) -> Probe:
    """Draw a program with one line per name, after an opening that lists the names."""
    fields = source.nouns(4)
    rows = [row.format(field=one, upper=one.upper(), title=one.title()) for one in fields]
    return _follow_rows(opening.format(fields=", ".join(fields)), rows)


_PROGRAMS: tuple[Callable[[Source], Probe], ...] = (
    _draw_class,
    _draw_keys,
    partial(_draw_listing, "int {fields};\n", "int get_{field}() {{ return {field}; }}\n"),
    partial(_draw_listing, "// uses {fields}\n", "import {{ {field} }} from './{field}';\n"),
    partial(
        _draw_listing,
        "    switch (word) {{  // {fields}\n",
        '        case "{field}": return {upper};\n',
    ),
    partial(_draw_listing, "/* {fields} */\n", 'const {upper} = "{field}";\n'),
    _draw_columns,
    partial(_draw_listing, "<!-- {fields} -->\n", '<option value="{field}">{title}</option>\n'),
)


def draw_counting(source: Source) -> Probe:
    """Draw six numbers of a sequence, to be continued."""
    start = source.number(2, 60)
    form = source.choose(_STEPPED) if source.number(0, 2) == 0 else "{}"
    separator = source.choose(_COUNTS)
    numbers = [form.format(start + step) for step in range(10)]
    rest = [number + separator for number in numbers[6:]]
    return probe(separator.join(numbers[:6]) + separator, "".join(rest[:2]), "", "".join(rest[2:]))


def draw_times_table(source: Source) -> Probe:
    """Draw a multiplication table, to be written from its fourth row on."""
    form, factor = source.choose(_TIMES), source.number(2, 9)
    rows = [form.format(a=factor, b=by, c=factor * by) + "\n" for by in range(1, 7)]
    return _follow_rows("".join(rows[:2]), rows[2:])


def draw_refrain(source: Source) -> Probe:
    """Draw a song whose chorus is to be repeated."""
    lines = [_draw_song_line(source) for _ in range(3)]
    chorus, mark = f"{lines[0]}\n{lines[1]}\n", source.choose(_CHORUS)
    opening = lines[0].split(" ")[0]
    rest = chorus[len(opening) :]
    context = f"{mark}{chorus}\n{lines[2]}\n\n{mark}{opening}"
    return probe(context, rest, f"\n{mark}{opening}", rest, f"\n{mark}{opening}", rest)


def _draw_song_line(source: Source) -> str:
    noun, second = source.nouns(2)
    adjective, place = source.choose(words.ADJECTIVES), source.choose(words.PLACES)
    template = source.choose(words.SONG_LINES)
    return template.format(noun=noun, second=second, adjective=adjective, place=place)


def draw_contract(source: Source) -> Probe:
    """Draw a clause of a contract, to be repeated for the other party."""
    one, two = source.choose(_PARTIES)
    noun, clause = source.nouns(1)[0], source.choose(_CLAUSES)
    there, back = clause.format(two=two, noun=noun), clause.format(two=one, noun=noun)
    verb = there.split(" ")[0].rstrip(",")
    section = source.number(2, 19)
    return probe(
        f"{section}.1 The {one} {there}\n\n{section}.2 The {two} {verb}",
        back.removeprefix(verb),
        f"\n\nTo repeat 1: The {one} {verb}",
        there.removeprefix(verb),
    )


SLICES = (
    SliceKind("json", Area.STRUCTURE, "write JSON", draw_json, 3),
    SliceKind("csv", Area.STRUCTURE, "write CSV", draw_csv, 3),
    SliceKind("tables", Area.STRUCTURE, "fill Markdown tables", draw_table, 3),
    SliceKind("outlines", Area.STRUCTURE, "fill Markdown lists", draw_outline, 2),
    SliceKind("code", Area.STRUCTURE, "continue code", draw_code, 3),
    SliceKind("counting", Area.STRUCTURE, "count on", draw_counting, 2),
    SliceKind(
        "times_tables", Area.STRUCTURE, "continue multiplication tables", draw_times_table, 3
    ),
    SliceKind("refrains", Area.STRUCTURE, "sing a refrain again", draw_refrain, 3),
    SliceKind("contracts", Area.STRUCTURE, "repeat the wording of a contract", draw_contract, 2),
)  # fmt: skip
