"""The catalogue of slices, and their probes as a given tokenizer encodes them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from weakref import WeakKeyDictionary

from workers.abilities import context, copying, instructions, knowledge, languages, structure
from workers.abilities.encoding import EncodedProbe, encode_probes
from workers.abilities.probe import Probe, SliceKind
from workers.abilities.source import Purpose, Source
from workers.models.tokenizer import Tokenizer

SLICES: tuple[SliceKind, ...] = (
    *copying.SLICES,
    *structure.SLICES,
    *context.SLICES,
    *instructions.SLICES,
    *knowledge.SLICES,
    *languages.SLICES,
)
"""The slices that every model is asked, in the order of the report."""

NAMES = frozenset(kind.name for kind in SLICES)

VERDICT_ITEMS = 60
"""A verdict on a slice rests on at least this many items. Chosen by hand."""

DRAWS_A_PROBE = 20
"""After this many draws per probe wanted, a slice is assumed to have no more different ones. Chosen
by hand."""


def build_slices(
    tokenizer: Tokenizer,
    purpose: Purpose,
    seed: int,
    items: int = VERDICT_ITEMS,
    kinds: Sequence[SliceKind] = SLICES,
    longest: int | None = None,
) -> dict[str, tuple[EncodedProbe, ...]]:
    """Return the probes that a `Drawing` with the same arguments gives first."""
    return Drawing(tokenizer, purpose, seed, kinds, longest).take(items)


class Drawing:
    """Probes of several slices, the same for the same seed; each is drawn and encoded once.

    No probe occurs twice, because asking it again tells nothing new; a slice without more
    different ones is shorter. Left out are probes longer than `longest` tokens, without a target
    token or with characters that the tokenizer has no token for, slices without probes, and
    slices of chats if the tokenizer has no chat template.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        purpose: Purpose,
        seed: int,
        kinds: Sequence[SliceKind] = SLICES,
        longest: int | None = None,
    ) -> None:
        vocabulary = list_ordinary_tokens(tokenizer)
        self._decks = {
            kind.name: _Deck(kind, tokenizer, Source(seed, purpose, kind.name, vocabulary))
            for kind in kinds
            if _can_be_drawn(kind, tokenizer, vocabulary)
        }
        self._longest = longest
        self._unknown = _find_unknown(tokenizer)

    def take(
        self, items: int, names: Collection[str] | None = None
    ) -> dict[str, tuple[EncodedProbe, ...]]:
        """Return slice → its first probes with at least `items` items in total.

        `names` are those of the slices that are wanted; None means all. More items begin with the
        same probes.
        """
        asked = {
            name: tuple(
                probe
                for probe in deck.take(items)
                if _can_be_asked(probe, self._longest, self._unknown)
            )
            for name, deck in self._decks.items()
            if names is None or name in names
        }
        return {name: probes for name, probes in asked.items() if probes}


@dataclass(frozen=True)
class ProbeSource:
    """The source of a verdict's probes."""

    tokenizer: Tokenizer
    seed: int
    items: int
    kinds: Sequence[SliceKind]
    longest: int | None
    """The model's context length in tokens; None for no limit."""

    def draw(self) -> dict[str, tuple[EncodedProbe, ...]]:
        """Return slice → its probes, as `build_slices` draws them."""
        return self._open(self.kinds).take(self.items)

    def draw_more(self, names: Sequence[str], times: int) -> dict[str, tuple[EncodedProbe, ...]]:
        """Return slice → additional probes, so that with those of `draw` there are `times` as many.

        Slices without more different probes are left out.
        """
        kinds = [kind for kind in self.kinds if kind.name in names]
        drawing = self._open(kinds)
        first, all_of_them = drawing.take(self.items), drawing.take(times * self.items)
        added = {name: probes[len(first[name]) :] for name, probes in all_of_them.items()}
        return {name: probes for name, probes in added.items() if probes}

    def draw_probes(self) -> Iterator[Probe]:
        """Yield the probes of `draw` as they are before they are encoded."""
        vocabulary = list_ordinary_tokens(self.tokenizer)
        for kind in self.kinds:
            if _can_be_drawn(kind, self.tokenizer, vocabulary):
                source = Source(self.seed, Purpose.VERDICT, kind.name, vocabulary)
                yield from _Deck(kind, self.tokenizer, source).draw(self.items)

    def _open(self, kinds: Sequence[SliceKind]) -> Drawing:
        return Drawing(self.tokenizer, Purpose.VERDICT, self.seed, kinds, self.longest)


_ORDINARY: WeakKeyDictionary[Tokenizer, tuple[int, ...]] = WeakKeyDictionary()
"""Found once per tokenizer: it takes a third of a second for a vocabulary of 262,000."""


def list_ordinary_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids of all tokens that represent text (not special ones), ascending."""
    if tokenizer not in _ORDINARY:
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        _ORDINARY[tokenizer] = tuple(sorted(set(tokenizer.get_vocab().values()) - special))
    return _ORDINARY[tokenizer]


def _can_be_drawn(kind: SliceKind, tokenizer: Tokenizer, vocabulary: Sequence[int]) -> bool:
    if kind.needs_vocabulary and not vocabulary:
        return False
    return not kind.needs_chat or bool(tokenizer.chat_template)


def _find_unknown(tokenizer: Tokenizer) -> int | None:
    """Return the id of the token for unknown characters; None if every character has tokens.

    A tokenizer that knows every byte may still name such a token: one that begins or ends texts.
    """
    unknown: int | None = tokenizer.unk_token_id
    return None if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id) else unknown


def _can_be_asked(probe: EncodedProbe, longest: int | None, unknown: int | None) -> bool:
    ids = probe.sample.token_ids
    is_short = longest is None or len(ids) <= longest
    return is_short and any(probe.spans) and unknown not in ids


class _Deck:
    """The probes of one slice, in the order in which they were drawn."""

    def __init__(self, kind: SliceKind, tokenizer: Tokenizer, source: Source) -> None:
        self._kind = kind
        self._tokenizer = tokenizer
        self._source = source
        self._drawn: dict[Probe, int] = {}
        """Probe → number of draws up to the one that gave it."""
        self._draws = 0
        self._encoded: list[EncodedProbe] = []

    def draw(self, items: int) -> list[Probe]:
        """Return the first different probes with at least `items` items, or as many as there are.

        There are no more if `DRAWS_A_PROBE` times as many draws gave no others.
        """
        count = -(-items // self._kind.items)
        most = count * DRAWS_A_PROBE
        while len(self._drawn) < count and self._draws < most:
            self._draws += 1
            self._drawn.setdefault(self._kind.draw(self._source), self._draws)
        return [probe for probe, draws in islice(self._drawn.items(), count) if draws <= most]

    def take(self, items: int) -> list[EncodedProbe]:
        """Return the same probes, encoded."""
        probes = self.draw(items)
        self._encoded += encode_probes(self._tokenizer, probes[len(self._encoded) :])
        return self._encoded[: len(probes)]
