"""Splitting prompts by hash into tuning and held-out; near-duplicates are on the same side."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from workers.words import list_words

NEAR_DUPLICATE_JACCARD = 0.6
"""Two prompts are near-duplicates if the Jaccard index of their character trigrams is at least
this. Chosen by hand."""

_SHINGLE = 3


def split_by_hash(texts: Sequence[str], tune_share: float) -> list[bool]:
    """Return, for each text, whether it belongs to the tuning split; the others are held out.

    The side depends only on the text's group of near-duplicates, not on the order or a seed, so a
    prompt stays held out when others are added. The expected share of groups in the tuning split
    is `tune_share`.
    """
    groups = group_near_duplicates(texts)
    smallest: dict[int, str] = {}
    for group, text in zip(groups, texts, strict=True):
        digest = hashlib.sha256(_normalise(text).encode()).hexdigest()
        smallest[group] = min(smallest.get(group, digest), digest)
    return [int(smallest[group][:8], 16) / 2**32 < tune_share for group in groups]


def group_near_duplicates(texts: Sequence[str]) -> list[int]:
    """Return a group number for each text; near-duplicates share it, as do chains of them."""
    shingles = [_shingles(text) for text in texts]
    parents = list(range(len(texts)))
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for index, own in enumerate(shingles):
        shared = Counter(other for shingle in own for other in holders[shingle])
        for other, common in shared.items():
            union = len(own) + len(shingles[other]) - common
            if common / union >= NEAR_DUPLICATE_JACCARD:
                parents[_root(parents, index)] = _root(parents, other)
        for shingle in own:
            holders[shingle].append(index)
    return [_root(parents, index) for index in range(len(texts))]


def describe_alike(texts: Sequence[str]) -> str:
    """Return a note on how many groups the texts form; empty if no two are near-duplicates."""
    groups = len(set(group_near_duplicates(texts)))
    if groups == len(texts):
        return ""
    return f" ({groups} when near-duplicates, which stay together, count as one)"


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _normalise(text: str) -> str:
    """Return the words alone; signs of a script without blanks are one each, and so are paired."""
    return " ".join(list_words(text))


def _shingles(text: str) -> frozenset[str]:
    padded = f" {_normalise(text)} "
    return frozenset(padded[start : start + _SHINGLE] for start in range(len(padded) - 2))
