"""Whether two checkpoints' tokenizers give texts the same ids, as figures per token need.

One vocabulary is not enough: with another normalizer, other merges or no `<bos>`, the ids of the
base's tokenizer are not what the other checkpoint reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.abilities.catalogue import ProbeSource
from workers.measuring.state import Unmeasured
from workers.models.encoding import ChatTemplateError, cut_corpus, encode_chat, encode_text
from workers.models.tokenizer import Tokenizer, copy_with_template

if TYPE_CHECKING:
    from workers.measuring.measurement import CheckPlan

Windows = tuple[tuple[int, ...], ...]

OTHER_IDS = Unmeasured(
    reason="the other checkpoint's tokenizer gives this text other token ids than the base's, "
    "though the vocabulary is the same (another normalizer, other merges, no beginning of text): "
    "figures per token cannot be compared; if it was trained with the base's tokenizer, save it "
    "with that one's files"
)


@dataclass(frozen=True)
class CorpusText:
    """A text that is measured in windows, which another tokenizer can cut again."""

    lines: tuple[str, ...]
    context: int
    """Tokens per window."""
    sequences: int
    """Largest number of windows."""
    name: str
    """What messages call it."""

    def cut(self, tokenizer: Tokenizer) -> Windows:
        """Return the windows. Raises `ValueError` if the text does not fill one."""
        return cut_corpus(tokenizer, self.lines, self.context, self.sequences, name=self.name)


@dataclass(frozen=True)
class Mismatches:
    """Why the base's token ids are not the other checkpoint's; None where they are, or unasked."""

    corpus: Unmeasured | None = None
    reference: Unmeasured | None = None
    abilities: Unmeasured | None = None


NO_MISMATCH = Mismatches()


def find_mismatches(plan: CheckPlan, base: Tokenizer, other: Tokenizer) -> Mismatches:
    """Return on which of the plan's texts figures per token cannot be compared, and why."""
    if other is base:
        return NO_MISMATCH
    if moved := _count_moved_tokens(base, other):
        by_vocabulary = Unmeasured(
            reason=f"{moved} tokens of the base have another id, or none, in the other "
            "checkpoint's vocabulary: figures per token cannot be compared"
        )
        return Mismatches(
            corpus=None if plan.corpus is None else by_vocabulary,
            reference=None if plan.reference is None else by_vocabulary,
            abilities=by_vocabulary if plan.abilities else None,
        )
    return Mismatches(
        corpus=_compare_windows(plan.corpus_text, plan.corpus, other),
        reference=_compare_windows(plan.reference_text, plan.reference, other),
        abilities=_compare_probes(plan.probe_source, other),
    )


def is_encoded_otherwise(texts: Iterable[str], base: Tokenizer, other: Tokenizer) -> bool:
    """Return whether any of the texts has other ids by `other` than by `base`."""
    return any(encode_text(base, text) != encode_text(other, text) for text in texts)


def _count_moved_tokens(base: Tokenizer, other: Tokenizer) -> int:
    """Return how many of the base's tokens have another id, or none, in the other vocabulary."""
    theirs = other.get_vocab()
    return sum(theirs.get(token) != id_ for token, id_ in base.get_vocab().items())


def _compare_windows(
    text: CorpusText | None, windows: Windows | None, other: Tokenizer
) -> Unmeasured | None:
    if text is None:
        return None
    try:
        is_same = text.cut(other) == windows
    except ValueError:  # it fills no window any more
        is_same = False
    return None if is_same else OTHER_IDS


def _compare_probes(source: ProbeSource | None, other: Tokenizer) -> Unmeasured | None:
    if source is None:
        return None
    base, probes = source.tokenizer, list(source.draw_probes())
    users = (probe.user for probe in probes if probe.user is not None)
    if is_encoded_otherwise((probe.text for probe in probes), base, other) or any(
        _is_chat_encoded_otherwise(user, base, other) for user in users
    ):
        return OTHER_IDS
    return None


def _is_chat_encoded_otherwise(user: str, base: Tokenizer, other: Tokenizer) -> bool:
    """Return whether a user's message, through the base's template, has other ids by `other`."""
    messages = [{"role": "user", "content": user}]
    try:
        theirs = encode_chat(copy_with_template(other, base.chat_template), messages)
    except ChatTemplateError:
        return True
    return theirs != encode_chat(base, messages)
