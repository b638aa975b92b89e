"""Slice of instructions whose answers can be checked: exactly what the chat turn asks for."""

from __future__ import annotations

from workers.abilities.probe import Area, Probe, Right, SliceKind, target
from workers.abilities.source import Source

_THRICE = (
    "Write the word {word} three times, separated by commas, and nothing else.",
    "Say {word} three times with commas between.",
    "Answer with the word {word}, three times, separated by commas.",
    "List the word {word} three times, comma separated.",
)
_ONLY = (
    "Answer with the single word {word}.", "Reply with {word} and nothing else.",
    "Your whole answer must be the word {word}.", "Write only this: {word}",
)  # fmt: skip
_LAST = (
    "What is the last word of this list? {words}\nAnswer with one word.",
    "Here is a list: {words}. Write its last word only.",
    "{words}\nWhich word comes last? One word.",
    "Give me the final word of: {words}. Nothing else.",
)
_LINES = (
    "Write these words on separate lines: {words}",
    "Put every one of these words on a line of its own: {words}",
    "One word a line, please: {words}",
    "Rewrite as lines, one word each: {words}",
)


def draw_instruction(source: Source) -> Probe:
    """Draw an instruction: a word three times, a word alone, a last word, or words on lines."""
    words = source.nouns(4)
    listed = ", ".join(words)
    user, answer = source.random.choice(
        (
            (source.choose(_THRICE).format(word=words[0]), f"{words[0]}, {words[0]}, {words[0]}"),
            (source.choose(_ONLY).format(word=words[0]), words[0]),
            (source.choose(_LAST).format(words=listed), words[-1]),
            (source.choose(_LINES).format(words=listed), "\n".join(words)),
        )
    )
    return Probe((target(answer),), user=user)


SLICES = (
    SliceKind(
        "instructions", Area.INSTRUCTIONS, "follow instructions to the letter", draw_instruction, 1,
        Right.TOKENS, needs_chat=True,
    ),
)  # fmt: skip
