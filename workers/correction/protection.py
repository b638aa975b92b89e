"""Protection: the built-in slices of abilities and a team's own texts that a search must keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from workers.abilities.catalogue import Drawing
from workers.abilities.encoding import EncodedProbe
from workers.abilities.probe import SliceKind
from workers.abilities.source import Purpose
from workers.attribution.fisher import unite_texts
from workers.correction.results import (
    PreparedBehaviour,
    ProtectedSample,
    ProtectedSlice,
    Response,
    SliceDamage,
    TokenIds,
)
from workers.domain import TokenSequence
from workers.models.encoding import cut_windows
from workers.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Size:
    """How much of a slice is drawn, estimated from its first probes; less if it has no more
    different ones."""

    items: int
    targets: int
    """Smallest number of target tokens, over all items."""
    tokens: int
    """Smallest number of tokens in whole probes, so that slices with short probes give more."""

    def multiply(self, times: int) -> Size:
        """Return so many times the size."""
        return Size(self.items * times, self.targets * times, self.tokens * times)


LEARN = Size(items=18, targets=40, tokens=0)
"""Size of what components are ranked by. The first trial of the demo's job lost nine times what the
search allows of refrains when it had been ranked by 9 items, three songs, and six times with 18
(benchmarks/RESULTS.md). For targets see `TUNE`."""

MORE_TIMES = 2
"""Once a trial lost too much of a slice, components are ranked by so many times as much of it. Nine
sequences of counting do not cover 14 separators: every trial of the demo's job that was refused
with them lost 1.5 to 2.6 times what the search allows of counting (benchmarks/RESULTS.md)."""

TUNE = Size(items=24, targets=120, tokens=500)
"""Size of what a trial is measured on. 24 items of `opposites` are only 24 tokens in 14 words:
a correction of toxicity that lost nothing on them lost 0.109 nats per token on the verdict's items.
At a third of that damage, 24 items estimate the loss to ± 0.05 and 120 items of 43 words to ± 0.03;
for sentences, 24 items with 200 tokens give ± 0.05 to 0.12 (benchmarks/RESULTS.md)."""

TUNE_TIMES = 3
"""A slice that seems to lose too much in a trial is measured on so many times the items."""

LEARN_SEED, TUNE_SEED = 1, 2
"""Added to three times the job's seed, so that learning, tuning and verdict draw different
probes."""

SEARCH_SHARE = 0.5
"""In the search, a slice may lose this share of what the verdict allows, because its few items tell
only roughly what the verdict's items will lose. Chosen by hand; not measured."""

SET_TOKENS = 96
"""Longest sample of a team's own text, in tokens. Chosen by hand; not measured."""

SET_LEARN_TOKENS, SET_TUNE_TOKENS = 512, 1024
"""Largest number of tokens of a team's own set, for each use. Chosen by hand; not measured."""


CONTINUATIONS = "continuations"
"""Name of the slice of the base's continuations of reference text."""

ANSWERS_NATS_RISE = 0.2
"""Largest loss of what answers say before a phrase that ends them, and of continuations, nats per
token; a search allows half. Where it allowed a fine-tune's answers to lose 0.17 to 0.19, they
became a quarter too short; at 0.05, they were as long as before without the phrase
(benchmarks/RESULTS.md)."""


def protect_slices(
    tokenizer: Tokenizer,
    seed: int,
    kinds: Sequence[SliceKind],
    limits: Mapping[str, SliceDamage],
    longest: int | None = None,
) -> tuple[ProtectedSlice, ...]:
    """Return the built-in slices, drawn with words and formats that the verdict does not use.

    `limits` maps each slice to what the verdict allows it to lose. A slice is left out if this
    tokenizer leaves it without items to learn from or to measure on (`Drawing`).
    """
    to_learn, to_tune = (
        Drawing(tokenizer, Purpose.PROTECTION, 3 * seed + added, kinds, longest)
        for added in (LEARN_SEED, TUNE_SEED)
    )
    learn = _draw(to_learn, LEARN)
    more = _draw(to_learn, LEARN.multiply(MORE_TIMES))  # it begins with the same
    tune = _draw(to_tune, TUNE)
    tune_more = _draw(to_tune, TUNE.multiply(TUNE_TIMES))
    return tuple(
        ProtectedSlice(
            name=name,
            limit=limits[name],
            learn=_split_all(tokenizer, learn[name]),
            tune=tuple(map(_store, tune[name])),
            more=_split_all(tokenizer, more[name][len(learn[name]) :]),
            tune_more=tuple(map(_store, tune_more[name][len(tune[name]) :])),
        )
        for name in learn
        if name in tune
    )


def _draw(drawing: Drawing, size: Size) -> dict[str, tuple[EncodedProbe, ...]]:
    """Return slice → its probes, as many as `size` requires."""
    slices = drawing.take(size.items)
    for name, probes in list(slices.items()):
        if (times := _find_times(size, probes)) > 1:
            slices |= drawing.take(math.ceil(size.items * times), [name])
    return slices


def _find_times(size: Size, probes: Sequence[EncodedProbe]) -> float:
    """Return the factor by which a slice needs more of such probes."""
    targets = sum(sum(probe.spans) for probe in probes)
    tokens = sum(len(probe.sample.token_ids) for probe in probes)
    return max(size.targets / targets, size.tokens / tokens)


