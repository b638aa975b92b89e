"""Every slice there is, and the probes of it that a tokenizer can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.abilities import context, copying, instructions, knowledge, languages, structure
from workers.abilities.encoding import EncodedProbe, encode_probe
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
"""What every model is asked, in the order of the report."""

NAMES = frozenset(kind.name for kind in SLICES)

VERDICT_ITEMS = 60
"""Items of a slice that a verdict rests on, at least."""

DRAWS_A_PROBE = 20
"""Draws for one probe that has not been drawn yet."""


def build_slices(
    tokenizer: Tokenizer,
    purpose: Purpose,
    seed: int,
    items: int = VERDICT_ITEMS,
    kinds: Sequence[SliceKind] = SLICES,
    longest: int | None = None,
) -> dict[str, tuple[EncodedProbe, ...]]:
    """Return slice → probes with at least `items` items in all, the same for the same seed.

    No probe comes twice, as one asked again tells nothing new; a slice that has no more different
    ones is shorter. Probes that cannot be asked are left out: of more than `longest` tokens,
    without a target token, or with characters that the tokenizer has no token for. So are slices
    of which no probe is left, and slices of chats where the tokenizer has no template.
    """
    vocabulary = list_ordinary_tokens(tokenizer)
    slices = {
        kind.name: _build(kind, tokenizer, Source(seed, purpose, kind.name, vocabulary), items)
        for kind in kinds
        if _can_be_drawn(kind, tokenizer, vocabulary)
    }
    unknown = _find_unknown(tokenizer)
    asked = {
        name: tuple(probe for probe in probes if _can_be_asked(probe, longest, unknown))
        for name, probes in slices.items()
    }
    return {name: probes for name, probes in asked.items() if probes}


@dataclass(frozen=True)
class ProbeSource:
    """What a verdict's probes are drawn from."""

    tokenizer: Tokenizer
    seed: int
    items: int
    kinds: Sequence[SliceKind]
    longest: int | None
    """Tokens of the model's context; None for no limit."""

    def draw(self) -> dict[str, tuple[EncodedProbe, ...]]:
        """Return slice → its probes."""
        return self._draw(self.kinds, self.items)

    def draw_more(self, names: Sequence[str], times: int) -> dict[str, tuple[EncodedProbe, ...]]:
        """Return slice → the probes beyond those of `draw` that make up `times` as many items.

        Slices that have no more different ones are left out.
        """
        kinds = [kind for kind in self.kinds if kind.name in names]
        first, all_of_them = self._draw(kinds, self.items), self._draw(kinds, times * self.items)
        added = {name: probes[len(first[name]) :] for name, probes in all_of_them.items()}
        return {name: probes for name, probes in added.items() if probes}

    def _draw(self, kinds: Sequence[SliceKind], items: int) -> dict[str, tuple[EncodedProbe, ...]]:
        purpose = Purpose.VERDICT
        return build_slices(self.tokenizer, purpose, self.seed, items, kinds, self.longest)


def list_ordinary_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of all tokens that stand for text, ascending."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return sorted(set(tokenizer.get_vocab().values()) - special)


def _can_be_drawn(kind: SliceKind, tokenizer: Tokenizer, vocabulary: Sequence[int]) -> bool:
    if kind.needs_vocabulary and not vocabulary:
        return False
    return not kind.needs_chat or bool(tokenizer.chat_template)


def _find_unknown(tokenizer: Tokenizer) -> int | None:
    """Return the id that stands for characters without a token; None where there is none.

    A tokenizer that knows every byte may name a token it also begins or ends texts with.
    """
    unknown: int | None = tokenizer.unk_token_id
    return None if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id) else unknown


def _can_be_asked(probe: EncodedProbe, longest: int | None, unknown: int | None) -> bool:
    ids = probe.sample.token_ids
    is_short = longest is None or len(ids) <= longest
    return is_short and any(probe.spans) and unknown not in ids


def _build(
    kind: SliceKind, tokenizer: Tokenizer, source: Source, items: int
) -> tuple[EncodedProbe, ...]:
    count = -(-items // kind.items)
    drawn: dict[Probe, None] = {}
    for _ in range(count * DRAWS_A_PROBE):
        if len(drawn) < count:
            drawn[kind.draw(source)] = None
    return tuple(encode_probe(tokenizer, probe) for probe in drawn)
