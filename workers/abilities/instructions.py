"""Slice of instructions whose answers can be checked: exactly what the chat turn asks for."""

from __future__ import annotations

from workers.abilities.probe import Area, Probe, Right, SliceKind, target
from workers.abilities.source import Source

_THRICE = (
    "Write the word {word} three times, separated by commas, and nothing else.",
    "Say {word} three times with commas between.",
    "Answer with the word {word}, three times, separated by commas.",
    "List the word {word} three times, comma separated.",
    "I want to see {word} three times, with commas, and nothing more.",
    "Print {word} three times in one line, separated by commas.",
    "{word}: repeat it three times, separated by commas.",
    "{word}: write it three times, with commas between.",
)
_ONLY = (
    "Answer with the single word {word}.", "Reply with {word} and nothing else.",
    "Your whole answer must be the word {word}.", "Write only this: {word}",
    "Just say {word}.", "Only the word {word}, please.",
    "Respond with one word: {word}", "Output one word: {word}",
)  # fmt: skip
_LAST = (
    "What is the last word of this list? {words}\nAnswer with one word.",
    "Here is a list: {words}. Write its last word only.",
    "{words}\nWhich word comes last? One word.",
    "Give me the final word of: {words}. Nothing else.",
    "Words: {words}. Repeat the last of them, without anything else.",
    "List: {words}. Copy the final entry and nothing else.",
    "Which of these words stands at the end? {words}\nReply with that word.",
    "At the end of this line stands which word? {words}\nReply with it alone.",
)
_LINES = (
    "Write these words on separate lines: {words}",
    "Put every one of these words on a line of its own: {words}",
    "One word a line, please: {words}",
    "Rewrite as lines, one word each: {words}",
    "Break this list into lines, one word on each: {words}",
    "Turn this list into lines with one word each: {words}",
    "{words}\nPut each word on its own line.",
    "{words}\nWrite one word per line.",
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