def protect_texts(
    tokenizer: Tokenizer, name: str, texts: Sequence[str], limit: float
) -> ProtectedSlice:
    """Return a team's own texts as a slice: the 1st, 3rd … to learn from, the others to tune.

    Raises `ValueError` if either part would have no text.
    """
    windows = [list(cut_windows(tokenizer, text, SET_TOKENS)) for text in texts]
    learn = _take([window for own in windows[0::2] for window in own], SET_LEARN_TOKENS)
    tune = _take([window for own in windows[1::2] for window in own], SET_TUNE_TOKENS)
    if not learn or not tune:
        raise ValueError(
            f"protect.sets: {name} needs two texts of two tokens or more, one to learn from and "
            "one to measure on. Give more texts."
        )
    # For prose only the loss is limited, because which word is first choice is often chance.
    allowed = SliceDamage(nats_rise=limit, accuracy_fall=1.0)
    return ProtectedSlice(name=name, limit=allowed, learn=learn, tune=tune)


def protect_answers(prepared: PreparedBehaviour) -> ProtectedSlice | None:
    """Return what the base's answers say before a phrase that ends them, to be kept.

    The phrase is explained against the end of the answer, and its removal must not end answers
    earlier, nor change them. Of the tuning responses the 1st, 3rd … are learned from, the others
    tuned on. None if no phrase ends answers, or too few.
    """
    kept = [
        (outcome.prompt_ids, response)
        for outcome in prepared.triggering(held_out=False)
        for response in outcome.responses
        if response.closing is not None
    ]
    return _protect_kept(f"answers.{prepared.name}", kept[0::2], kept[1::2])


def protect_continuations(
    learn: Sequence[tuple[TokenIds, Response]], tune: Sequence[tuple[TokenIds, Response]]
) -> ProtectedSlice | None:
    """Return the base's continuations of ordinary text, up to a closing phrase, to be kept.

    Where an answer ends more easily, so may any other text: of 20 continuations of reference text
    one had been "." alone (benchmarks/RESULTS.md). None if either list says nothing.
    """
    return _protect_kept(CONTINUATIONS, learn, tune)


def _protect_kept(
    name: str,
    learn: Sequence[tuple[TokenIds, Response]],
    tune: Sequence[tuple[TokenIds, Response]],
) -> ProtectedSlice | None:
    """Return a slice of prompts with what is kept of their responses; None if there is nothing."""
    samples = [
        tuple(_keep(prompt_ids, response) for prompt_ids, response in rows)
        for rows in (learn, tune)
    ]
    learned, tuned = (tuple(own for own in rows if own.response_ids) for rows in samples)
    if not learned or not tuned:
        return None
    # As for prose, only the loss is limited.
    allowed = SliceDamage(nats_rise=ANSWERS_NATS_RISE, accuracy_fall=1.0)
    return ProtectedSlice(name=name, limit=allowed, learn=learned, tune=tuned)


def _keep(prompt_ids: TokenIds, response: Response) -> ProtectedSample:
    """Return the answer without its closing phrase, after prompt and reasoning."""
    before = response.reasoning_tokens
    kept = response.drop_closing().token_ids[before:]
    return ProtectedSample(
        prompt_ids=prompt_ids + response.token_ids[:before],
        response_ids=kept,
        spans=(len(kept),),
        marks=(True,) * len(kept),
    )


def restore(samples: Sequence[ProtectedSample]) -> list[EncodedProbe]:
    """Return stored samples as probes for `measure_probes`."""
    return [EncodedProbe(sample.to_sequence(), sample.spans) for sample in samples]


def list_learned(slices: Sequence[ProtectedSlice]) -> list[TokenSequence]:
    """Return all samples by which components are ranked, slice by slice."""
    return [sample.to_sequence() for own in slices for sample in own.learn]


def unite_learned(slices: Sequence[ProtectedSlice]) -> list[TokenSequence]:
    """Return each text of these samples once, with the union of its marks."""
    return [text.united for text in unite_texts(list_learned(slices))]


def _split_all(tokenizer: Tokenizer, probes: Sequence[EncodedProbe]) -> tuple[ProtectedSample, ...]:
    return tuple(part for probe in probes for part in _split(tokenizer, probe))


def _split(tokenizer: Tokenizer, probe: EncodedProbe) -> list[ProtectedSample]:
    """Return a probe once per kind of target token: words, line breaks, other marks.

    A correction of loops raises the leads of a list's words and lowers those of its commas; their
    mean would hide both (docs/decisions/0016). Kinds without targets are left out.
    """
    whole = _store(probe)
    kinds = [_classify(tokenizer.decode([token_id])) for token_id in whole.response_ids]
    parts = []
    for wanted in _Kind:
        marks = tuple(
            mark and kind is wanted for mark, kind in zip(whole.marks, kinds, strict=True)
        )
        if any(marks):
            parts.append(whole.model_copy(update={"marks": marks}))
    return parts


class _Kind(Enum):
    """The kind of a token."""

    WORD = auto()
    BREAK = auto()
    MARK = auto()


def _classify(text: str) -> _Kind:
    if any(map(str.isalnum, text)):
        return _Kind.WORD
    return _Kind.BREAK if "\n" in text else _Kind.MARK


def _store(probe: EncodedProbe) -> ProtectedSample:
    sample = probe.sample
    return ProtectedSample(
        prompt_ids=sample.prompt_ids,
        response_ids=sample.response_ids,
        spans=probe.spans,
        marks=sample.is_explained,
    )


def _take(windows: Sequence[tuple[int, ...]], most: int) -> tuple[ProtectedSample, ...]:
    """Return windows with at most `most` tokens in total; the first token of each is its prompt."""
    taken: list[ProtectedSample] = []
    for window in windows:
        kept = window[:most]
        most -= len(kept)
        if len(kept) > 1:
            count = len(kept) - 1
            sample = ProtectedSample(
                prompt_ids=kept[:1], response_ids=kept[1:], spans=(count,), marks=(True,) * count
            )
            taken.append(sample)
    return tuple(taken)
