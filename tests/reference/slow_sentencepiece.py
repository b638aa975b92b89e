"""SentencePiece's BPE from vocabulary and scores alone, one merge at a time.

As the algorithm is described for `llama` vocabularies in GGUF: user-defined pieces are taken out
whole, what is left is merged pair by pair, the pair that makes the piece of the highest score
first, the leftmost of equals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

SPACE = "▁"
USER_DEFINED = 4


class SlowSentencePiece:
    """A tokenizer without a beginning, prefix or template."""

    def __init__(
        self, pieces: Sequence[str], scores: Sequence[float], types: Sequence[int]
    ) -> None:
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        self._scores = scores
        whole = [piece for piece, kind in zip(pieces, types, strict=True) if kind == USER_DEFINED]
        whole.sort(key=len, reverse=True)
        self._whole = re.compile("(" + "|".join(map(re.escape, whole)) + ")")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = []
        for place, part in enumerate(self._whole.split(text)):
            if place % 2:
                ids.append(self._ids[part])
            else:
                ids += self._merge(list(part.replace(" ", SPACE)))
        return ids

    def _merge(self, symbols: list[str]) -> list[int]:
        while True:
            pairs = [
                (self._scores[number], -place)
                for place, pair in enumerate(pairwise(symbols))
                if (number := self._ids.get("".join(pair))) is not None
            ]
            if not pairs:
                break
            place = -max(pairs)[1]
            symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
        return [number for symbol in symbols for number in self._spell(symbol)]

    def _spell(self, symbol: str) -> list[int]:
        if symbol in self._ids:
            return [self._ids[symbol]]
        return [self._ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
