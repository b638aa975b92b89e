"""Whether two checkpoints' tokenizers encode texts alike, without which figures per token are void.

Both must give the measured texts the same ids. The same vocabulary is not enough for that: with
another normalizer, other merges or no `<bos>`, the other checkpoint reads other ids than the base.
Nor is it necessary: a token that occurs in no text may have another name. Where only ids are known,
their tokens must be the same in both vocabularies. The tokenizers must also decode the ids to the
same text, because that is what users read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from workers.abilities.catalogue import list_ordinary_tokens
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

OTHER_TEXT = Unmeasured(
    reason="the other checkpoint's tokenizer writes the same token ids as other text than the "
    "base's (another decoder, or none), which is what users read: figures per token do not tell "
    "of it; save the checkpoint with the base's tokenizer.json, if it was trained with that"
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
    """Why figures per token cannot be compared; None where they can be, or where none are asked."""

    corpus: Unmeasured | None = None
    reference: Unmeasured | None = None
    abilities: Unmeasured | None = None


NO_MISMATCH = Mismatches()


def find_mismatches(plan: CheckPlan, base: Tokenizer, other: Tokenizer) -> Mismatches:
    """Return on which of the plan's texts figures per token cannot be compared, and why."""
    if other is base:
        return NO_MISMATCH
    moved = _find_moved_tokens(base, other)
    corpus = _is_text_read_otherwise(plan.corpus_text, plan.corpus, other, moved)
    reference = _is_text_read_otherwise(plan.reference_text, plan.reference, other, moved)
    abilities = _are_probes_read_otherwise(plan, other, moved)
    why = _describe_moved_tokens(len(moved)) if moved else OTHER_IDS

    def explain(is_read_otherwise: bool, ids: Iterable[Sequence[int]]) -> Unmeasured | None:
        if is_read_otherwise:
            return why
        return OTHER_TEXT if is_written_otherwise(ids, base, other) else None

    probes = chain.from_iterable(plan.abilities.values())
    return Mismatches(
        corpus=explain(corpus, plan.corpus or ()),
        reference=explain(reference, plan.reference or ()),
        abilities=explain(abilities, (probe.sample.token_ids for probe in probes)),
    )


def is_written_otherwise(
    sequences: Iterable[Sequence[int]], base: Tokenizer, other: Tokenizer
) -> bool:
    """Return whether `other` decodes any of the token ids to other text than `base` does.

    Blanks are ignored: a harmless setting (`clean_up_tokenization_spaces`) changes them.
    """
    return any(_write(base, ids) != _write(other, ids) for ids in sequences)


def _write(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return "".join(str(tokenizer.decode(ids)).split())


def is_encoded_otherwise(texts: Iterable[str], base: Tokenizer, other: Tokenizer) -> bool:
    """Return whether any of the texts has other ids by `other` than by `base`."""
    return any(encode_text(base, text) != encode_text(other, text) for text in texts)


def _find_moved_tokens(base: Tokenizer, other: Tokenizer) -> set[int]:
    """Return the ids of the base's tokens that have another, or none, in the other vocabulary."""
    theirs = other.get_vocab()
    return {id_ for token, id_ in base.get_vocab().items() if theirs.get(token) != id_}


def _describe_moved_tokens(count: int) -> Unmeasured:
    return Unmeasured(
        reason=f"{count} tokens of the base have another id, or none, in the other checkpoint's "
        "vocabulary, which changes what it reads here: figures per token cannot be compared"
    )


def _is_text_read_otherwise(
    text: CorpusText | None, windows: Windows | None, other: Tokenizer, moved: set[int]
) -> bool:
    """Return whether `other` cuts the text otherwise; without it, whether any of `moved` occurs."""
    if text is None:
        return not moved.isdisjoint(chain.from_iterable(windows or ()))
    try:
        return text.cut(other) != windows
    except ValueError:  # it fills no window any more
        return True


def _are_probes_read_otherwise(plan: CheckPlan, other: Tokenizer, moved: set[int]) -> bool:
    """Return whether a probe has other ids by `other`, or is made of ids and may hold `moved`."""
    probes = chain.from_iterable(plan.abilities.values())
    if any(not moved.isdisjoint(probe.sample.token_ids) for probe in probes):
        return True
    if (source := plan.probe_source) is None:
        return False
    base, drawn = source.tokenizer, list(source.draw_probes())
    if any(probe.token_ids for probe in drawn) and not moved.isdisjoint(list_ordinary_tokens(base)):
        return True  # the next probe may be drawn from them
    users = (probe.user for probe in drawn if probe.user is not None)
    return is_encoded_otherwise((probe.text for probe in drawn), base, other) or any(
        _is_chat_encoded_otherwise(user, base, other) for user in users
    )


def _is_chat_encoded_otherwise(user: str, base: Tokenizer, other: Tokenizer) -> bool:
    """Return whether a user's message, through the base's template, has other ids by `other`."""
    messages = [{"role": "user", "content": user}]
    try:
        theirs = encode_chat(copy_with_template(other, base.chat_template), messages)
    except ChatTemplateError:
        return True
    return theirs != encode_chat(base, messages)
